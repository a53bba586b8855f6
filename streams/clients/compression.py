"""Unpacks what Kafka's four codecs packed, never more than a bound, with the libraries that hotstream needs anyway."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import pyarrow as pa
import zstandard

__all__ = ["CODECS", "unpack"]

CODECS = {1: "gzip", 2: "snappy", 3: "lz4", 4: "zstd"}  # by the number in a batch's attributes
_CHUNK_BYTES = 1 << 20
_XERIAL = b"\x82SNAPPY\x00"  # Java's framing of snappy: magic, two versions, then blocks with their lengths
_XERIAL_HEADER_BYTES = 16


def unpack(codec: int, data: bytes, max_bytes: int) -> bytes:
    """The unpacked bytes.

    Args:
        codec: a key of `CODECS`.
        data: the packed bytes.
        max_bytes: the bound; at most a chunk of 1 MiB more is unpacked before it is noticed.

    Raises:
        ValueError: the codec is unknown, the data is damaged, or it unpacks to more than `max_bytes`.
    """
    if codec not in _UNPACK:
        raise ValueError(f"codec {codec}: expected one of {', '.join(CODECS.values())}")
    try:
        return _UNPACK[codec](data, max_bytes)
    except (zlib.error, zstandard.ZstdError, pa.ArrowException, OSError, EOFError, struct.error) as error:
        raise ValueError(f"{CODECS[codec]}: damaged ({error})") from error


def _collect(read: Callable[[], bytes], max_bytes: int) -> bytes:
    unpacked = bytearray()
    while chunk := read():
        unpacked += chunk
        _check(len(unpacked), max_bytes)
    return bytes(unpacked)


def _check(num_bytes: int, max_bytes: int) -> None:
    if num_bytes > max_bytes:
        raise ValueError(f"unpacks to more than {max_bytes} bytes, expected at most as many")


def _unpack_gzip(data: bytes, max_bytes: int) -> bytes:
    unpacked, rest = bytearray(), data
    while rest:
        member = zlib.decompressobj(wbits=31)
        while not member.eof:
            chunk = member.decompress(rest, _CHUNK_BYTES)
            if not chunk and not member.unconsumed_tail and not member.eof:
                raise EOFError("cut off")
            unpacked += chunk
            _check(len(unpacked), max_bytes)
            rest = member.unconsumed_tail
        rest = member.unused_data
    return bytes(unpacked)


def _unpack_zstd(data: bytes, max_bytes: int) -> bytes:
    decompressor = zstandard.ZstdDecompressor(max_window_size=_round_up(max_bytes))
    with decompressor.stream_reader(data, read_across_frames=True) as reader:
        return _collect(lambda: reader.read(_CHUNK_BYTES), max_bytes)


def _round_up(number: int) -> int:
    return 1 << (number - 1).bit_length()


def _unpack_lz4(data: bytes, max_bytes: int) -> bytes:
    with pa.CompressedInputStream(pa.BufferReader(data), "lz4") as stream:
        return _collect(lambda: stream.read(_CHUNK_BYTES), max_bytes)


def _unpack_snappy(data: bytes, max_bytes: int) -> bytes:
    if not data.startswith(_XERIAL):
        return _unpack_raw_snappy(data, max_bytes)
    unpacked, position = bytearray(), _XERIAL_HEADER_BYTES
    while position < len(data):
        (length,) = struct.unpack_from(">i", data, position)
        if not 0 < length <= len(data) - position - 4:
            raise ValueError(f"snappy: a block of {length} bytes, expected 1 to {len(data) - position - 4}")
        block = data[position + 4 : position + 4 + length]
        unpacked += _unpack_raw_snappy(block, max_bytes - len(unpacked))
        position += 4 + length
    return bytes(unpacked)


def _unpack_raw_snappy(block: bytes, max_bytes: int) -> bytes:
    """Unpacks one block, which begins with its unpacked length as a varint."""
    length = shift = 0
    for byte in block[:5]:
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    _check(length, max_bytes)
    return pa.decompress(block, decompressed_size=length, codec="snappy", asbytes=True)


_UNPACK: dict[int, Callable[[bytes, int], bytes]] = {
    1: _unpack_gzip,
    2: _unpack_snappy,
    3: _unpack_lz4,
    4: _unpack_zstd,
}
