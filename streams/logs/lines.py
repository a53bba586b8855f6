"""Reads files in blocks of whole lines: plain, gzip or zstd, recognized by their first bytes.

    file --read--> compressed bytes --decode--> bytes --LineBuffer--> N lines, N lines, ..., the rest

A block is always the next N lines of the file, so the blocks depend only on the file and N. Memory: one block and a
few MiB; of a line longer than `MAX_LINE_BYTES` about that many bytes are kept.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from streams.errors import InputError

__all__ = ["MAX_LINE_BYTES", "LineBlock", "LineBuffer", "LineFile"]

MAX_LINE_BYTES = 1 << 16
_CHUNK_BYTES = 1 << 20
_ZSTD_CHUNK_BYTES = 1 << 16  # when it meets damage, Arrow discards what a read has unpacked
_COMPRESSED_CHUNK_BYTES = 1 << 17
_GZIP, _ZSTD, _SKIPPABLE = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x2a\x4d\x18"
_NEWLINE, _RETURN = 10, 13


@dataclass(frozen=True, kw_only=True)
class LineBlock:
    r"""L consecutive lines of a file.

    Attributes:
        first_line: the number of the first line; a file's first line is 1.
        data: the whole lines, with their line breaks.
        starts: (L,) int64, the offset in `data` of each line's first byte.
        ends: (L,) int64, the offset behind each line's last byte; `\n` or `\r\n` is not part of a line.
    """

    first_line: int
    data: bytes
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]

    @classmethod
    def split(cls, data: bytes, first_line: int) -> LineBlock:
        """The lines of `data`; the last one may lack its line break."""
        raw = np.frombuffer(data, np.uint8)
        ends = np.flatnonzero(raw == _NEWLINE)
        if data and data[-1] != _NEWLINE:
            ends = np.append(ends, len(data))
        starts = np.concatenate([np.zeros(min(1, len(ends)), np.int64), ends[:-1] + 1])
        has_return = (ends > starts) & (raw[np.maximum(ends - 1, 0)] == _RETURN) if len(ends) else ends.astype(bool)
        return cls(first_line=first_line, data=data, starts=starts, ends=ends - has_return)

    @property
    def num_lines(self) -> int:
        """The number of lines, L."""
        return len(self.starts)

    @property
    def last_line(self) -> int:
        """The number of the last line."""
        return self.first_line + self.num_lines - 1

    def line(self, position: int) -> bytes:
        """The bytes of the line at an index from 0."""
        return self.data[self.starts[position] : self.ends[position]]


class LineBuffer:
    """Collects chunks of bytes and returns them as blocks of whole lines."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._ends = np.empty(0, np.int64)  # offsets of the newlines in _data
        self._num_taken = self._start = 0  # lines and bytes at the start of both that were returned
        self._is_dropping = False

    @property
    def num_lines(self) -> int:
        """The number of whole lines in the buffer."""
        return len(self._ends) - self._num_taken

    def feed(self, chunk: bytes) -> None:
        """Appends a chunk; drops the bytes of a line beyond `MAX_LINE_BYTES` + 1."""
        if self._is_dropping:
            end = chunk.find(b"\n")
            if end < 0:
                return
            chunk = chunk[end:]
            self._is_dropping = False
        self._drop_taken()
        found = np.flatnonzero(np.frombuffer(chunk, np.uint8) == _NEWLINE)
        self._ends = np.concatenate([self._ends, found + len(self._data)])
        self._data += chunk
        tail_bytes = len(self._data) - (int(self._ends[-1]) + 1 if len(self._ends) else 0)
        if tail_bytes > MAX_LINE_BYTES + 1:
            del self._data[MAX_LINE_BYTES + 1 - tail_bytes :]
            self._is_dropping = True

    def _drop_taken(self) -> None:
        """Only here, once a chunk: after every `take` it would cost as much as all lines of the chunk."""
        self._ends = self._ends[self._num_taken :] - self._start
        del self._data[: self._start]
        self._num_taken = self._start = 0

    def take(self, num_lines: int) -> bytes | None:
        """Removes and returns the next `num_lines` lines; None if the buffer holds fewer."""
        if self.num_lines < num_lines:
            return None
        self._num_taken += num_lines
        return self._cut(int(self._ends[self._num_taken - 1]) + 1)

    def take_rest(self) -> bytes:
        """Removes and returns all remaining bytes, at the end of the file."""
        self._num_taken = len(self._ends)
        return self._cut(len(self._data))

    def _cut(self, end: int) -> bytes:
        with memoryview(self._data) as view:
            taken = bytes(view[self._start : end])
        self._start = end
        return taken


