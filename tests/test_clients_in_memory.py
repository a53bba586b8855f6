"""The in-memory broker: its clients behave like the real ones, and fail on demand."""

from __future__ import annotations

import asyncio
import doctest
from typing import Any

import pytest
from kafka import TopicPartition
from kafka.errors import KafkaError, OffsetOutOfRangeError

from streams import HotFeatureTable, subscribe
from streams.agent.shard_config import ShardConfig
from streams.clients import in_memory
from streams.clients.admin import create_topics, describe_topics, require_partitions
from streams.clients.config import KafkaConfig
from streams.clients.connector import Connector
from streams.clients.in_memory import CrashError, InMemoryBroker
from streams.clients.partition_reader import fetch_partition
from streams.clients.producer import RecordProducer
from streams.clients.publisher import Publisher
from streams.errors import BrokerError, ConfigError, TopicError
from streams.keys import CRITEO_FIELDS
from streams.records import Assignment, encode_assignment
from streams.topics import Topics, TopicSpec


def test_the_examples_in_the_docstring_pass():
    assert doctest.testmod(in_memory).failed == 0


# ---- equal to the real clients ---------------------------------------------------------------------------------------


@pytest.fixture(params=[pytest.param("embedded", marks=pytest.mark.broker), "in memory"])
def connector(request: pytest.FixtureRequest, topic_prefix: str) -> Connector:
    if request.param == "in memory":
        return InMemoryBroker(prefix=topic_prefix)
    servers = request.getfixturevalue(f"{request.param}_broker").bootstrap_servers
    return KafkaConfig(bootstrap_servers=servers, prefix=topic_prefix)


@pytest.fixture
def topic(connector: Connector) -> str:
    name = f"{connector.prefix}.clicks"
    [state] = create_topics(connector, [TopicSpec(name=name, partitions=2, cleanup="delete")])
    assert (state.created, state.partitions, state.problems) == (True, 2, ())
    return name


def poll_to(consumer: Any, count: int) -> list[Any]:
    """Polls until `count` records have arrived."""
    records: list[Any] = []
    for _ in range(200):
        for fetched in consumer.poll(timeout_ms=50).values():
            records += fetched
        if len(records) >= count:
            break
    return records


def test_topics_are_created_once_and_described(connector: Connector, topic: str):
    spec = TopicSpec(name=topic, partitions=3, cleanup="delete")
    [state] = create_topics(connector, [spec])
    assert not state.created
    assert state.problems[0] == "2 partitions, expected 3"
    [state] = describe_topics(connector, [TopicSpec(name=f"{topic}x", partitions=1, cleanup="delete")])
    assert state.partitions is None
    assert require_partitions(connector, topic) == 2
    with pytest.raises(TopicError, match="is missing"):
        require_partitions(connector, f"{topic}x")


def test_records_come_back_as_they_were_sent(connector: Connector, topic: str):
    sent = [(None, b"a", []), (b"k", None, [("x", b"1"), ("x", b"2")]), (b"", b"", []), (None, None, [("h", b"")])]
    with RecordProducer(connector) as producer:
        for key, value, headers in sent:
            producer.send(topic, 1, value, headers, key=key)
    consumer = connector.open_consumer()
    try:
        consumer.assign([TopicPartition(topic, 1)])
        records = poll_to(consumer, len(sent))
        assert [(record.key, record.value, list(record.headers)) for record in records] == sent
        assert [(record.topic, record.partition, record.offset) for record in records] == [
            (topic, 1, n) for n in range(4)
        ]
        assert all(record.timestamp > 1_600_000_000_000 for record in records)
    finally:
        consumer.close()


