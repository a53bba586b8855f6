"""Transactions: readers get committed records only, one producer at a time has an id, in memory as on Apache Kafka."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

import pytest
from kafka import KafkaProducer, TopicPartition
from kafka.producer.record_accumulator import RecordAccumulator
from kafka.producer.sender import Sender
from kafka.producer.transaction_manager import TransactionManager

from streams.broker import BrokerProcess
from streams.clients.admin import create_topics
from streams.clients.config import KafkaConfig
from streams.clients.connector import Connector
from streams.clients.in_memory import InMemoryBroker
from streams.clients.kafka_clients import NetClient
from streams.clients.partition_reader import fetch_partition, open_partition_log
from streams.clients.producer import RecordProducer
from streams.clients.topic_reader import TopicReader
from streams.clients.transactions import TransactionalProducer
from streams.errors import BrokerError, TransactionLostError
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
    assert sorted(read(every)) == [b"aborted"] * 2 + [b"committed"]  # followed as they come
    assert asyncio.run(read_async(every)) == [b"committed"]  # read to the end
    with open_partition_log(every) as log:
        topic = Topics(every.prefix).clicks
        assert [record.value for record in log.read(topic, 0, *log.bounds(topic, 0))] == [b"committed"]


# ---- our own producer ------------------------------------------------------------------------------------------------


@pytest.fixture(params=["in memory", pytest.param("apache", marks=pytest.mark.broker)])
def connector(request: pytest.FixtureRequest, topic_prefix: str) -> Connector:
    topics = Topics(topic_prefix)
    connector: Connector = InMemoryBroker(prefix=topic_prefix)
    if request.param == "apache":
        servers = request.getfixturevalue("apache_broker").bootstrap_servers
        connector = KafkaConfig(bootstrap_servers=servers, prefix=topic_prefix)
    create_topics(connector, [spec for spec in topics.specs() if spec.name == topics.clicks])
    return connector


def visible(connector: Connector) -> list[bytes]:
    """The values that a new reader gets before the first record that is not decided."""
    consumer = connector.open_consumer()
    try:
        log = TopicPartition(Topics(connector.prefix).clicks, 0)
        consumer.assign([log])
        end, values = consumer.end_offsets([log])[log], []
        while consumer.position(log) < end:
            values += [record.value for record in consumer.poll(timeout_ms=50).get(log, [])]
        return values
    finally:
        consumer.close()


def send(producer: RecordProducer, connector: Connector, *values: bytes) -> None:
    for value in values:
        producer.send(Topics(connector.prefix).clicks, 0, value, [])
    producer.wait()


def test_readers_get_a_transaction_whole_or_not_at_all(connector):
    with TransactionalProducer(connector, "a") as first, RecordProducer(connector) as plain:
        send(first, connector, b"1", b"2")
        send(plain, connector, b"3")
        assert visible(connector) == []
        assert first.is_open
        first.commit()
        assert not first.is_open
        assert visible(connector) == [b"1", b"2", b"3"]
        first.commit()  # nothing to commit
    with suppress(ZeroDivisionError), TransactionalProducer(connector, "b") as second:
        send(second, connector, b"aborted")
        send(second, connector, b"%d" % (1 // 0))
    with RecordProducer(connector) as plain:
        send(plain, connector, b"4")
    assert visible(connector) == [b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("moment", ["begin", "send", "commit"])
def test_a_second_producer_ends_the_first_whatever_it_does(connector, moment):
    def overlap() -> None:
        with TransactionalProducer(connector, "a") as first:
            send(first, connector, b"committed")
            first.commit()
            if moment != "begin":
                send(first, connector, b"aborted")
            with TransactionalProducer(connector, "a") as second:
                send(second, connector, b"second")
                second.commit()
            if moment != "commit":
                send(first, connector, b"late")
            first.commit()

    with pytest.raises(TransactionLostError):
        overlap()
    assert visible(connector) == [b"committed", b"second"]


def test_producers_with_different_ids_do_not_disturb_each_other(connector):
    with TransactionalProducer(connector, "a") as first, TransactionalProducer(connector, "b") as second:
        send(first, connector, b"1")
        send(second, connector, b"2")
        second.commit()
        assert visible(connector) == []  # behind an open transaction
        first.commit()
    assert visible(connector) == [b"1", b"2"]


def test_a_lost_acknowledgement_of_a_commit_is_found_out_by_the_next_producer():
    for lose, values in (("record", []), ("acknowledgement", [b"1"])):
        broker = InMemoryBroker({"hotstream.clicks": 1})
        producer = TransactionalProducer(broker, "a")
        send(producer, broker, b"1")
        broker.fail_after(0, lose=lose)
        with pytest.raises(BrokerError):
            producer.commit()
        TransactionalProducer(broker, "a")
        assert visible(broker) == values


def test_a_transaction_that_expires_is_aborted_and_its_producer_fenced():
    broker = InMemoryBroker({"hotstream.clicks": 1})
    producer = TransactionalProducer(broker, "a")
    send(producer, broker, b"1")
    broker.transactions.expire()
    with pytest.raises(TransactionLostError):
        producer.commit()
    assert visible(broker) == []
    assert [log.end for log in broker.topics["hotstream.clicks"]] == [2]  # the record and the end of the transaction


def test_compaction_leaves_an_open_transaction_alone():
    broker = InMemoryBroker({"hotstream.clicks": 1})
    with TransactionalProducer(broker, "a") as producer:
        for value in (b"1", b"2"):
            producer.send("hotstream.clicks", 0, value, [], key=b"k")
        broker.compact("hotstream.clicks")
        producer.commit()
        assert visible(broker) == [b"1", b"2"]
    broker.compact("hotstream.clicks")
    assert visible(broker) == [b"2"]


def test_a_request_of_a_transaction_is_kept_while_its_coordinator_does_not_answer():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        net = NetClient(bootstrap_servers=[f"127.0.0.1:{silent.getsockname()[1]}"])
        transactions = TransactionManager("replay", 1000, metadata=net.cluster)
        accumulator = RecordAccumulator(transaction_manager=transactions)
        sender = Sender(net, net.cluster, accumulator, transaction_manager=transactions, request_timeout_ms=100)
        transactions.initialize_transactions()
        transactions._transaction_coordinator = net.cluster.bootstrap_brokers()[0].node_id  # noqa: SLF001
        [(_, _, request)] = transactions._pending_requests  # noqa: SLF001
        sender._maybe_send_pending_request()  # noqa: SLF001
        assert request in [waiting for _, _, waiting in transactions._pending_requests]  # noqa: SLF001
        net.close()
