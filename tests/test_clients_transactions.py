"""Records of aborted transactions are skipped by every kind of consumer, and the end of a topic is still found."""

from __future__ import annotations

import asyncio

import pytest
from kafka import KafkaProducer

from streams.broker import BrokerProcess
from streams.clients.admin import create_topics
from streams.clients.config import KafkaConfig
from streams.clients.partition_reader import fetch_partition, open_partition_log
from streams.clients.topic_reader import TopicReader
from streams.topics import Topics


@pytest.fixture
def kafka(apache_broker: BrokerProcess, topic_prefix: str) -> KafkaConfig:
    """A clicks topic with a committed record, two aborted ones, and the markers of both transactions."""
    config = KafkaConfig(bootstrap_servers=apache_broker.bootstrap_servers, prefix=topic_prefix)
    topics = Topics(topic_prefix)
    create_topics(config, [spec for spec in topics.specs(click_partitions=1, shards=1) if spec.name == topics.clicks])
    producer = KafkaProducer(bootstrap_servers=config.servers, transactional_id=topic_prefix)
    producer.init_transactions()
    producer.begin_transaction()
    producer.send(topics.clicks, b"committed")
    producer.commit_transaction()
    producer.begin_transaction()
    for _ in range(2):
        producer.send(topics.clicks, b"aborted")
    producer.flush()
    producer.abort_transaction()
    producer.close()
    return config


def read(config: KafkaConfig) -> list[bytes]:
    values = []
    with TopicReader(config, Topics(config.prefix).clicks) as reader:
        while not reader.is_at_end():
            values += [record.value for record in reader.poll().get(0, [])]
    return values


async def read_async(config: KafkaConfig) -> list[bytes]:
    fetches = fetch_partition(config, Topics(config.prefix).clicks, 0)
    return [record.value async for records in fetches for record in records]


@pytest.mark.broker
def test_records_of_aborted_transactions_are_skipped_and_the_end_is_found(kafka):
    assert read(kafka) == [b"committed"]
    assert asyncio.run(read_async(kafka)) == [b"committed"]
    with open_partition_log(kafka) as log:
        assert log.all_bounds(Topics(kafka.prefix).clicks, 1) == [(0, 5)]
        newest = log.newest_first(Topics(kafka.prefix).clicks, 0, window=1)
        assert [record.value for record in newest] == [b"committed"]
    every = KafkaConfig(bootstrap_servers=kafka.bootstrap_servers, prefix=kafka.prefix,
                        properties={"isolation.level": "read_uncommitted"})  # fmt: skip
    assert sorted(read(every)) == sorted(asyncio.run(read_async(every))) == [b"aborted"] * 2 + [b"committed"]
