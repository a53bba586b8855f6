"""Finds logs: files, folders and patterns of part files, standard input (`-`), and object stores.

A folder gives its files in the order of their paths, those of its subfolders included; names that begin with `_` or `.`
(`_SUCCESS`, `_metadata`, `.part.crc`) are no logs. `s3://`, `gs://` and `hdfs://` are opened by Arrow, every other
`scheme://` by fsspec, if it is installed (the extra `remote`).
"""

from __future__ import annotations

import fnmatch
import posixpath
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import pyarrow as pa
import pyarrow.fs

from streams.errors import ConfigError, InputError

__all__ = ["LocalFile", "LogFile", "RemoteFile", "StandardInput", "find_logs"]

_PATTERN = frozenset("*?[")
_HIDDEN = ("_", ".")
_SECRET = "@"  # separates a user and a password from the rest of a URI


class LogFile(Protocol):
    """A log that can be opened.

    Attributes:
        where: the whole path, for messages.
        name: the last part of the path.
        size_bytes: its size as stored; 0 if it is not known.
    """

    @property
    def where(self) -> str: ...  # noqa: D102
    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def size_bytes(self) -> int: ...  # noqa: D102

    def open(self) -> BinaryIO:
        """Opens it for reading from its start.

        Raises:
            OSError: it cannot be read.
        """

    def open_for_arrow(self) -> Any:
        """What `pyarrow.parquet.ParquetFile` reads.

        Raises:
            OSError: it cannot be read.
        """


@dataclass(frozen=True)
class LocalFile:
    """A file of this machine."""

    path: Path

    @property
    def where(self) -> str:
        """The path."""
        return str(self.path)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.name

    @property
    def size_bytes(self) -> int:
        """Its size."""
        return self.path.stat().st_size

    def open(self) -> BinaryIO:
        """Opens it."""
        return self.path.open("rb")

    def open_for_arrow(self) -> Any:
        """Its path."""
        return self.path


@dataclass(frozen=True)
class RemoteFile:
    """A file of an object store.

    Args:
        where: the URI, without a password.
        filesystem: a `pyarrow.fs.FileSystem`.
        path: the path in it.
        size_bytes: its size.
    """

    where: str
    filesystem: Any
    path: str
    size_bytes: int

    @property
    def name(self) -> str:
        """The last part of the path."""
        return posixpath.basename(self.path)

    def open(self) -> BinaryIO:
        """Opens it."""
        return cast("BinaryIO", self.filesystem.open_input_file(self.path))

    def open_for_arrow(self) -> Any:
        """Opens it."""
        return self.filesystem.open_input_file(self.path)


@dataclass
class StandardInput:
    """Standard input, which can be read once."""

    where: str = "standard input"
    name: str = "-"
    size_bytes: int = 0
    _is_read: bool = field(default=False, init=False)

    def open(self) -> BinaryIO:
        """Opens it.

        Raises:
            InputError: it was opened before.
        """
        if self._is_read:
            raise InputError("standard input: can be read once only; name a file, or send the input again")
        self._is_read = True
        return sys.stdin.buffer

    def open_for_arrow(self) -> Any:
        """Refuses.

        Raises:
            InputError: Parquet cannot be read from a stream.
        """
        raise InputError("standard input: holds Parquet, which is read from its end; write it to a file first")


def find_logs(paths: Sequence[str | Path]) -> tuple[LogFile, ...]:
    """The logs that paths name, in the order given, those of a folder or a pattern in the order of their paths.

    Raises:
        ConfigError: a path names no file.
        InputError: a folder or an object store cannot be listed.
    """
    return tuple(file for path in paths for file in _find(path))


def _find(path: str | Path) -> list[LogFile]:
    if path == "-" or (isinstance(path, Path) and str(path) == "-"):
        return [StandardInput()]
    if isinstance(path, str) and "://" in path:
        return list(_Store(path).find())
    return list(_find_local(Path(path)))


def _find_local(path: Path) -> list[LocalFile]:
    if path.is_dir():
        found = [file for file in sorted(path.rglob("*")) if file.is_file() and not _is_hidden(file.relative_to(path))]
        if not found:
            raise ConfigError(f"{path}: no file in this folder, expected at least one click log; name another folder")
        return [LocalFile(file) for file in found]
    if path.exists():
        return [LocalFile(path)]
    found = _matches(path) if _PATTERN & set(str(path)) else []
    if not found:
        raise ConfigError(f"{path}: no such file; name a click log")
    return [LocalFile(file) for file in found]


def _matches(path: Path) -> list[Path]:
    """The files that match a pattern."""
    start = Path(path.anchor)
    return sorted(file for file in start.glob(str(path.relative_to(start))) if file.is_file())


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(_HIDDEN) for part in path.parts)


class _Store:
    """The object store that a URI names."""

    def __init__(self, uri: str) -> None:
        scheme, _, rest = uri.partition("://")
        self._uri = f"{scheme}://{rest.rpartition(_SECRET)[2]}"
        pattern = next((part for part in rest.split("/") if _PATTERN & set(part)), None)
        self._pattern = None if pattern is None else rest[rest.index(pattern) :]
        self._is_root = rest if pattern is None else rest[: rest.index(pattern)].rstrip("/")
        self._opened = f"{scheme}://{self._is_root}"
        self._scheme = scheme

    @cached_property
    def _root(self) -> tuple[Any, str]:
        """The file system, and the path in it."""
        try:
            return cast("tuple[Any, str]", pa.fs.FileSystem.from_uri(self._opened))
        except pa.ArrowInvalid:
            return self._by_fsspec()
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{self._uri}: cannot be opened ({error}); check the address and the rights") from error

    def _by_fsspec(self) -> tuple[Any, str]:
        try:
            import fsspec  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise ConfigError(
                f"{self._uri}: Arrow does not know {self._scheme}://; install the extra: pip install "
                "'hotstream[remote]'"
            ) from error
        try:
            filesystem, path = fsspec.core.url_to_fs(self._opened)
        except (ImportError, ValueError, OSError) as error:
            raise ConfigError(f"{self._uri}: cannot be opened ({error}); install what fsspec names") from error
        return pa.fs.PyFileSystem(pa.fs.FSSpecHandler(filesystem)), path

    def find(self) -> list[RemoteFile]:
        """The files, in the order of their paths."""
        filesystem, root = self._root
        try:
            info = filesystem.get_file_info(root)
            if info.type == pa.fs.FileType.File:
                listed = [info]
            elif info.type == pa.fs.FileType.Directory:
                listed = filesystem.get_file_info(pa.fs.FileSelector(root, recursive=True))
            else:
                listed = []
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{self._uri}: cannot be listed ({error}); check the address and the rights") from error
        found = sorted((one for one in listed if self._is_wanted(one, root)), key=lambda one: one.path)
        if not found:
            raise ConfigError(f"{self._uri}: no such file; name a click log")
        return [RemoteFile(f"{self._scheme}://{one.path}", filesystem, one.path, one.size or 0) for one in found]

    def _is_wanted(self, info: Any, root: str) -> bool:
        inner = info.path.removeprefix(root).lstrip("/")
        if info.type != pa.fs.FileType.File or _is_hidden(Path(inner)):
            return False
        return self._pattern is None or fnmatch.fnmatchcase(inner, self._pattern)
