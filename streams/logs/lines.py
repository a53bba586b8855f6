"""Reads files in blocks of whole lines.

    file --unpack--> chunks of bytes --LineBuffer--> N lines, N lines, ..., the rest

A block is always the next N lines of the file, so the blocks depend only on the file and N. Memory: one block and a
few MiB; of a line longer than `MAX_LINE_BYTES` about that many bytes are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from streams.errors import InputError
from streams.logs.chunks import UNPACKING_ERRORS, CountedFile, unpack

__all__ = ["MAX_LINE_BYTES", "LineBlock", "LineBuffer", "LineFile"]

MAX_LINE_BYTES = 1 << 16
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # of UTF-8, as Excel writes it
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


class LineFile:
    """One file of lines, read once from its start.

    Args:
        file: the open file.
    """

    def __init__(self, file: CountedFile) -> None:
        self._file = file
        self._chunks = unpack(file)
        self._head: bytes | None = None
        self._next_line = 1
        self._buffer = LineBuffer()

    @property
    def bytes_read(self) -> int:
        """Bytes read so far of the file as stored, compressed if the file is."""
        return self._file.bytes_read

    def peek(self) -> bytes:
        """The first bytes of the text, which are still to be read, without a byte order mark; nothing if it is empty.

        Raises:
            InputError: the file cannot be read, is damaged, or is no text of one byte a character.
        """
        if self._head is None:
            with self._reading():
                self._head = next((chunk for chunk in self._chunks if chunk), b"").removeprefix(_BYTE_ORDER_MARK)
        if self._head.startswith(_UTF16):
            raise InputError(
                f"{self._file.where}: is UTF-16, expected UTF-8; convert it with: iconv -f UTF-16 -t UTF-8"
            )
        return self._head

    def blocks(self, num_lines: int, *, header_lines: int = 0) -> Iterator[LineBlock]:
        """The file's lines in blocks of `num_lines`; the last one may be shorter.

        Args:
            num_lines: lines per block, at least 1.
            header_lines: if not 0, the first block has so many lines.

        Raises:
            InputError: the file cannot be read, or is damaged or truncated; the complete blocks before the damage have
                been yielded.
        """
        size = header_lines or num_lines
        with self._reading():
            for chunk in chain([self.peek()], self._chunks):
                self._buffer.feed(chunk)
                while (data := self._buffer.take(size)) is not None:
                    yield LineBlock.split(data, self._next_line)
                    self._next_line += size
                    size = num_lines
        if data := self._buffer.take_rest():
            yield LineBlock.split(data, self._next_line)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except UNPACKING_ERRORS as error:
            raise InputError(
                f"{self._file.where}: damaged or cut off after line {self._next_line + self._buffer.num_lines - 1} "
                f"({error}); nothing from line {self._next_line} on was used; fetch the file again"
            ) from error
