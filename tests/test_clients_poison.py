"""Poison in a topic of a real broker: every kind of reader gets past it, with one bad record for each."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from test_clients_record_batches import NAME, PACK, compress, make_batch, with_checksum

from streams.broker.process import BrokerProcess
from streams.clients.admin import create_topics
from streams.clients.config import KafkaConfig
from streams.clients.partition_reader import fetch_partition, open_partition_log
from streams.clients.producer import RecordProducer
from streams.clients.record_batches import MAX_BATCH_BYTES
from streams.clients.topic_reader import TopicReader
from streams.records import BadRecord, decode_assignment
from streams.topics import Topics

PLAIN = make_batch()
BAD_NAME = PLAIN[61:].replace(NAME, b"\xff" + NAME[1:])
POISON = [
    with_checksum(PLAIN[:61] + BAD_NAME),
    *(compress(PLAIN, codec, BAD_NAME) for codec in PACK),
    *(compress(PLAIN, codec, bytes(MAX_BATCH_BYTES + 1)) for codec in PACK),
]
NUM_UNREADABLE = 1 + 2 * len(PACK)  # a record of each batch with a bad name, and each of the bombs


async def send(kafka: KafkaConfig, topic: str) -> None:
    """Sends the batches as they are; no client can encode them."""
    producer = kafka.create_batch_producer()
    await producer.start()
    for raw in POISON:
        batch = producer.create_batch()
        batch.append(key=b"k", value=b"v", timestamp=1, headers=[])
        batch.close()
        batch._buffer = bytearray(raw)  # noqa: SLF001
        await (await producer.send_batch(batch, topic, partition=0))
    await producer.stop()


def count_unreadable(records: list[Any]) -> int:
    decoded = [decode_assignment(bytes(8), record.value, list(record.headers)) for record in records]
    assert all(isinstance(bad, BadRecord) for bad in decoded)
    return sum("dlq-unreadable" in dict(record.headers) for record in records)


async def fetch_all(kafka: KafkaConfig, topic: str) -> list[Any]:
    return [record async for records in fetch_partition(kafka, topic, 0) for record in records]


def poll_all(kafka: KafkaConfig, topic: str) -> list[Any]:
    read: list[Any] = []
    with TopicReader(kafka, topic) as reader:
        while not reader.is_at_end():
            read += [record for records in reader.poll().values() for record in records]
    return read


@pytest.mark.broker
def test_no_batch_stops_a_reader(embedded_broker: BrokerProcess, topic_prefix: str) -> None:
    # Apache Kafka unpacks batches itself, and refuses those that hold no records.
    kafka = KafkaConfig(bootstrap_servers=embedded_broker.bootstrap_servers, prefix=topic_prefix)
    topics = Topics(topic_prefix)
    create_topics(kafka, topics.specs(shards=1))
    asyncio.run(send(kafka, topics.importance))
    with RecordProducer(kafka) as producer:
        producer.send(topics.importance, 0, None, [("null", None)])
    with open_partition_log(kafka) as log:
        read = list(log.read(topics.importance, 0, *log.bounds(topics.importance, 0)))
    fetched = asyncio.run(fetch_all(kafka, topics.importance))
    polled = poll_all(kafka, topics.importance)
    for records in (read, fetched, polled):
        assert count_unreadable(records) == NUM_UNREADABLE
        assert [record.offset for record in records] == [record.offset for record in read]
        assert list(records[-1].headers) == [("null", None)]
        assert (records[-1].key, records[-1].value) == (None, None)
