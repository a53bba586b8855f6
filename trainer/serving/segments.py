"""Files in shared memory, `hotstream.NAME` and `hotstream.NAME.N`, which one process writes and others map.

    hotstream.NAME      int64: format, number of the tables' segment, number of the dense part's; locked by the writer
    hotstream.NAME.N    length of the JSON, JSON {meta, arrays: name -> [dtype, shape, start]}, then the arrays

A segment is complete before the header names it. The kernel drops the lock when the writer ends, however it ends, so
that a reader can tell; unlike a process number it cannot become another process's.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import platform
import re
import struct
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.errors import ReplicaError

__all__ = ["DENSE", "TABLES", "Header", "Segment", "remove_segments", "segment_path", "write_segment"]

_FOLDER = Path("/dev/shm")  # noqa: S108  files of this user alone, see `_open`
_FORMAT, _HEADER_WORDS = 1, 8
_ENLARGE = f"enlarge {_FOLDER} (docker run --shm-size)"
_LARGEST = 1 << 40  # number of a segment: they grow by one, so that a larger one is not of a writer
_LOCK = "hhqqi4x"  # struct flock of a 64-bit Linux
_ALIGNED = 64
TABLES, DENSE = 1, 2


def _path(name: str) -> Path:
    """The header's path.

    Raises:
        ReplicaError: the name is not one, or this machine is none for it.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", name):
        raise ReplicaError(f"shared name: got {name!r}, expected 1 to 100 of A-Z a-z 0-9 _ -")
    if platform.machine() != "x86_64" or not _FOLDER.is_dir():
        # Readers rely on loads, and on stores, being seen in the order of the program, which ARM does not promise.
        raise ReplicaError(f"shared rows: got {platform.machine()}, expected Linux on x86_64 with {_FOLDER}")
    return _FOLDER / f"hotstream.{name}"


def segment_path(name: str, number: int) -> Path:
    """The path of a segment."""
    return _path(name).with_name(f"hotstream.{name}.{number}")


def remove_segments(name: str, keep: set[int]) -> int:
    """Removes the segments of a name but these; returns the largest number of a segment that was there.

    What another user has put there stays; its number counts, so that it is not taken again.
    """
    numbers = [0]
    for path in _FOLDER.glob(f"hotstream.{name}.*"):
        if (number := path.suffix[1:]).isdecimal():
            numbers.append(int(number) if int(number) <= _LARGEST else 0)
            if int(number) not in keep:
                with suppress(PermissionError, IsADirectoryError):
                    path.unlink(missing_ok=True)
    return max(numbers)


def _open(path: Path, flags: int) -> int:
    """Opens a file of this user.

    Raises:
        ReplicaError: it belongs to another user, or cannot be opened.
        FileNotFoundError: it is not there.
    """
    try:
        file = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ReplicaError(f"{path}: cannot be opened ({error}); does it belong to another user?") from error
    if os.fstat(file).st_uid != os.geteuid():
        os.close(file)
        raise ReplicaError(f"{path}: belongs to another user")
    return file


class _Mapped:
    """Memory of a file, which numpy takes for writable, as compiled kernels are of one type of array.

    A write through a mapping of a reader is a segmentation fault, not another process's wrong vector.
    """

    def __init__(self, memory: mmap.mmap) -> None:
        self.memory = memory  # numpy keeps this object, which keeps the mapping
        address = np.frombuffer(memory, np.uint8).ctypes.data
        self.__array_interface__ = {"version": 3, "data": (address, False), "shape": (len(memory),), "typestr": "|u1"}


def _map(file: int, *, writes: bool) -> npt.NDArray[np.uint8]:
    access = mmap.PROT_READ | (mmap.PROT_WRITE if writes else 0)
    return np.asarray(_Mapped(mmap.mmap(file, os.fstat(file).st_size, mmap.MAP_SHARED, access)))


