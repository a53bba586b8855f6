"""`hotstream agent` on a real broker: every click counted once and the same changes, whatever is killed and when."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from agent_driver import adopt
from processes import (
    Metrics,
    Running,
    Tail,
    change,
    once_each,
    publish_by_rule,
    read_changes,
    read_topic,
    running,
    seq_of,
    sources_of,
    wait_until,
    where,
)

from sketch.hashing import shard_of
from streams.agent.shard_config import ShardConfig
from streams.agent.worker import AgentConfig, AgentWorker
from streams.assignments.subscription import HotFeatureTable
from streams.clients.admin import create_topics
from streams.clients.config import KafkaConfig
from streams.clients.in_memory import InMemoryBroker
from streams.clients.producer import RecordProducer
from streams.keys import CRITEO_FIELDS
from streams.logs.schema import SCHEMAS
from streams.records import ClickBatch, ImportanceBatch, Source, encode_clicks, encode_importance
from streams.topics import Topics

SHARDS, CLICK_PARTITIONS, ROWS, CAPACITY = 2, 2, 256, 60
OPTIONS = ("--capacity", CAPACITY, "--snapshot-every", 3)
SHARD_CONFIG = ShardConfig(capacity=CAPACITY, num_shards=SHARDS)
FIELD_BITS = np.arange(1, 27, dtype=np.uint64) << np.uint64(56)


def keys_of(step: int) -> np.ndarray:
    """(256, 26) keys whose popularity drifts with the step, so that hot keys are demoted again."""
    tokens = np.random.default_rng(step).zipf(1.2, (ROWS, 26)).astype(np.uint64) % np.uint64(3000)
    return FIELD_BITS | (tokens * np.uint64(2654435761) + np.uint64(step // 12)) & np.uint64(0xFFFFFFFF)


def send_clicks(kafka: KafkaConfig, steps: range) -> None:
    with RecordProducer(kafka) as producer:
        for step in steps:
            batch = ClickBatch(
                label=np.zeros(ROWS, np.int8),
                dense=np.zeros((ROWS, 0), np.float32),
                keys=keys_of(step),
                event_time_ms=np.full(ROWS, 1_700_000_000_000 + step),
                fields=CRITEO_FIELDS,
                dense_names=(),
            )
            producer.send(Topics(kafka.prefix).clicks, step % CLICK_PARTITIONS, encode_clicks(batch), [])


def send_importance(kafka: KafkaConfig, steps: range) -> None:
    """Gradient norms as a trainer would send them."""
    topic = Topics(kafka.prefix).importance
    with RecordProducer(kafka) as producer:
        for step in steps:
            keys, counts = np.unique(keys_of(step), return_counts=True)
            for shard in range(SHARDS):
                mine = shard_of(keys, SHARDS) == shard
                source = Source(signal="gradient", topic=Topics(kafka.prefix).clicks, partition=0, offset=step)
                batch = ImportanceBatch(
                    keys=keys[mine],
                    scores=counts[mine].astype(np.float32),
                    fields=CRITEO_FIELDS,
                    source=source,
                    event_time_ms=step,
                    ingest_ms=step,
                )
                producer.send(topic, shard, *encode_importance(batch))


@pytest.fixture
def kafka(bootstrap_servers: str, topic_prefix: str) -> KafkaConfig:
    return with_topics(bootstrap_servers, topic_prefix)


def with_topics(servers: str, prefix: str) -> KafkaConfig:
    config = KafkaConfig(bootstrap_servers=servers, prefix=prefix)
    create_topics(config, Topics(prefix).specs(click_partitions=CLICK_PARTITIONS, shards=SHARDS))
    return config


@pytest.fixture
def session(request: pytest.FixtureRequest) -> tuple[object, ...]:
    """The shortest session timeout of the engine; a killed agent stays in the group for so long."""
    is_embedded = request.node.callspec.params["bootstrap_servers"] == "embedded"
    return ("--session-timeout", 2 if is_embedded else 6)


@pytest.fixture
def metrics(kafka: KafkaConfig) -> Iterator[Metrics]:
    with Metrics(kafka) as metrics:
        yield metrics


def wait_for_all(kafka: KafkaConfig, metrics: Metrics, clicks: int, *agents: Running) -> None:
    """Waits until every click record has its importance, and every importance record is counted or repeated.

    A group waits for a member that is stopped up to its rebalance time-out.
    """
    wait_until(lambda: metrics.total("counted") >= clicks * SHARDS, *agents, timeout_s=150)
    ends = sum(map(len, read_topic(kafka, Topics(kafka.prefix).importance).values()))
    wait_until(lambda: metrics.total("next_offset") == ends, *agents, timeout_s=150)


def test_an_agent_killed_at_any_moments_ends_as_one_that_never_was(
    kafka: KafkaConfig, metrics: Metrics, session: tuple[object, ...], tmp_path: Path
) -> None:
    topics, log, chance = Topics(kafka.prefix), tmp_path / "agent.log", random.Random(time.time_ns())
    arguments = ("agent", "--signal", "frequency", *OPTIONS, *session, *where(kafka))
    for turn, topic in enumerate((topics.assignments, topics.snapshots, topics.importance)):
        send_clicks(kafka, range(20 * turn, 20 * (turn + 1)))
        with Tail(kafka, topic) as tail:
            wanted = sum(map(len, tail.read_to_end().values())) + chance.randint(1, 12)
            with running(log, *arguments) as agent:
                wait_until(lambda: tail.look() >= wanted, agent)  # noqa: B023 - it is called in this very turn
                agent.kill()
    send_clicks(kafka, range(60, 70))
    with running(log, *arguments) as agent:
        wait_for_all(kafka, metrics, 70, agent)
        assert agent.stop() == 0
    assert [len(sources) for sources in sources_of(kafka)] == [70, 70]
    assert [metrics.shards[shard]["counted"] for shard in range(SHARDS)] == [70, 70]

    undisturbed = with_topics(kafka.bootstrap_servers, f"{kafka.prefix}-again")
    with RecordProducer(undisturbed) as producer:
        for shard, records in read_topic(kafka, topics.importance).items():
            for record in records:
                producer.send(f"{undisturbed.prefix}.importance", shard, record.value, record.headers)
    arguments = ("agent", "--signal", "frequency", *OPTIONS, *session, *where(undisturbed))
    with Metrics(undisturbed) as expected, running(log, *arguments) as agent:
        wait_for_all(undisturbed, expected, 70, agent)
        assert agent.stop() == 0
        names = ("counted", "repeated", "seq", "hot", "promotions", "demotions", "next_offset", "epoch")
        for shard in range(SHARDS):
            assert {name: expected.shards[shard][name] for name in names} == {
                name: metrics.shards[shard][name] for name in names
            }
    written = read_changes(undisturbed)
    for shard, records in read_changes(kafka).items():
        assert once_each(records) == [change(record) for record in written[shard]]
    with (
        HotFeatureTable(kafka.bootstrap_servers, prefix=kafka.prefix) as hot,
        HotFeatureTable(kafka.bootstrap_servers, prefix=undisturbed.prefix) as other,
    ):
        assert hot.table.is_verified
        assert other.table.is_verified
        assert hot.table == other.table
        assert 0.9 * CAPACITY < hot.table.num_hot <= hot.table.max_hot <= CAPACITY
        assert metrics.total("demotions") > 0


def test_of_two_agents_that_share_the_shards_one_is_killed_and_the_other_takes_over(
    kafka: KafkaConfig, metrics: Metrics, session: tuple[object, ...], tmp_path: Path
) -> None:
    topics = Topics(kafka.prefix)
    arguments = ("agent", "--signal", "frequency", *OPTIONS, *session, *where(kafka))

    def both_work() -> bool:
        metrics.look()
        return [set(report["shards"]) for report in metrics.reports[-2:]] in ([{"0"}, {"1"}], [{"1"}, {"0"}])

    with ExitStack() as stack:
        agents = [stack.enter_context(running(tmp_path / f"{name}.log", *arguments)) for name in ("one", "two")]
        wait_until(both_work, *agents)
        send_clicks(kafka, range(30))
        with Tail(kafka, topics.assignments) as tail:
            wanted = random.Random(time.time_ns()).randint(1, 100)
            wait_until(lambda: tail.look() >= wanted, *agents)
        agents[0].kill()
        send_clicks(kafka, range(30, 50))
        wait_for_all(kafka, metrics, 50, agents[1])
        assert agents[1].stop() == 0
    assert [len(sources) for sources in sources_of(kafka)] == [50, 50]
    assert set(metrics.reports[-1]["shards"]) == {"0", "1"}
    _, expected = publish_by_rule(kafka, SHARD_CONFIG)
    for shard, records in read_changes(kafka).items():
        assert once_each(records) == expected[shard]
    with HotFeatureTable(kafka.bootstrap_servers, prefix=kafka.prefix) as hot:
        assert hot.table.is_verified


def test_bad_importance_goes_to_the_dead_letters_and_another_capacity_begins_a_new_epoch(
    kafka: KafkaConfig, metrics: Metrics, session: tuple[object, ...], tmp_path: Path
) -> None:
    topics, log = Topics(kafka.prefix), tmp_path / "agent.log"
    bad = [(0, b"no Arrow stream", [("who", b"me")]), (1, b"", [("v", b"2")]), (1, b"\xff" * 40, [("v", b"3")])]
    send_importance(kafka, range(15))
    with RecordProducer(kafka) as producer:
        for shard, value, headers in bad:
            producer.send(topics.importance, shard, value, headers)
    send_importance(kafka, range(15, 30))

    def same(value: int) -> tuple[object, ...]:
        return ("agent", "--capacity", value, "--snapshot-every", 1000, *session, *where(kafka))

    with HotFeatureTable(kafka.bootstrap_servers, prefix=kafka.prefix) as followed:
        written = []
        for _ in range(2):  # the second one finds only the empty snapshot, and computes everything again
            metrics.shards.clear()
            with running(log, *same(CAPACITY)) as agent:
                wait_until(lambda: metrics.total("next_offset") == 2 * 30 + len(bad), agent)
                agent.kill()
            written.append([list(map(change, records)) for records in read_changes(kafka).values()])
        for first, second in zip(*written, strict=True):
            assert second in (first, [*first, first[-1]])  # only the newest digest is written again
        assert metrics.total("counted") == 2 * 30
        assert followed.refresh() > 60  # the hot set filled, and turned over
        assert followed.table.is_verified
        assert [view.epoch for view in followed.table.shards] == [1, 1]
        letters = [record for records in read_topic(kafka, topics.dead_letters(topics.importance)).values()
                   for record in records]  # fmt: skip
        for shard, value, headers in bad:
            (*_, letter) = [record for record in letters if record.value == value]
            named = dict(letter.headers)
            assert headers == letter.headers[: len(headers)]
            assert (named["dlq-topic"], named["dlq-partition"]) == (topics.importance.encode(), b"%d" % shard)
            assert int(named["dlq-offset"]) in (15, 16)
            assert named["dlq-message"]

        seqs = [view.seq for view in followed.table.shards]
        with RecordProducer(kafka) as producer:  # as if the agent had died while it wrote its changes a third time
            for shard, records in read_topic(kafka, topics.assignments).items():
                for record in records[:10]:
                    producer.send(topics.assignments, shard, record.value, record.headers, key=record.key)
        send_importance(kafka, range(30, 40))
        with running(log, *same(CAPACITY // 3)) as agent:
            assert agent.process.wait(60) == 2
        assert f"capacity {CAPACITY // 3} instead of {CAPACITY}" in log.read_text()
        with running(log, *same(CAPACITY // 3), "--new-epoch") as agent:
            wait_until(lambda: metrics.total("next_offset") == 2 * 40 + len(bad), agent)
            assert agent.stop() == 0
        followed.refresh()
        assert [view.epoch for view in followed.table.shards] == [2, 2]
        assert all(view.seq > seq for view, seq in zip(followed.table.shards, seqs, strict=True))
        assert followed.table.is_verified
        assert 0 < followed.table.num_hot <= CAPACITY // 3
        for shard, records in read_changes(kafka).items():
            seqs_of_the_new = [seq_of(record) for record in records if dict(record.headers)["epoch"] == b"2"]
            assert seqs_of_the_new[:2] == [seqs[shard], seqs[shard] + 1]  # the digest of the empty table first
        with HotFeatureTable(kafka.bootstrap_servers, prefix=kafka.prefix) as late:
            assert late.table.is_verified
            assert late.table == followed.table


def test_importance_that_faust_skips_in_a_rebalance_is_counted_in_order(kafka: KafkaConfig) -> None:
    send_importance(kafka, range(30))
    worker = AgentWorker(AgentConfig(shards=SHARD_CONFIG, schema=SCHEMAS["criteo-kaggle"]), kafka)
    records = read_topic(kafka, Topics(kafka.prefix).importance)[1]

    async def count_with_a_gap() -> None:
        await adopt(worker, {1})
        for record in [*records[:3], *records[20:], *records[3:]]:
            await worker.count_importance(record)
        await worker.stop()

    asyncio.run(count_with_a_gap())
    assert worker.shards[1].num_counted == 30
    written = read_changes(kafka)[1]
    assert [change(record) for record in written] == publish_by_rule(kafka, SHARD_CONFIG)[1][1]


@pytest.mark.skipif("HOTSTREAM_CHAOS" not in os.environ, reason="a minute or more each: `make chaos`")
@pytest.mark.timeout(600)
def test_an_agent_stopped_for_longer_than_its_session_leaves_no_trace_when_it_goes_on(
    kafka: KafkaConfig, metrics: Metrics, session: tuple[object, ...], tmp_path: Path
) -> None:
    arguments = ("agent", "--signal", "frequency", *OPTIONS, *session, *where(kafka))

    def owners() -> list[set[str]]:
        metrics.look()
        return [set(report["shards"]) for report in metrics.reports[-2:]]

    with ExitStack() as stack:
        agents = [stack.enter_context(running(tmp_path / f"{name}.log", *arguments)) for name in ("one", "two")]
        wait_until(lambda: owners() in ([{"0"}, {"1"}], [{"1"}, {"0"}]), *agents)
        send_clicks(kafka, range(30))
        wait_for_all(kafka, metrics, 30, *agents)
        agents[0].process.send_signal(signal.SIGSTOP)
        send_clicks(kafka, range(30, 50))
        wait_for_all(kafka, metrics, 50, agents[1])
        agents[0].process.send_signal(signal.SIGCONT)
        send_clicks(kafka, range(50, 70))
        wait_for_all(kafka, metrics, 70, *agents)
        assert [agent.stop() for agent in agents] == [0, 0]
    shards, _ = publish_by_rule(kafka, SHARD_CONFIG)
    compacted = InMemoryBroker({Topics(kafka.prefix).assignments: SHARDS}, prefix=kafka.prefix)
    with RecordProducer(compacted) as producer:
        for shard, records in read_topic(kafka, Topics(kafka.prefix).assignments).items():
            for record in records:
                producer.send(record.topic, shard, record.value, record.headers, key=record.key)
    compacted.compact(Topics(kafka.prefix).assignments)
    with HotFeatureTable(compacted) as hot:
        assert hot.table.is_verified
        assert [view.table.digest for view in hot.table.shards] == [shard.table.digest for shard in shards]
