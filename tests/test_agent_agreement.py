"""All agents of a prefix have one configuration: the first one counts, until an agent is told to replace it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from threading import Timer

import pytest
from agent_driver import GRADIENT, SHARD_CONFIG, TOPICS, adopt, broker_with_importance, inputs

from streams.agent.agreement import Agreement
from streams.agent.shard_config import ShardConfig
from streams.agent.worker import AgentConfig, AgentWorker
from streams.broker import BrokerProcess
from streams.clients.admin import create_topics
from streams.clients.agreed_configuration import read_configuration
from streams.clients.config import KafkaConfig
from streams.clients.connector import Connector
from streams.clients.in_memory import InMemoryBroker
from streams.clients.producer import RecordProducer
from streams.clients.transactions import TransactionalProducer
from streams.errors import ConfigError
from streams.keys import CRITEO_FIELDS, Field
from streams.records import AgentConfiguration, BadRecord, decode_configuration, decode_fields, encode_configuration
from streams.topics import Topics

OTHER = replace(SHARD_CONFIG, capacity=20, seed=3)


def agreement(broker: Connector, shards: ShardConfig = SHARD_CONFIG, *, group: str = "agents") -> Agreement:
    return Agreement(broker, shards, group=group, signals=["gradient"])


def test_the_first_agent_records_its_configuration_and_others_like_it_join():
    broker = broker_with_importance()
    for _ in range(3):
        agreement(broker).join()
    (record,) = broker.records(TOPICS.control)
    known = decode_configuration(record.key, record.value, record.headers)
    assert isinstance(known, AgentConfiguration)
    assert known.number == 1
    assert known.settings["capacity"] == SHARD_CONFIG.capacity


def test_an_agent_with_another_configuration_is_refused_with_both_values():
    broker = broker_with_importance()
    agreement(broker).join()
    with pytest.raises(ConfigError, match=r"capacity 20 instead of 36, seed 3 instead of 0; .* --new-epoch"):
        agreement(broker, OTHER).join()
    with pytest.raises(ConfigError, match="group 'others' instead of 'agents'"):
        agreement(broker, group="others").join()
    assert len(broker.records(TOPICS.control)) == 1


def test_a_new_epoch_replaces_the_configuration_and_ends_the_agents_of_the_old_one():
    broker = broker_with_importance()
    old = agreement(broker)
    old.join()
    asyncio.run(old.check())
    agreement(broker, OTHER).join(begins_epoch=True)
    agreement(broker, OTHER).join()
    with pytest.raises(ConfigError, match="number 2"):
        asyncio.run(old.check())
    with pytest.raises(ConfigError, match="capacity 36 instead of 20"):
        old.join()


def recorded_fields(broker: InMemoryBroker) -> list[object]:
    decoded = [decode_fields(record.key, record.value, record.headers) for record in broker.records(TOPICS.control)]
    return [fields for fields in decoded if fields is not None]


def test_the_agents_record_the_fields_that_a_reader_needs_to_make_keys():
    broker = broker_with_importance()
    asyncio.run(count_and_check(broker))
    assert recorded_fields(broker) == [CRITEO_FIELDS]
    asyncio.run(count_and_check(broker))
    assert recorded_fields(broker) == [CRITEO_FIELDS]


async def count_and_check(broker: InMemoryBroker) -> None:
    worker = AgentWorker(GRADIENT, broker)
    await adopt(worker, {0, 1})
    await worker.check()  # before the first record
    for record in inputs(broker, TOPICS.importance, worker.own_offsets()):
        await worker.count_importance(record)
    await worker.check()
    await worker.check()
    await worker.stop()


def test_fields_are_only_added_at_the_end_and_a_mixture_is_a_warning(caplog):
    broker = broker_with_importance()
    short, long, other = CRITEO_FIELDS[:2], CRITEO_FIELDS[:3], (Field("site"), Field("app"), Field("os"), Field("x"))
    agents = agreement(broker), agreement(broker)
    for agent, fields in [(agents[0], short), (agents[1], long), (agents[0], short)]:
        asyncio.run(agent.check(fields=fields))
    assert recorded_fields(broker) == [short, long]
    assert not caplog.records
    for _ in range(2):
        asyncio.run(agents[0].check(fields=other))
    assert recorded_fields(broker) == [short, long]
    (warning,) = caplog.messages
    assert "has the fields C1, C2, C3, but importance has site, app, os ... (4): two schemas are mixed" in warning


@pytest.mark.parametrize(
    "value", [b"", b"[]", b'{"v":2,"kind":"fields","fields":[]}', b'{"fields":[["a","b"]]}', b'{"fields":["a"]}']
)
def test_a_malformed_record_of_fields_is_a_bad_record(value):
    assert isinstance(decode_fields(b"fields", value, [("v", b"2")]), BadRecord)


def test_of_two_agents_that_record_a_configuration_at_once_the_first_wins_also_after_compaction():
    broker = broker_with_importance()
    first, second = (
        AgentConfiguration(number=1, settings={"capacity": capacity, "group": "agents"}) for capacity in (7, 8)
    )
    with RecordProducer(broker) as producer:
        for configuration in (first, second):
            key, value, headers = encode_configuration(configuration)
            producer.send(TOPICS.control, 0, value, headers, key=key)
    with pytest.raises(ConfigError, match="capacity 36 instead of 7"):
        agreement(broker).join()


def test_the_one_that_came_second_writes_the_first_one_again():
    broker = broker_with_importance()
    winner = AgentConfiguration(number=1, settings={"capacity": 7})

    class Racing(Agreement):
        def _write(self, configuration: AgentConfiguration) -> None:
            """The other agent's record arrives just before ours."""
            if configuration.settings != winner.settings:
                super()._write(winner)
            super()._write(configuration)

    with pytest.raises(ConfigError, match="instead of 7"):
        Racing(broker, SHARD_CONFIG, group="agents", signals=["gradient"]).join()
    broker.compact(TOPICS.control)
    with pytest.raises(ConfigError, match="instead of 7"):
        agreement(broker).join()


