"""Record batches that never raise: what a client library cannot decode becomes a record that says so.

kafka-python and aiokafka decode a fetch while the caller iterates over it. Both raise at a header whose name is not
UTF-8, at a codec whose library is missing and at damaged bytes, again at every call and after every restart, and both
unpack a batch whatever its size. `ReadableRecords` has the interface of their `MemoryRecords` and

- unpacks batches itself, up to `MAX_BATCH_BYTES`, so no codec needs another library;
- yields for each record that does not decode an `UnreadableRecord` of the same offset, with key, value and headers as
  far as they can be read, and the header `dlq-unreadable`, which every decoder of `streams.records` refuses;
- yields one such record for a batch that cannot be unpacked or split; its value is the start of the batch.

So the caller counts and dead-letters it like any other bad record, and the records around it are read.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from streams.clients.compression import unpack
from streams.records.headers import MAX_RECORD_BYTES, UNREADABLE

__all__ = ["MAX_BATCH_BYTES", "ReadableRecords", "UnreadableRecord"]

MAX_BATCH_BYTES = 32 << 20  # unpacked
_LOG_OVERHEAD = struct.Struct(">qi")  # base offset, length of the rest
_HEADER = struct.Struct(">qiibIhiqqqhii")  # up to the number of records
_ATTRIBUTES = struct.Struct(">h")
_ATTRIBUTES_AT, _MAGIC_AT = 21, 16
_CODEC_MASK = 0x07
_MAX_HEADERS = 10_000


@dataclass(frozen=True, kw_only=True)
class UnreadableRecord:
    """A record of a client library's interface, for one that the library cannot decode."""

    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]] = field(default_factory=list)
    checksum: int | None = None

    @property
    def size_in_bytes(self) -> int:
        """About the size of the record."""
        return len(self.key or b"") + len(self.value or b"")

    def validate_crc(self) -> bool:
        """True: the batch's checksum covers the record."""
        return True


class ReadableRecords:
    """The batches of one fetch of one partition; has the interface of both libraries' `MemoryRecords`.

    Args:
        data: the bytes of the fetch; a last batch that is cut off is left out.
        make_batch: the library's `DefaultRecordBatch`, which takes the bytes of one batch.
        make_records: the library's `MemoryRecords`, for batches of the formats before Kafka 0.11.
    """

    def __init__(self, data: Any, make_batch: Callable[[bytes], Any], make_records: Callable[[bytes], Any]) -> None:
        self._data = memoryview(data)
        self._make_batch, self._make_records = make_batch, make_records
        self._position = 0

    def size_in_bytes(self) -> int:
        """The number of bytes of the fetch."""
        return len(self._data)

    def _next_end(self) -> int | None:
        rest = len(self._data) - self._position
        if rest < _LOG_OVERHEAD.size:
            return None
        _, length = _LOG_OVERHEAD.unpack_from(self._data, self._position)
        end = self._position + _LOG_OVERHEAD.size + length
        return end if length > 0 and end <= len(self._data) else None

    def has_next(self) -> bool:
        """Whether there is another whole batch."""
        return self._next_end() is not None

    def next_batch(self) -> Any:
        """The next batch; None at the end."""
        end = self._next_end()
        if end is None:
            return None
        raw = bytes(self._data[self._position : end])
        self._position = end
        if len(raw) < _HEADER.size or raw[_MAGIC_AT] < 2:
            return self._make_records(raw).next_batch()
        return _ReadableBatch(raw, self._make_batch)