def test_batches_come_back_in_order_with_their_timestamps(connector: Connector, topic: str):
    async def publish() -> None:
        publisher = Publisher(connector)
        await publisher.start()
        for number in range(50):
            await publisher.send(topic, number % 2, [(None, b"%d" % number, [])], timestamp_ms=1000 + number)
        await publisher.send(topic, 1, [(None, None, [])], timestamp_ms=2000)
        await publisher.stop()

    asyncio.run(publish())
    consumer = connector.open_consumer()
    try:
        consumer.assign([TopicPartition(topic, 1)])
        records = poll_to(consumer, 26)
        assert [record.value for record in records] == [*(b"%d" % number for number in range(1, 50, 2)), None]
        assert [record.timestamp for record in records] == [*range(1001, 1050, 2), 2000]
    finally:
        consumer.close()


def test_a_coroutine_reads_a_partition_to_its_end(connector: Connector, topic: str):
    async def fetch(start: int) -> list[int]:
        fetches = fetch_partition(connector, topic, 1, start=start)
        return [record.offset async for records in fetches for record in records]

    assert asyncio.run(fetch(0)) == []
    with RecordProducer(connector) as producer:
        for number in range(7):
            producer.send(topic, 1, b"%d" % number, [])
    assert asyncio.run(fetch(0)) == list(range(7))
    assert asyncio.run(fetch(5)) == [5, 6]


def test_positions_ends_and_seeks_are_those_of_a_consumer(connector: Connector, topic: str):
    with RecordProducer(connector) as producer:
        for number in range(5):
            producer.send(topic, 0, b"%d" % number, [])
    first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
    consumer = connector.open_consumer(max_poll_records=3)
    try:
        assert consumer.partitions_for_topic(topic) == {0, 1}
        assert not consumer.partitions_for_topic(f"{topic}x")
        with pytest.raises(Exception, match=r"assigned|assignment"):
            consumer.seek(first, 1)
        consumer.assign([first, second])
        assert consumer.highwater(first) is None
        consumer.seek_to_beginning(first, second)
        assert len(poll_to(consumer, 1)) <= 3
        poll_to(consumer, 2)
        assert consumer.position(first) == 5
        assert consumer.position(second) == 0
        assert consumer.highwater(first) == 5
        assert consumer.beginning_offsets([first, second]) == {first: 0, second: 0}
        consumer.seek(first, 4)
        consumer.assign([first])
        assert consumer.position(first) == 4  # one that stays assigned stands where it stood
        assert [record.offset for record in poll_to(consumer, 1)] == [4]
        consumer.unsubscribe()
        consumer.assign([first])
        assert consumer.highwater(first) is None
    finally:
        consumer.close()


# The embedded broker answers a fetch beyond its end with nothing, which is why `TopicFeed` looks at the ends itself.
@pytest.mark.parametrize("connector", [pytest.param("apache", marks=pytest.mark.broker), "in memory"], indirect=True)
def test_an_offset_that_is_not_there_raises_or_becomes_the_oldest(connector: Connector, topic: str):
    with RecordProducer(connector) as producer:
        producer.send(topic, 0, b"a", [])
    partition = TopicPartition(topic, 0)
    for reset in ("earliest", "none"):
        consumer = connector.open_consumer(auto_offset_reset=reset)
        try:
            consumer.assign([partition])
            consumer.seek(partition, 7)
            if reset == "none":
                with pytest.raises(OffsetOutOfRangeError) as raised:
                    poll_to(consumer, 1)
                assert raised.value.args[0] == {partition: 7}
            else:
                assert [record.offset for record in poll_to(consumer, 1)] == [0]
        finally:
            consumer.close()


# ---- crashes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lose", "stored"), [("record", [b"0", b"1"]), ("acknowledgement", [b"0", b"1", b"2"])])
def test_a_failure_ends_all_open_clients_and_none_that_is_opened_later(lose, stored):
    broker = InMemoryBroker({"t": 1})
    broker.fail_after(2, lose=lose)
    consumer = broker.open_consumer()
    consumer.assign([TopicPartition("t", 0)])
    producer = RecordProducer(broker, max_in_flight=1)
    for number in range(3):
        producer.send("t", 0, b"%d" % number, [])
    with pytest.raises(BrokerError, match="not acknowledged"):
        producer.send("t", 0, b"3", [])
    assert [record.value for record in broker.records("t")] == stored
    assert not broker.is_fault_due
    for call in (consumer.poll, lambda: consumer.position(TopicPartition("t", 0))):
        with pytest.raises(CrashError):
            call()
    with RecordProducer(broker) as producer:
        producer.send("t", 0, b"later", [])
    assert broker.records("t")[-1].value == b"later"


