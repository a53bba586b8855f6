"""What a client library cannot decode is a record that says so; the records around it are read."""

from __future__ import annotations

import gzip
import os
import struct
from collections.abc import Callable
from typing import Any

import crc32c
import numpy as np
import pyarrow as pa
import pytest
import zstandard
from aiokafka.consumer import fetcher as async_fetcher
from aiokafka.record.default_records import DefaultRecordBatch as AsyncBatch
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords as AsyncRecords
from aiokafka.structs import TopicPartition as AsyncPartition
from kafka import TopicPartition
from kafka.producer.producer_batch import ProducerBatch
from kafka.record.default_records import DefaultRecordBatch
from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder
from test_records_mutations import mutate

from streams.clients import async_consumers, compiled_records, kafka_clients
from streams.clients.compression import CODECS, unpack
from streams.clients.record_batches import MAX_BATCH_BYTES, ReadableRecords
from streams.records import BadRecord, decode_clicks, write_letter

NUM_MUTATIONS = int(os.environ.get("HOTSTREAM_MUTATIONS", "300"))
NAME = b"name-to-break"


def make_batch(num_records: int = 3, base: int = 10) -> bytes:
    """An uncompressed batch of Kafka's format 2, whose second record has a header with the name `NAME`."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 20)
    for number in range(num_records):
        headers = [(NAME.decode(), b"x"), ("null", None)] if number == 1 else [("h", b"y")]
        assert builder.append(number, 1000 + number, b"k%d" % number, b"v%d" % number, headers)
    return with_base(bytes(builder.build()), base)


def with_base(batch: bytes, base: int) -> bytes:
    return struct.pack(">q", base) + batch[8:]


def with_checksum(batch: bytes) -> bytes:
    return batch[:17] + struct.pack(">I", crc32c.crc32c(batch[21:])) + batch[21:]


def compress(batch: bytes, codec: int, body: bytes | None = None) -> bytes:
    body = PACK[codec](batch[61:] if body is None else body)
    packed = batch[:8] + struct.pack(">i", 61 - 12 + len(body)) + batch[12:21] + struct.pack(">h", codec) + batch[23:61]
    return with_checksum(packed + body)


def pack_xerial(body: bytes) -> bytes:
    block = pa.compress(body, codec="snappy", asbytes=True)
    return b"\x82SNAPPY\x00" + struct.pack(">ii", 1, 1) + struct.pack(">i", len(block)) + block


def pack_lz4(body: bytes) -> bytes:
    return pa.compress(body, codec="lz4", asbytes=True)


PACK: dict[int, Callable[[bytes], bytes]] = {
    1: gzip.compress, 2: pack_xerial, 3: pack_lz4, 4: zstandard.ZstdCompressor().compress,
}  # fmt: skip


def read_with_kafka_python(data: bytes, start: int = 0) -> list[Any]:
    partition = TopicPartition("t", 0)
    records = compiled_records.PartitionRecords(start, partition, MemoryRecords(data))
    read = []
    while records:
        read += records.take(2)
    return read


def read_with_aiokafka(data: bytes, start: int = 0) -> list[Any]:
    async_consumers.read_all_async_records()
    return list(
        async_fetcher.PartitionRecords(
            AsyncPartition("t", 0), async_fetcher.MemoryRecords(data), None, start, None, None, True, 0
        )
    )


CLIENTS = pytest.mark.parametrize("read", [read_with_kafka_python, read_with_aiokafka])


def describe(records: list[Any]) -> list[tuple[int, Any, Any]]:
    return [(record.offset, record.key, record.value) for record in records]


ALL = [(10, b"k0", b"v0"), (11, b"k1", b"v1"), (12, b"k2", b"v2")]


@CLIENTS
@pytest.mark.parametrize("codec", [0, *CODECS])
def test_batches_of_every_codec_are_read(read, codec):
    batch = make_batch()
    data = (batch if codec == 0 else compress(batch, codec)) + with_base(batch, 13)
    records = read(data)
    assert describe(records)[:3] == ALL
    assert [record.offset for record in records] == [10, 11, 12, 13, 14, 15]
    assert list(records[1].headers) == [(NAME.decode(), b"x"), ("null", None)]
    assert [record.timestamp for record in records[:3]] == [1000, 1001, 1002]
    assert [record.offset for record in read(data, 12)] == [12, 13, 14, 15]


@CLIENTS
def test_raw_snappy_is_read(read):
    batch = make_batch()
    raw = pa.compress(batch[61:], codec="snappy", asbytes=True)
    packed = batch[:8] + struct.pack(">i", 49 + len(raw)) + batch[12:21] + struct.pack(">h", 2) + batch[23:61] + raw
    assert describe(read(with_checksum(packed))) == ALL


@CLIENTS
@pytest.mark.parametrize("codec", [0, 4])
def test_a_header_name_that_is_not_utf8_makes_only_its_record_bad(read, codec):
    body = make_batch()[61:].replace(NAME, b"\xff" + NAME[1:])
    batch = make_batch()[:61] + body
    batch = with_checksum(batch) if codec == 0 else compress(make_batch(), codec, body)
    records = read(batch + with_base(make_batch(), 13))
    assert describe(records)[:3] == ALL
    assert len(records) == 6
    bad = decode_clicks(records[1].value, list(records[1].headers))
    assert isinstance(bad, BadRecord)
    assert "utf-8" in bad.reason
    assert "dlq-unreadable" not in dict(records[0].headers) | dict(records[2].headers)
    letter = write_letter(records[1], error="BadRecord", message=bad.reason, time_ms=0)
    assert (letter.key, letter.value) == (b"k1", b"v1")
    assert letter.headers[:2] == [(r"\xffame-to-break", b"x"), ("null", None)]


@CLIENTS
@pytest.mark.parametrize("codec", CODECS)
def test_a_batch_that_unpacks_to_too_much_is_one_bad_record(read, codec):
    bomb = compress(make_batch(), codec, bytes(MAX_BATCH_BYTES + 1))
    assert len(bomb) < 2 << 20
    records = read(bomb + with_base(make_batch(), 13))
    assert [record.offset for record in records] == [12, 13, 14, 15]
    bad = decode_clicks(records[0].value, list(records[0].headers))
    assert isinstance(bad, BadRecord)
    assert "batch of 3 records from offset 10" in bad.reason
    assert f"more than {MAX_BATCH_BYTES} bytes" in bad.reason
    assert records[0].value == bomb


@CLIENTS
@pytest.mark.parametrize("codec", [1, 2, 3, 4, 5, 7])
def test_a_batch_that_cannot_be_unpacked_is_one_bad_record(read, codec):
    plain = make_batch()
    damaged = with_checksum(plain[:21] + struct.pack(">h", codec) + plain[23:])
    records = read(damaged + with_base(make_batch(), 13))
    assert [record.offset for record in records] == [12, 13, 14, 15]
    assert isinstance(decode_clicks(records[0].value, list(records[0].headers)), BadRecord)


@CLIENTS
def test_a_batch_that_claims_more_records_or_other_lengths_hides_no_other_batch(read):
    batch = make_batch()
    for broken in (
        batch[:57] + struct.pack(">i", 1 << 30) + batch[61:],
        batch[:61] + b"\xff" * 9 + batch[70:],
        batch[:61] + b"\x00" + batch[62:],
        batch[:-1] + b"\xff",
    ):
        records = read(with_checksum(broken) + with_base(make_batch(), 13))
        assert [record.offset for record in records][-3:] == [13, 14, 15]
        assert all(10 <= record.offset <= 12 for record in records[:-3])


@CLIENTS
@pytest.mark.parametrize("codec", [0, *CODECS])
def test_mutated_batches_never_raise_and_never_stop_the_reader(read, codec):
    random = np.random.default_rng(codec)
    for _ in range(NUM_MUTATIONS // 3):
        body = mutate(random, make_batch()[61:])
        packed = body if codec == 0 else body if random.integers(0, 2) else PACK[codec](body)
        head = make_batch()[:61]
        batch = head[:8] + struct.pack(">i", 49 + len(packed)) + head[12:21] + struct.pack(">h", codec) + head[23:61]
        records = read(with_checksum(batch + packed) + with_base(make_batch(), 13))
        assert [record.offset for record in records][-3:] == [13, 14, 15]


@pytest.mark.parametrize(("batch", "records"), [(DefaultRecordBatch, MemoryRecords), (AsyncBatch, AsyncRecords)])
def test_a_batch_that_the_fetch_cuts_off_is_left_out(batch, records):
    data = make_batch() + make_batch()[:-1]
    readable = ReadableRecords(data, batch, records)
    assert readable.size_in_bytes() == len(data)
    assert len(list(readable.next_batch())) == 3
    assert not readable.has_next()
    assert readable.next_batch() is None


def unpack_some(codec: int, data: bytes) -> int:
    try:
        return len(unpack(codec, data, 5 << 20))
    except ValueError:
        return 0


@pytest.mark.parametrize("codec", CODECS)
def test_unpacking_stops_at_the_bound(codec):
    data = PACK[codec](bytes(5 << 20))
    assert unpack(codec, data, 5 << 20) == bytes(5 << 20)
    with pytest.raises(ValueError, match="more than"):
        unpack(codec, data, (5 << 20) - 1)
    assert unpack_some(codec, data[: len(data) // 2]) < 5 << 20
    assert unpack_some(codec, data[:3]) == 0
    assert unpack_some(codec, b"") == 0


def test_a_producer_of_kafka_python_sends_null_headers():
    sent = [("a", None), ("b", b""), ("c", b"x")]
    marked = kafka_clients.mark_nulls(sent)
    assert all(isinstance(value, bytes) for _, value in marked)  # kafka-python demands it before it serializes
    assert kafka_clients.NullSerializer().serialize("t", marked, kafka_clients.NULL_VALUE) is None
    assert marked == sent
    assert kafka_clients.NullSerializer().serialize("t", [], b"") == b""
    records = MemoryRecordsBuilder(2, 0, 1 << 20)
    assert ProducerBatch(TopicPartition("t", 0), records, now=0).try_append(0, None, None, marked, now=0)
    records.close()
    [record] = read_with_kafka_python(bytes(records.buffer()))
    assert (record.key, record.value, list(record.headers)) == (None, None, sent)