class Header:
    """The header of a name.

    Args:
        name: the name.
        writes: to write it, as the only one.

    Attributes:
        words: (8,) int64.

    Raises:
        ReplicaError: another process writes it; or there is none to read, it is another version's or another user's, or
            it does not fit.
    """

    def __init__(self, name: str, *, writes: bool) -> None:
        self.name, self.path, self._file, self._writes = name, _path(name), -1, writes
        while not self._open(writes=writes):  # its writer removed it meanwhile
            os.close(self._file)
        if writes:
            self._reserve()
        self.words = _map(self._file, writes=writes).view(np.int64)
        if writes and self.words[0] == 0:
            self.words[0] = _FORMAT
        if self.words[0] != _FORMAT:
            self.close()
            raise ReplicaError(
                f"{self.path}: got format {self.words[0]}, expected {_FORMAT}; run one version of hotstream"
            )

    def _open(self, *, writes: bool) -> bool:
        """Opens, and as a writer locks, the file; returns whether it is still the one of that name."""
        try:
            self._file = _open(self.path, os.O_RDWR | os.O_CREAT if writes else os.O_RDONLY)
        except FileNotFoundError as error:
            raise ReplicaError(f"{self.path}: no replica shares its rows by that name; start one") from error
        if writes:
            try:
                fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, struct.pack(_LOCK, fcntl.F_WRLCK, 0, 0, 0, 0))
            except BlockingIOError as error:
                os.close(self._file)
                raise ReplicaError(f"{self.path}: another process shares its rows by that name") from error
        elif os.fstat(self._file).st_size < 8 * _HEADER_WORDS:
            os.close(self._file)
            raise ReplicaError(f"{self.path}: its writer is just starting; try again")
        return self.is_current

    def _reserve(self) -> None:
        """Gives the header its size; one that is new and does not fit is removed."""
        try:
            os.posix_fallocate(self._file, 0, 8 * _HEADER_WORDS)
        except OSError as error:
            if os.fstat(self._file).st_size < 8 * _HEADER_WORDS:
                self.path.unlink(missing_ok=True)
            self.close()
            raise ReplicaError(f"{self.path}: does not fit ({error}); {_ENLARGE}") from error

    @property
    def is_current(self) -> bool:
        """Whether this file still has the name."""
        try:
            return self.path.stat().st_ino == os.fstat(self._file).st_ino
        except FileNotFoundError:
            return False

    @property
    def has_writer(self) -> bool:
        """Whether a process holds the writer's lock."""
        found = fcntl.fcntl(self._file, fcntl.F_OFD_GETLK, struct.pack(_LOCK, fcntl.F_RDLCK, 0, 0, 0, 0))
        return bool(struct.unpack(_LOCK, found)[0] != fcntl.F_UNLCK)

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._file < 0

    def close(self) -> None:
        """Gives up the file, and the writer's lock."""
        if self._file >= 0:
            if self._writes:  # `mmap` holds a copy of the descriptor, and the lock is that of all copies
                fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, struct.pack(_LOCK, fcntl.F_UNLCK, 0, 0, 0, 0))
            os.close(self._file)
            self._file = -1


class Segment:
    """A segment in memory.

    Attributes:
        meta: what was stored beside the arrays.
        arrays: by name.
    """

    def __init__(self, memory: npt.NDArray[np.uint8]) -> None:
        size = int(memory[:8].view(np.int64)[0])
        content = json.loads(memory[8 : 8 + size].tobytes())
        self.meta: Any = content["meta"]
        self.arrays: dict[str, npt.NDArray[Any]] = {
            name: np.ndarray(shape, np.dtype(dtype), memory, start)
            for name, (dtype, shape, start) in content["arrays"].items()
        }

    @classmethod
    def read(cls, path: Path) -> Segment:
        """Maps a segment, to read it.

        Raises:
            FileNotFoundError: the writer has replaced it.
        """
        file = _open(path, os.O_RDONLY)
        try:
            return cls(_map(file, writes=False))
        finally:
            os.close(file)


def write_segment(path: Path, meta: Any, arrays: Mapping[str, npt.NDArray[Any]]) -> Segment:
    """Writes a new segment, and maps it, to write its arrays.

    Raises:
        ReplicaError: there is too little shared memory, or another file has the name.
    """
    start, listed = 1 << 16, dict[str, Any]()
    for name, array in arrays.items():
        listed[name] = [array.dtype.str, array.shape, start]
        start += -(-array.nbytes // _ALIGNED) * _ALIGNED
    head = json.dumps({"meta": meta, "arrays": listed}).encode()
    if len(head) + 8 > 1 << 16:
        raise ReplicaError(f"{path}: a description of {len(head)} bytes, expected less than {1 << 16}")
    file = _open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        os.posix_fallocate(file, 0, start)  # else a full file system would be a bus error at the first write
        memory = _map(file, writes=True)
    except OSError as error:
        path.unlink()
        raise ReplicaError(f"{path}: {start} bytes do not fit ({error}); {_ENLARGE}") from error
    finally:
        os.close(file)
    memory[8 : 8 + len(head)] = np.frombuffer(head, np.uint8)
    memory[:8].view(np.int64)[0] = len(head)
    segment = Segment(memory)
    for name, array in arrays.items():
        segment.arrays[name][...] = array
    return segment
