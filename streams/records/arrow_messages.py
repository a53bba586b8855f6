"""Bounds what an Arrow IPC stream takes unpacked, before pyarrow unpacks it.

The buffers of a compressed batch begin with their unpacked size, an int64 (-1: not compressed). pyarrow allocates that
much at once, so a record of a few kilobytes could claim all memory. The sizes are found by the batch's metadata, a
flatbuffer (Arrow's `Message.fbs`), of which only these members are read:

    Message.header -> RecordBatch (or DictionaryBatch.data -> RecordBatch) -> buffers, compression
"""

from __future__ import annotations

import struct

import pyarrow as pa

__all__ = ["MAX_UNPACKED_BYTES", "check_unpacked_bytes"]

MAX_UNPACKED_BYTES = 32 << 20
_MAX_MESSAGES = 1024
_MESSAGE_HEADER, _DICTIONARY_DATA, _BUFFERS, _COMPRESSION = 2, 1, 2, 3  # numbers of members in their tables
_BUFFER = struct.Struct("<qq")  # offset and length in the message's body


def check_unpacked_bytes(value: bytes) -> None:
    """Checks the sizes that a stream's compressed buffers claim.

    Raises:
        ValueError: they are over `MAX_UNPACKED_BYTES` in total, or there are too many messages.
        pa.ArrowException: a message is malformed.
        struct.error: a message's metadata is malformed.
    """
    total = 0
    messages = pa.ipc.MessageReader.open_stream(pa.py_buffer(value))
    for _ in range(_MAX_MESSAGES):
        try:
            message = messages.read_next_message()
        except StopIteration:
            return
        if message.type in ("record batch", "dictionary"):
            total += _unpacked_bytes(message)
        if total > MAX_UNPACKED_BYTES:
            raise ValueError(f"{total} bytes unpacked, expected at most {MAX_UNPACKED_BYTES}")
    raise ValueError(f"more than {_MAX_MESSAGES} Arrow messages, expected a schema and one record batch")


def _unpacked_bytes(message: pa.Message) -> int:
    """The unpacked size of a batch's compressed buffers; 0 if it is not compressed."""
    metadata, body = message.metadata.to_pybytes(), memoryview(message.body or b"")
    root = struct.unpack_from("<I", metadata)[0]
    batch = _table(metadata, root, _MESSAGE_HEADER)
    if batch is not None and message.type == "dictionary":
        batch = _table(metadata, batch, _DICTIONARY_DATA)
    if batch is None or _member(metadata, batch, _COMPRESSION) is None:
        return 0
    buffers = _table(metadata, batch, _BUFFERS)
    if buffers is None:
        return 0
    (count,) = struct.unpack_from("<I", metadata, buffers)
    listed = metadata[buffers + 4 : buffers + 4 + count * _BUFFER.size]
    sizes = [
        struct.unpack_from("<q", body, offset)[0]
        for offset, length in _BUFFER.iter_unpack(listed)
        if length >= 8 and 0 <= offset <= len(body) - 8
    ]
    return sum(size for size in sizes if size > 0)


def _member(metadata: bytes, table: int, number: int) -> int | None:
    """The position of a member of a table; None if it is absent."""
    vtable = table - struct.unpack_from("<i", metadata, table)[0]
    (vtable_bytes,) = struct.unpack_from("<H", metadata, vtable)
    if 4 + 2 * number >= vtable_bytes:
        return None
    (offset,) = struct.unpack_from("<H", metadata, vtable + 4 + 2 * number)
    return table + offset if offset else None


def _table(metadata: bytes, table: int, number: int) -> int | None:
    """The position of the table or vector that a member refers to; None if it is absent."""
    position = _member(metadata, table, number)
    return None if position is None else position + struct.unpack_from("<I", metadata, position)[0]