@pytest.mark.parametrize("value", [b"garbage", b'{"v":2,"kind":"agents","number":0,"settings":{}}', b"[" * 5000, None])
def test_garbage_in_the_control_topic_is_ignored(value, caplog):
    broker = broker_with_importance()
    agreement(broker).join()
    with RecordProducer(broker) as producer:
        for key in (b"agents", b"replay/x", None):
            producer.send(TOPICS.control, 0, value, [("v", b"2")], key=key)
    agreement(broker).join()
    assert ("configuration ignored" in caplog.text) == (value is not None)


def test_a_running_agent_ends_when_its_configuration_is_replaced():
    broker = broker_with_importance()
    config = AgentConfig(shards=SHARD_CONFIG, schema=GRADIENT.schema)
    Agreement(broker, SHARD_CONFIG, group=config.group, signals=config.signals).join()

    async def live() -> None:
        worker = AgentWorker(config, broker)
        await adopt(worker, {0, 1})
        await worker.check()
        Agreement(broker, OTHER, group=config.group, signals=config.signals).join(begins_epoch=True)
        with pytest.raises(ConfigError, match="number 2"):
            await worker.check()
        with pytest.raises(ConfigError, match="number 2"):
            await adopt(worker, {0})

    asyncio.run(live())


@pytest.mark.broker
def test_a_configuration_in_an_aborted_transaction_never_counts(apache_broker: BrokerProcess, topic_prefix: str):
    kafka = KafkaConfig(
        bootstrap_servers=apache_broker.bootstrap_servers,
        prefix=topic_prefix,
        properties={"isolation.level": "read_uncommitted"},
    )
    create_topics(kafka, Topics(topic_prefix).specs())
    key, value, headers = encode_configuration(AgentConfiguration(number=1, settings={"capacity": 7}))
    with suppress(ZeroDivisionError), TransactionalProducer(kafka, topic_prefix) as producer:
        producer.send(Topics(topic_prefix).control, 0, value, headers, key=key)
        producer.wait()
        1 / 0  # noqa: B018  aborts
    mine = agreement(kafka)
    mine.join()
    asyncio.run(mine.check())


@pytest.mark.broker
def test_an_agent_joins_while_the_first_transaction_of_the_topic_is_open(
    bootstrap_servers: str, topic_prefix: str
) -> None:
    kafka = KafkaConfig(bootstrap_servers=bootstrap_servers, prefix=topic_prefix)
    create_topics(kafka, Topics(topic_prefix).specs())
    with TransactionalProducer(kafka, topic_prefix) as producer:
        producer.send(Topics(topic_prefix).control, 0, b"{}", [], key=b"replay:another")
        producer.wait()
        commit = Timer(1.0, producer.commit)  # the records behind its start are hidden until then
        commit.start()
        agreement(kafka).join()
        commit.join()
    known = read_configuration(kafka)
    assert known is not None
    assert known.settings["capacity"] == SHARD_CONFIG.capacity