def test_a_request_is_stored_twice_on_demand():
    broker = InMemoryBroker({"t": 1})
    broker.store_twice_after(1)
    with RecordProducer(broker) as producer:
        for number in range(3):
            producer.send("t", 0, b"%d" % number, [])
    assert [record.value for record in broker.records("t")] == [b"0", b"1", b"1", b"2"]
    assert [record.offset for record in broker.records("t")] == [0, 1, 2, 3]
    assert broker.num_sent == 3


def test_a_batch_is_stored_whole_or_not_at_all():
    broker = InMemoryBroker({"t": 1}, max_batch_records=2)
    broker.fail_after(3)

    async def publish() -> None:
        publisher = Publisher(broker)
        await publisher.start()
        await publisher.send("t", 0, [(None, b"%d" % number, []) for number in range(6)], timestamp_ms=1)
        await publisher.stop()

    with pytest.raises(CrashError):
        asyncio.run(publish())
    assert [record.value for record in broker.records("t")] == [b"0", b"1"]


def test_retention_and_compaction_leave_offsets_as_they_are():
    broker = InMemoryBroker({"t": 1})
    with RecordProducer(broker) as producer:
        for number in range(6):
            producer.send("t", 0, b"%d" % number, [], key=b"%d" % (number % 2))
    broker.delete_before("t", 0, 1)
    assert broker.open_consumer().beginning_offsets([TopicPartition("t", 0)]) == {TopicPartition("t", 0): 1}
    broker.compact("t")
    assert [record.offset for record in broker.records("t")] == [4, 5]
    consumer = broker.open_consumer(auto_offset_reset="none")
    consumer.assign([TopicPartition("t", 0)])
    consumer.seek(TopicPartition("t", 0), 2)
    assert [record.offset for record in poll_to(consumer, 2)] == [4, 5]
    consumer.seek(TopicPartition("t", 0), 0)
    with pytest.raises(OffsetOutOfRangeError):
        consumer.poll()


def test_topics_and_partitions_that_are_not_there_are_errors():
    broker = InMemoryBroker({"t": 1})
    with pytest.raises(ConfigError, match="exists already"):
        broker.add_topic("t", 1)
    with pytest.raises(KafkaError):
        broker.records("t", 1)
    with pytest.raises(BrokerError), RecordProducer(broker) as producer:
        producer.send("u", 0, b"", [])


# ---- use in users' tests ---------------------------------------------------------------------------------------------


def test_a_custom_subscriber_can_be_tested_without_a_broker():
    broker = InMemoryBroker(prefix="mine")
    topics = Topics("mine")
    create_topics(broker, topics.specs(shards=2))
    shards = ShardConfig(capacity=8, num_shards=2)
    hot = Assignment(key=(1 << 56) + 7, tier="hot", shard=1, epoch=1, seq=1, row=shards.rows_of(1)[0], score=3.0,
                     source=(1, 0), event_time_ms=0)  # fmt: skip
    key, value, headers = encode_assignment(hot, CRITEO_FIELDS)
    with RecordProducer(broker) as producer:
        producer.send(topics.assignments, 1, value, headers, key=key)
    changes = subscribe(broker)
    change = next(changes)
    changes.close()
    assert isinstance(change, Assignment)
    assert (change.key, change.tier, change.row) == ((1 << 56) + 7, "hot", 4)
    with HotFeatureTable(broker) as table:
        assert table.table.num_hot == 1
        assert table.offsets() == {0: 0, 1: 1}