def _is_zstd(magic: bytes) -> bool:
    """Whether a file begins with a zstd frame, or with a skippable frame, as files of pzstd do."""
    return magic == _ZSTD or (magic[1:] == _SKIPPABLE and magic[0] >> 4 == 5)


class LineFile:
    """One file of lines, read once from its start.

    Attributes:
        bytes_read: bytes read so far of the file on disk, compressed if the file is.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.bytes_read = 0

    def blocks(self, num_lines: int, *, skip_lines: int = 0) -> Iterator[LineBlock]:
        """The file's lines in blocks of `num_lines`; the last one may be shorter.

        Args:
            num_lines: lines per block, at least 1.
            skip_lines: lines at the start of the file that are numbered, but not part of a block.

        Raises:
            InputError: the file cannot be read, or is damaged or truncated; the complete blocks before the damage have
                been yielded.
        """
        buffer, next_line = LineBuffer(), 1
        try:
            for chunk in self._chunks():
                buffer.feed(chunk)
                while (data := buffer.take(skip_lines if next_line <= skip_lines else num_lines)) is not None:
                    if next_line > skip_lines:
                        yield LineBlock.split(data, next_line)
                    next_line += skip_lines if next_line <= skip_lines else num_lines
        except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
            raise InputError(
                f"{self._path}: damaged or cut off after line {next_line + buffer.num_lines - 1} ({error}); nothing "
                f"from line {next_line} on was used; fetch the file again"
            ) from error
        if next_line > skip_lines and (data := buffer.take_rest()):
            yield LineBlock.split(data, next_line)

    def _chunks(self) -> Iterator[bytes]:
        """The file's bytes, unpacked, in chunks of at most 1 MiB, however much the compressed bytes unpack to."""
        with self._path.open("rb") as file:
            magic = file.read(4)
            file.seek(0)
            if magic.startswith(_GZIP):
                yield from self._gzip_chunks(file)
            elif _is_zstd(magic):
                yield from self._zstd_chunks(file)
            else:
                while chunk := self._read(file, _CHUNK_BYTES):
                    yield chunk

    def _gzip_chunks(self, file: BinaryIO) -> Iterator[bytes]:
        member, rest = zlib.decompressobj(wbits=31), b""
        while True:
            rest = rest or self._read(file, _COMPRESSED_CHUNK_BYTES)
            if member.eof:
                rest = rest.lstrip(b"\0")  # gzip may be padded with zeros
                if not rest and not (rest := self._read(file, _COMPRESSED_CHUNK_BYTES)):
                    return
                if rest.startswith(b"\0"):
                    continue
                member = zlib.decompressobj(wbits=31)
            chunk = member.decompress(rest, _CHUNK_BYTES)
            if not rest and not chunk and not member.eof:
                raise EOFError("the compressed data ends too early")
            yield chunk
            rest = member.unused_data if member.eof else member.unconsumed_tail

    def _zstd_chunks(self, file: BinaryIO) -> Iterator[bytes]:
        # zstandard's decompressobj has no bound, and its stream_reader does not notice that a file is cut off.
        counted = pa.PythonFile(_Counted(lambda num_bytes: self._read(file, num_bytes)), "r")
        with pa.CompressedInputStream(counted, "zstd") as stream:
            unpacked = bytearray()
            try:
                while chunk := stream.read(_ZSTD_CHUNK_BYTES):
                    unpacked += chunk
                    if len(unpacked) >= _CHUNK_BYTES:
                        yield bytes(unpacked)
                        unpacked.clear()
            except (OSError, pa.ArrowException):
                yield bytes(unpacked)  # the lines before the damage
                raise
            yield bytes(unpacked)

    def _read(self, file: BinaryIO, num_bytes: int) -> bytes:
        chunk = file.read(num_bytes)
        self.bytes_read += len(chunk)
        return chunk


class _Counted:
    """The part of a file's interface that Arrow reads from."""

    closed = False

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self.read = read

    def close(self) -> None:
        self.closed = True
