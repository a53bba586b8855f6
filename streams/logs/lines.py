"""Reads files in blocks of whole lines: plain, gzip or zstd, recognized by their first bytes.

    file --read--> compressed bytes --decode--> bytes --LineBuffer--> N lines, N lines, ..., the rest

A block is always the next N lines of the file, so the blocks depend only on the file and N. Memory: one block and a
few MiB; of a line longer than `MAX_LINE_BYTES` about that many bytes are kept.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import numpy.typing as npt
import zstandard

from streams.errors import InputError

__all__ = ["MAX_LINE_BYTES", "LineBlock", "LineBuffer", "LineFile"]

MAX_LINE_BYTES = 1 << 16
_PLAIN_CHUNK_BYTES = 1 << 20
_COMPRESSED_CHUNK_BYTES = 1 << 17
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
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
        self._is_dropping = False

    @property
    def num_lines(self) -> int:
        """The number of whole lines in the buffer."""
        return len(self._ends)

    def feed(self, chunk: bytes) -> None:
        """Appends a chunk; drops the bytes of a line beyond `MAX_LINE_BYTES` + 1."""
        if self._is_dropping:
            end = chunk.find(b"\n")
            if end < 0:
                return
            chunk = chunk[end:]
            self._is_dropping = False
        found = np.flatnonzero(np.frombuffer(chunk, np.uint8) == _NEWLINE)
        self._ends = np.concatenate([self._ends, found + len(self._data)])
        self._data += chunk
        tail_bytes = len(self._data) - (int(self._ends[-1]) + 1 if len(self._ends) else 0)
        if tail_bytes > MAX_LINE_BYTES + 1:
            del self._data[MAX_LINE_BYTES + 1 - tail_bytes :]
            self._is_dropping = True

    def take(self, num_lines: int) -> bytes | None:
        """Removes and returns the next `num_lines` lines; None if the buffer holds fewer."""
        if len(self._ends) < num_lines:
            return None
        end = int(self._ends[num_lines - 1]) + 1
        self._ends = self._ends[num_lines:] - end
        return self._cut(end)

    def take_rest(self) -> bytes:
        """Removes and returns all remaining bytes, at the end of the file."""
        self._ends = self._ends[:0]
        return self._cut(len(self._data))

    def _cut(self, end: int) -> bytes:
        with memoryview(self._data) as view:
            taken = bytes(view[:end])
        del self._data[:end]
        return taken


class _Decoder(Protocol):
    """The interface that the decompressors of zlib and zstandard share."""

    @property
    def eof(self) -> bool:
        """Whether the decoder has reached the end of the member or frame."""

    @property
    def unused_data(self) -> bytes:
        """The input behind the end of the member or frame."""

    def decompress(self, data: bytes, /) -> bytes:
        """The decompressed bytes of the next input."""


def _decoder(magic: bytes) -> _Decoder | None:
    """A decompressor for one gzip member or zstd frame; None for a plain file."""
    if magic.startswith(_GZIP):
        return zlib.decompressobj(wbits=31)
    if magic.startswith(_ZSTD):
        return zstandard.ZstdDecompressor().decompressobj()
    return None


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
        except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
            raise InputError(
                f"{self._path}: damaged or cut off after line {next_line + buffer.num_lines - 1} ({error}); nothing "
                f"from line {next_line} on was used; fetch the file again"
            ) from error
        if next_line > skip_lines and (data := buffer.take_rest()):
            yield LineBlock.split(data, next_line)

    def _chunks(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            magic = file.read(4)
            file.seek(0)
            decoder = _decoder(magic)
            if decoder is None:
                while chunk := self._read(file, _PLAIN_CHUNK_BYTES):
                    yield chunk
                return
            while chunk := self._read(file, _COMPRESSED_CHUNK_BYTES):
                while chunk:
                    if decoder.eof:
                        chunk = chunk.lstrip(b"\0")  # gzip may be padded with zeros
                        if not chunk:
                            break
                        decoder = _decoder(magic) or decoder  # the next member or frame
                    yield decoder.decompress(chunk)
                    chunk = decoder.unused_data if decoder.eof else b""
            if not decoder.eof:
                raise EOFError("the compressed data ends too early")

    def _read(self, file: BinaryIO, num_bytes: int) -> bytes:
        chunk = file.read(num_bytes)
        self.bytes_read += len(chunk)
        return chunk