class _ReadableBatch:
    """One batch: the library's, but for its iteration."""

    def __init__(self, raw: bytes, make_batch: Callable[[bytes], Any]) -> None:
        self._raw, self._make_batch = raw, make_batch
        self._batch = make_batch(raw)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        (attributes,) = _ATTRIBUTES.unpack_from(self._raw, _ATTRIBUTES_AT)
        codec = attributes & _CODEC_MASK
        try:
            plain = self._raw if codec == 0 else self._unpacked(attributes, codec)
        except (ValueError, MemoryError) as error:
            yield self._unreadable_batch(str(error))
            return
        num_read = 0
        try:
            for record in self._batch if codec == 0 else self._make_batch(plain):
                yield record
                num_read += 1
            return
        # The libraries document no errors; each of these was seen: CorruptRecordError (both), UnicodeDecodeError,
        # IndexError, OverflowError, struct.error, MemoryError. A caller's error cannot arrive here.
        except Exception as error:  # noqa: BLE001
            reason = f"{type(error).__name__}: {error}"
        yield from self._read_singly(plain, num_read, reason)

    def _unpacked(self, attributes: int, codec: int) -> bytes:
        """The same batch without compression; its checksum is that of the original."""
        body = unpack(codec, self._raw[_HEADER.size :], MAX_BATCH_BYTES)
        header = bytearray(self._raw[: _HEADER.size])
        _ATTRIBUTES.pack_into(header, _ATTRIBUTES_AT, attributes & ~_CODEC_MASK)
        return bytes(header) + body

    def _unreadable_batch(self, reason: str, *, num_read: int = 0) -> UnreadableRecord:
        base, count = _HEADER.unpack_from(self._raw)[0], _HEADER.unpack_from(self._raw)[12]
        text = f"batch of {count} records from offset {base}, from record {num_read} on: {reason}"
        return UnreadableRecord(
            offset=self._batch.next_offset - 1,
            timestamp=self._batch.max_timestamp,
            timestamp_type=self._batch.timestamp_type or 0,
            key=None,
            value=self._raw[:MAX_RECORD_BYTES],
            headers=[(UNREADABLE, text.encode("utf-8", "backslashreplace"))],
        )

    def _read_singly(self, plain: bytes, num_read: int, reason: str) -> Iterator[UnreadableRecord]:
        """The records behind the first `num_read`, decoded one by one, and each that cannot be as unreadable.

        A record begins with its length, so a malformed one does not hide the next. Where the lengths are malformed,
        one record stands for the rest of the batch.
        """
        position, number = _HEADER.size, 0
        count = _HEADER.unpack_from(plain)[12]
        while number < count and position < len(plain):
            try:
                length, start = _varint(plain, position)
            except IndexError:
                length = -1
            if not 0 < length <= len(plain) - start:
                yield self._unreadable_batch(reason, num_read=number)
                return
            if number >= num_read:
                yield self._read_record(plain[start : start + length], reason)
            position, number = start + length, number + 1

    def _read_record(self, raw: bytes, reason: str) -> UnreadableRecord:
        base, first_ms = _HEADER.unpack_from(self._raw)[0], _HEADER.unpack_from(self._raw)[7]
        offset_delta = time_delta_ms = 0
        key: bytes | None = None
        value: bytes | None = raw[:MAX_RECORD_BYTES]
        headers: list[tuple[str, bytes | None]] = []
        try:
            time_delta_ms, position = _varint(raw, 1)
            offset_delta, position = _varint(raw, position)
            key, position = _bytes(raw, position)
            whole, position = _bytes(raw, position)
            headers, is_readable = _headers(raw, position)
            value = whole
        except (IndexError, ValueError) as error:
            reason, is_readable = str(error) or reason, False
        if not is_readable:
            headers = [*headers, (UNREADABLE, reason.encode("utf-8", "backslashreplace"))]
        return UnreadableRecord(
            offset=min(max(base + offset_delta, base), self._batch.next_offset - 1),
            timestamp=first_ms + time_delta_ms,
            timestamp_type=self._batch.timestamp_type or 0,
            key=key,
            value=value,
            headers=headers,
        )


def _varint(raw: bytes, position: int) -> tuple[int, int]:
    """A zigzag varint of at most 64 bits, and the position behind it.

    Raises:
        IndexError: the bytes end, or the number has more bits.
    """
    number = shift = 0
    while True:
        byte = raw[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1), position
        shift += 7
        if shift > 63:
            raise IndexError("a varint of more than 64 bits")


def _bytes(raw: bytes, position: int) -> tuple[bytes | None, int]:
    """Bytes behind their length, None for length -1, and the position behind them.

    Raises:
        IndexError: the bytes end.
    """
    length, position = _varint(raw, position)
    if length < 0:
        return None, position
    if length > len(raw) - position:
        raise IndexError(f"a length of {length} bytes, expected at most {len(raw) - position}")
    return raw[position : position + length], position + length


def _headers(raw: bytes, position: int) -> tuple[list[tuple[str, bytes | None]], bool]:
    """The headers, and whether all names are UTF-8; other bytes of a name are escaped.

    Raises:
        IndexError: the bytes end.
        ValueError: there are too many.
    """
    count, position = _varint(raw, position)
    if not 0 <= count <= _MAX_HEADERS:
        raise ValueError(f"{count} headers, expected 0 to {_MAX_HEADERS}")
    headers, is_readable = [], True
    for _ in range(count):
        name, position = _bytes(raw, position)
        content, position = _bytes(raw, position)
        text = (name or b"").decode("utf-8", "backslashreplace")
        is_readable &= name is not None and text.encode("utf-8", "surrogatepass") == name
        headers.append((text, content))
    if position != len(raw):
        raise ValueError(f"{len(raw) - position} bytes behind the last header")
    return headers, is_readable
