"""Unpacks a file in chunks: plain, gzip, bzip2, xz, zstd, lz4, or the one file of a zip archive, by its first bytes.

Every chunk is bounded, however much a few compressed bytes unpack to.
"""

from __future__ import annotations

import bz2
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, BinaryIO

import pyarrow as pa

from streams.errors import InputError

__all__ = ["UNPACKING_ERRORS", "CountedFile", "unpack"]

UNPACKING_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException, zipfile.BadZipFile)
_CHUNK_BYTES = 1 << 20
_ARROW_CHUNK_BYTES = 1 << 16  # when it meets damage, Arrow discards what a read has unpacked
_COMPRESSED_CHUNK_BYTES = 1 << 17
_GZIP, _BZIP2, _XZ, _ZIP = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"PK\x03\x04"
_ZSTD, _SKIPPABLE, _LZ4 = b"\x28\xb5\x2f\xfd", b"\x2a\x4d\x18", b"\x04\x22\x4d\x18"


class CountedFile:
    """A file that is read from its start.

    Args:
        raw: the open file.
        where: its name, for messages.

    Attributes:
        bytes_read: bytes read so far.
    """

    closed = False

    def __init__(self, raw: BinaryIO, where: str) -> None:
        self.raw, self.where = raw, where
        self.bytes_read = 0
        self._head = b""

    def peek(self, num_bytes: int) -> bytes:
        """The first bytes, which are still to be read."""
        if not self.bytes_read:
            self._head += self.raw.read(num_bytes - len(self._head))
        return self._head

    def read(self, num_bytes: int) -> bytes:
        """Some bytes; fewer only at the end of the file."""
        chunk, self._head = self._head[:num_bytes], self._head[num_bytes:]
        if len(chunk) < num_bytes:
            chunk += self.raw.read(num_bytes - len(chunk))
        self.bytes_read += len(chunk)
        return chunk

    def close(self) -> None:
        """Does nothing: who opened the file closes it. Arrow requires the method."""


def unpack(file: CountedFile) -> Iterator[bytes]:
    """The file's bytes, unpacked, in chunks of at most 1 MiB.

    Raises:
        InputError: the file is a zip archive of several files, or cannot be read backwards, as an archive must.
        Exception: one of `UNPACKING_ERRORS`, if it is damaged; what was unpacked before the damage has been yielded.
    """
    magic = file.peek(8)
    if magic.startswith(_GZIP):
        return _unpack_gzip(file)
    if magic.startswith(_BZIP2):
        return _unpack_members(file, bz2.BZ2Decompressor)
    if magic.startswith(_XZ):
        return _unpack_members(file, lzma.LZMADecompressor)
    if magic.startswith(_ZIP):
        return _unpack_zip(file)
    if magic.startswith(_LZ4):
        return _unpack_by_arrow(file, "lz4")
    if magic.startswith(_ZSTD) or (magic[1:4] == _SKIPPABLE and magic[0] >> 4 == 5):  # files of pzstd begin so
        return _unpack_by_arrow(file, "zstd")
    return iter(lambda: file.read(_CHUNK_BYTES), b"")


def _unpack_gzip(file: CountedFile) -> Iterator[bytes]:
    member, rest = zlib.decompressobj(wbits=31), b""
    while True:
        rest = rest or file.read(_COMPRESSED_CHUNK_BYTES)
        if member.eof:
            rest = rest.lstrip(b"\0")  # gzip may be padded with zeros
            if not rest and not (rest := file.read(_COMPRESSED_CHUNK_BYTES)):
                return
            if rest.startswith(b"\0"):
                continue
            member = zlib.decompressobj(wbits=31)
        chunk = member.decompress(rest, _CHUNK_BYTES)
        if not rest and not chunk and not member.eof:
            raise EOFError("the compressed data ends too early")
        yield chunk
        rest = member.unused_data if member.eof else member.unconsumed_tail


def _unpack_members(file: CountedFile, make_member: Callable[[], Any]) -> Iterator[bytes]:
    """Unpacks bzip2 and xz: one member after the other; xz may be padded with zeros."""
    member, rest = make_member(), b""
    while True:
        if member.eof:
            rest = member.unused_data.lstrip(b"\0")
            while not rest:
                if not (read := file.read(_COMPRESSED_CHUNK_BYTES)):
                    return
                rest = read.lstrip(b"\0")
            member = make_member()
        elif member.needs_input and not (rest := file.read(_COMPRESSED_CHUNK_BYTES)):
            raise EOFError("the compressed data ends too early")
        yield member.decompress(rest, _CHUNK_BYTES)
        rest = b""


def _unpack_by_arrow(file: CountedFile, codec: str) -> Iterator[bytes]:
    # zstandard's decompressobj has no bound, and its stream_reader does not notice that a file is cut off.
    with pa.CompressedInputStream(pa.PythonFile(file, "r"), codec) as stream:
        unpacked = bytearray()
        try:
            while chunk := stream.read(_ARROW_CHUNK_BYTES):
                unpacked += chunk
                if len(unpacked) >= _CHUNK_BYTES:
                    yield bytes(unpacked)
                    unpacked.clear()
        except (OSError, pa.ArrowException):
            yield bytes(unpacked)  # the lines before the damage
            raise
        yield bytes(unpacked)


def _unpack_zip(file: CountedFile) -> Iterator[bytes]:
    if not file.raw.seekable():
        raise InputError(f"{file.where}: a zip archive, which is read from its end; write it to a file first")
    with zipfile.ZipFile(file.raw) as archive:
        names = [one for one in archive.namelist() if not one.endswith("/") and not one.startswith("__MACOSX/")]
        if len(names) != 1:
            raise InputError(
                f"{file.where}: a zip archive of {len(names)} files, expected one; unpack it, name its files"
            )
        with _open_member(archive, names[0]) as member:
            while chunk := member.read(_CHUNK_BYTES):
                file.bytes_read = file.raw.tell()
                yield chunk
        file.bytes_read = file.raw.seek(0, io.SEEK_END)


def _open_member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    try:
        return archive.open(name)
    except (NotImplementedError, RuntimeError) as error:  # an unknown method; a password
        raise zipfile.BadZipFile(str(error)) from error
