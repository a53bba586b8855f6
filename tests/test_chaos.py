"""The fault harness: a short run of each scenario finds nothing, and its audit finds what is wrong."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from agent_driver import adopt
from conftest import require_java
from processes import write_criteo_log

from benchmarks.chaos.audit import Audit
from benchmarks.chaos.faults import FAULTS, SCENARIOS, TARGETS
from benchmarks.chaos.site import CLICK_PARTITIONS, SiteConfig
from benchmarks.chaos.supervised import Ending, is_expected
from streams.agent.input_record import InputRecord
from streams.agent.worker import AgentConfig, AgentWorker
from streams.clients.admin import create_topics
from streams.clients.in_memory import InMemoryBroker
from streams.clients.producer import RecordProducer
from streams.logs.schema import SCHEMAS
from streams.records import Assignment, decode_assignment, encode_assignment
from streams.replay.plan import ReplayPlan
from streams.replay.sender import replay_logs
from streams.topics import Topics

ROOT = Path(__file__).resolve().parent.parent
ROWS = "12000"
TOPICS, KAGGLE = Topics(), SCHEMAS["criteo-kaggle"]


@pytest.mark.broker
@pytest.mark.skipif("HOTSTREAM_CHAOS" not in os.environ, reason="a minute or more each: `make chaos` runs them")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("scenario", sorted(set(SCENARIOS) - {"all"}))
def test_three_faults_of_each_scenario_make_no_difference(scenario: str, tmp_path: Path) -> None:
    require_java()
    path = tmp_path / "report.json"
    options = ("--faults", "3", "--seed", "1", "--rows", ROWS, "--rate", "500", "--scenario", scenario)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.chaos", *options, "--json", str(path)],
        cwd=ROOT, capture_output=True, text=True, timeout=580, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-6000:]
    report = json.loads(path.read_text())
    assert (report["ok"], report["differences"]) == (True, [])
    assert sum(report["faults"].values()) == 3
    assert report["counts"]["rows"] == {"log": int(ROWS), "clicks": int(ROWS)}
    assert report["counts"]["assignments"]["demotions"] > 0


def test_every_fault_is_drawn_by_a_scenario_and_has_a_target() -> None:
    drawn = {name for scenario, names in SCENARIOS.items() if scenario != "all" for name in names}
    assert drawn == set(FAULTS) == set(TARGETS)


@pytest.mark.parametrize(
    ("line", "since_trouble_s", "has_two_replays", "expected"),
    [
        ("hotstream: no broker answered at 127.0.0.1:9092 within 10 s", 3.0, False, True),
        ("hotstream: no broker answered at 127.0.0.1:9092 within 10 s", 60.0, False, False),
        ("hotstream: stopped while the broker at 127.0.0.1:9092 does not answer", 60.0, False, True),
        ("hotstream: another run of this replay took over, so this one ends", 60.0, True, True),
        ("hotstream: another run of this replay took over, so this one ends", 60.0, False, False),
        ("KeyError: 3", 0.0, True, False),
    ],
)
def test_an_end_that_a_fault_must_cause_is_no_difference(
    line: str, since_trouble_s: float, has_two_replays: bool, expected: bool
) -> None:
    ending = Ending(name="replay", code=1, last_line=line, has_traceback=False, age_s=12.0)
    assert is_expected(ending, since_trouble_s, has_two_replays=has_two_replays) == expected


# ---- the audit -----------------------------------------------------------------------------------------------------


def run_pipeline(folder: Path) -> tuple[InMemoryBroker, SiteConfig, Path]:
    """A log that was replayed, and counted by one agent, with a broker in this process."""
    config = SiteConfig(
        folder=folder, rows=3000, seed=0, shards=2, capacity=40, signal="frequency", half_life=20_000, batch_rows=100
    )
    broker, path = InMemoryBroker(), write_criteo_log(folder / "log.tsv", config.rows)
    create_topics(broker, TOPICS.specs(click_partitions=CLICK_PARTITIONS, shards=config.shards))
    replay_logs(broker, ReplayPlan(paths=(path,), schema=KAGGLE, batch_rows=config.batch_rows))

    async def count() -> None:
        agent = AgentConfig(shards=config.shard_config, schema=KAGGLE, signals=frozenset({"frequency"}))
        worker = AgentWorker(agent, broker)
        await adopt(worker, {0, 1})
        for topic, partitions in ((TOPICS.clicks, CLICK_PARTITIONS), (TOPICS.importance, config.shards)):
            method = worker.count_clicks if topic == TOPICS.clicks else worker.count_importance
            for number in range(partitions):
                for record in broker.records(topic, number):
                    await method(InputRecord(*record))
            await worker.deliver()
        await worker.stop()

    asyncio.run(count())
    return broker, config, path


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> tuple[InMemoryBroker, SiteConfig, Path]:
    return run_pipeline(tmp_path_factory.mktemp("pipeline"))


def differences(broker: InMemoryBroker, config: SiteConfig, path: Path) -> list[str]:
    audit = Audit(broker, config, path)
    audit.check_rows()
    audit.check_importance(dict.fromkeys(range(config.shards), 30))
    audit.check_assignments()
    audit.check_prefixes()
    audit.check_tables()
    return audit.differences


def copy_of(broker: InMemoryBroker, edit: Callable[[str, Any], list[Any]]) -> InMemoryBroker:
    """A broker with the same records, each replaced by what `edit` makes of it."""
    copy = InMemoryBroker()
    create_topics(copy, TOPICS.specs(click_partitions=CLICK_PARTITIONS, shards=2))
    with RecordProducer(copy) as producer:
        for topic in (TOPICS.clicks, TOPICS.importance, TOPICS.assignments):
            for number in range(2):
                for record in broker.records(topic, number):
                    for kept in edit(topic, InputRecord(*record)):
                        producer.send(topic, number, kept.value, kept.headers, key=kept.key)
    return copy


def is_hot(record: Any) -> bool:
    return record.topic == TOPICS.assignments and b'"tier":"hot"' in (record.value or b"")


def newest_hot(broker: InMemoryBroker) -> Any:
    return [InputRecord(*r) for r in broker.records(TOPICS.assignments, 0) if is_hot(InputRecord(*r))][-1]


def test_a_pipeline_without_a_fault_has_no_difference(pipeline: tuple[InMemoryBroker, SiteConfig, Path]) -> None:
    broker, config, path = pipeline
    assert differences(broker, config, path) == []
    assert differences(copy_of(broker, lambda _, record: [record]), config, path) == []


def other_score(record: Any) -> Any:
    known = decode_assignment(record.key, record.value, record.headers)
    assert isinstance(known, Assignment)
    _, value, headers = encode_assignment(replace(known, score=known.score + 1.0), KAGGLE.categorical)  # type: ignore[operator]
    return record._replace(value=value, headers=headers)


EDITS: dict[str, tuple[str, Callable[[str, Any, Any], list[Any]]]] = {
    "a change with another score": ("assignments", lambda _, r, chosen: [other_score(r) if r == chosen else r]),
    "a change that is lost": ("assignments", lambda _, r, chosen: [] if r == chosen else [r]),
    "click records twice": ("rows", lambda topic, r, _: [r, r] if topic == TOPICS.clicks and not r.offset else [r]),
    "click records lost": ("rows", lambda topic, r, _: [] if topic == TOPICS.clicks and r.offset == 14 else [r]),
    "importance lost": ("importance", lambda topic, r, _: [] if topic == TOPICS.importance and r.offset == 29 else [r]),
}


@pytest.mark.parametrize("edit", EDITS)
def test_the_audit_finds(edit: str, pipeline: tuple[InMemoryBroker, SiteConfig, Path]) -> None:
    broker, config, path = pipeline
    check, change = EDITS[edit]
    chosen = newest_hot(broker)
    found = differences(copy_of(broker, lambda topic, record: change(topic, record, chosen)), config, path)
    assert any(line.startswith(f"{check}:") for line in found), found
