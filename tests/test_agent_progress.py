"""What an agent says while it works, and at its end."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections import Counter

import pytest
from agent_driver import (
    GRADIENT,
    SHARD_CONFIG,
    SHARDS,
    STEPS,
    TOPICS,
    adopt,
    broker_with_importance,
    importance_of,
    inputs,
)

from streams.agent.progress import AgentProgress
from streams.agent.worker import AgentWorker
from streams.clients.in_memory import InMemoryBroker
from streams.clients.producer import RecordProducer


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


async def live(broker: InMemoryBroker, clock: Clock, *, records: int | None = None) -> AgentProgress:
    """An agent that takes both shards, counts so many records, looks at its progress and stops."""
    worker = AgentWorker(GRADIENT, broker)
    progress = AgentProgress(worker, clock)
    await adopt(worker, set(range(SHARDS)))
    progress.note()
    for record in inputs(broker, TOPICS.importance, worker.own_offsets())[:records]:
        await worker.count_importance(record)
    clock.now_s += 5
    await progress.look()
    await worker.stop()
    return progress


def test_an_agent_logs_what_it_counted_its_lag_and_what_it_rejected(caplog: pytest.LogCaptureFixture) -> None:
    broker = broker_with_importance()
    with RecordProducer(broker) as producer:
        producer.send(TOPICS.importance, 0, b"no importance", [])
    with caplog.at_level(logging.INFO, "streams.agent.progress"):
        progress = asyncio.run(live(broker, Clock()))
    (record,) = [record for record in caplog.records if record.name == "streams.agent.progress"]
    sums, (hot, rows) = progress.sums(), progress.hot
    assert rows == GRADIENT.shards.capacity
    assert record.getMessage() == (
        f"{SHARDS * STEPS} records, {sums['events'] / 5:,.0f} events/s, 0 records behind, {hot} of {rows} rows hot, "
        f"{sums['promotions']} promotions, {sums['demotions']} demotions, rejects: 1 malformed records"
    )
    assert vars(record)["fields"]["rejects"] == {"malformed records": 1}


def test_the_line_of_an_agent_tells_of_repeated_records(caplog: pytest.LogCaptureFixture) -> None:
    broker = broker_with_importance()
    with RecordProducer(broker) as producer:
        for record in broker.records(TOPICS.importance, 0):
            producer.send(TOPICS.importance, 0, record.value or b"", record.headers)
    with caplog.at_level(logging.INFO, "streams.agent.progress"):
        asyncio.run(live(broker, Clock()))
    (record,) = [record for record in caplog.records if record.name == "streams.agent.progress"]
    assert record.getMessage().startswith(f"{SHARDS * STEPS} records and {STEPS} repeated, ")


def test_the_recall_is_that_of_the_exact_scores_and_unknown_after_a_restart() -> None:
    broker = broker_with_importance()
    shards = asyncio.run(live(broker, Clock())).worker.shards
    for number, shard in shards.items():
        exact: Counter[int] = Counter()
        events = 0
        for step in range(STEPS):
            batch = importance_of(step, number)
            events += len(batch.keys)
            weight = 2.0 ** (events / (SHARD_CONFIG.half_life_events / SHARDS))
            exact.update(dict(zip(batch.keys.tolist(), (batch.scores * weight).tolist(), strict=True)))
        rows = SHARD_CONFIG.rows_of(number)[1]
        least = exact.most_common(rows)[-1][1]
        best = {key for key, score in exact.items() if score >= least}
        found = len(best & set(shard.table.items()[0].tolist()))
        assert asyncio.run(live(broker_with_importance(), Clock())).latest.shards[number].recall == found / rows > 0
    broker_again = asyncio.run(live(broker, Clock(), records=0))
    assert {shard.recall for shard in broker_again.latest.shards.values()} == {None}


def test_lag_is_what_the_log_has_and_the_agent_has_not_counted() -> None:
    progress = asyncio.run(live(broker_with_importance(), Clock(), records=SHARDS * 3))
    assert progress.lag == dict.fromkeys(range(SHARDS), STEPS - 3)


def test_a_line_comes_after_its_interval_only(caplog: pytest.LogCaptureFixture) -> None:
    async def look(broker: InMemoryBroker, clock: Clock) -> None:
        worker = AgentWorker(GRADIENT, broker)
        progress = AgentProgress(worker, clock)
        for _ in range(12):
            clock.now_s += 1
            await progress.look()

    with caplog.at_level(logging.INFO, "streams.agent.progress"):
        asyncio.run(look(broker_with_importance(), Clock()))
    assert [record.getMessage() for record in caplog.records] == ["no shard: the others of the group have all"] * 2


def test_counters_begin_with_the_process_and_not_with_the_shard() -> None:
    broker, clock = broker_with_importance(), Clock()
    first = asyncio.run(live(broker, clock, records=SHARDS * 5))
    second = asyncio.run(live(broker, clock))
    assert [first.sums()["counted"], second.sums()["counted"]] == [SHARDS * 5, SHARDS * (STEPS - 5)]
    assert sum(shard.counted for shard in second.latest.shards.values()) == SHARDS * STEPS


def test_a_shard_that_comes_back_unchanged_counts_once() -> None:
    async def run(broker: InMemoryBroker) -> AgentProgress:
        worker = AgentWorker(GRADIENT, broker)
        progress = AgentProgress(worker)
        await adopt(worker, {0, 1})
        progress.note()
        for record in inputs(broker, TOPICS.importance, worker.own_offsets()):
            await worker.count_importance(record)
        progress.note()
        await worker.release()
        progress.note()
        await adopt(worker, {0, 1})
        progress.note()
        await worker.stop()
        return progress

    assert asyncio.run(run(broker_with_importance())).sums()["counted"] == SHARDS * STEPS


def test_the_report_has_what_the_lines_have() -> None:
    progress = asyncio.run(live(broker_with_importance(), Clock()))
    report = progress.report()
    assert report["records"] == {"counted": SHARDS * STEPS, "repeated": 0}
    assert report["hot"] <= report["rows"] == report["capacity"]
    assert sorted(report["shards"]) == ["0", "1"]
    assert report["shards"]["0"]["next_offset"] == STEPS
    assert report["changes"]["promotions"] == sum(shard.promotions for shard in progress.latest.shards.values())


def test_every_counter_that_is_summed_is_one_of_a_shard() -> None:
    from streams.agent.progress import COUNTERS, REJECTS  # noqa: PLC0415
    from streams.records import ShardMetrics  # noqa: PLC0415

    names = {column.name for column in dataclasses.fields(ShardMetrics)}
    assert set(REJECTS) <= set(COUNTERS) <= names
