"""`PartitionRecords`: kafka-python's records of one fetch, decoded by the compiled code of aiokafka.

kafka-python decodes a record in Python, which costs a reader of small records, such as assignments, more than all that
it does with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aiokafka.record.default_records import DefaultRecordBatch as CompiledBatch
from kafka.consumer.fetcher import Fetcher
from kafka.record.default_records import DefaultRecord, DefaultRecordBatch
from kafka.record.memory_records import MemoryRecords

from streams.clients.record_batches import ReadableRecords

__all__ = ["PartitionRecords"]


class _Batch(DefaultRecordBatch):
    """kafka-python's batch, but for the iteration over its records; it gets no compressed ones to iterate over."""

    def __init__(self, raw: bytes) -> None:
        super().__init__(raw)
        self._raw = raw

    def __iter__(self) -> Iterator[Any]:
        for record in CompiledBatch(self._raw):
            key, value = record.key, record.value
            size = len(key or b"") + len(value or b"")  # nobody needs that of the headers
            yield DefaultRecord(
                size, record.offset, record.timestamp, record.timestamp_type, key, value, record.headers
            )


class PartitionRecords(Fetcher.PartitionRecords):
    """kafka-python's records of one fetch, read by `ReadableRecords`."""

    def _unpack_records(self, tp: Any, records: Any, *deserializers: Any) -> Any:
        raw = records._buffer  # noqa: SLF001  the bytes of the fetch, of which nothing has been read
        return super()._unpack_records(tp, ReadableRecords(raw, _Batch, MemoryRecords), *deserializers)
