"""The broker: whether it answers, its topics with their settings, the agents' group, and what the processes report."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

from streams.clients.admin import count_partitions, describe_group, describe_topics
from streams.clients.agreed_configuration import read_configuration
from streams.clients.connector import Connector
from streams.clients.partition_reader import open_partition_log
from streams.doctor.findings import FAULT, GOOD, MISSING, Finding
from streams.errors import BrokerError
from streams.records import AgentMetrics, TrainerMetrics, decode_metrics
from streams.topics import Topics

__all__ = ["look_at_cluster"]

_PIPELINE = "agent, train, replay and watch"
_WINDOW, _MOST_RECORDS = 64, 256  # of the metrics topic
_RECENT_S = 30.0
_CLOCKS_S = 2.0
_DEFAULT_PARTITIONS, _DEFAULT_SHARDS = 4, 2


def look_at_cluster(connector: Connector) -> Iterator[Finding]:
    """Yields the broker, the topics, the agents' configuration and group, and the processes.

    A broker that does not answer, or refuses, is a finding.
    """
    topics = Topics(connector.prefix)
    try:
        counts = count_partitions(connector, [spec.name for spec in topics.specs()])
    except BrokerError as error:
        mend = (
            "hotstream broker --engine embedded, or --bootstrap-servers HOST:PORT, with --config if it demands a login"
        )
        yield Finding(name="broker", state=FAULT, found=str(error), needed_for=_PIPELINE, mend=mend)
        return
    yield Finding(name="broker", state=GOOD, found=connector.bootstrap_servers)
    yield from _topics(connector, topics, counts)
    if counts[topics.control]:
        try:
            yield from _agents(connector)
            if counts[topics.metrics]:
                yield from _processes(connector, topics, counts)
        except BrokerError as error:
            yield Finding(
                name="processes", state=MISSING, found=str(error), needed_for="this report", mend="see docs/security.md"
            )


def _topics(connector: Connector, topics: Topics, counts: dict[str, int]) -> Iterator[Finding]:
    partitions = counts[topics.clicks] or _DEFAULT_PARTITIONS
    shards = counts[topics.importance] or _DEFAULT_SHARDS
    for state in describe_topics(connector, topics.specs(click_partitions=partitions, shards=shards)):
        is_missing = state.partitions is None
        mend = topics.create_command if is_missing else "kafka-configs --alter, or another --prefix"
        yield Finding(
            name=f"topic {state.spec.name}",
            state=FAULT if state.problems else GOOD,
            found="missing" if is_missing else "; ".join(state.problems) or f"{state.partitions} partitions",
            needed_for=_PIPELINE if state.problems else "",
            mend=mend if state.problems else "",
        )


def _agents(connector: Connector) -> Iterator[Finding]:
    agreed = read_configuration(connector)
    if agreed is None:
        yield Finding(
            name="agents", state=MISSING, found="none has started under this prefix",
            needed_for="changes of the hot set", mend="hotstream agent --capacity FEATURES",
        )  # fmt: skip
        return
    settings = agreed.settings
    found = f"configuration {agreed.number}: capacity {settings.get('capacity')}, signals {settings.get('signals')}"
    yield Finding(name="agents", state=GOOD, found=found)
    group = str(settings.get("group"))
    state, members = describe_group(connector, group)
    is_good = members > 0
    yield Finding(
        name=f"group {group}",
        state=GOOD if is_good else MISSING,
        found=f"{state}, {members} members",
        needed_for="" if is_good else "changes of the hot set",
        mend="" if is_good else f"hotstream agent --capacity {settings.get('capacity')}",
    )


def _processes(connector: Connector, topics: Topics, counts: dict[str, int]) -> Iterator[Finding]:
    """What the latest metrics of each shard and of the trainer show."""
    shards: dict[int, tuple[int, int]] = {}  # number -> time in ms, next offset
    trainer: TrainerMetrics | None = None
    with open_partition_log(connector) as log:
        for record in itertools.islice(log.newest_first(topics.metrics, 0, window=_WINDOW), _MOST_RECORDS):
            metrics = decode_metrics(record.value)
            if isinstance(metrics, AgentMetrics):
                for number, shard in metrics.shards.items():
                    shards.setdefault(number, (metrics.time_ms, shard.next_offset))
            elif isinstance(metrics, TrainerMetrics):
                trainer = trainer or metrics
        ends = log.all_bounds(topics.importance, counts[topics.importance])
    for number, (time_ms, offset) in sorted(shards.items()):
        lag = max(0, ends[number][1] - offset) if number < len(ends) else 0
        yield _process(f"shard {number}", time_ms, f"{lag} importance records behind", "hotstream agent")
    if trainer is not None:
        found = f"{trainer.lag_records} click records behind, {trainer.rows} rows trained"
        yield _process("trainer", trainer.time_ms, found, "hotstream train")


def _process(name: str, time_ms: int, found: str, command: str) -> Finding:
    age_s = time.time() - time_ms / 1000
    if age_s < -_CLOCKS_S:
        return Finding(
            name=name, state=FAULT, found=f"its clock is {-age_s:.0f} s ahead of this machine's",
            needed_for="latencies and half-lives in event time", mend="timedatectl set-ntp true, on both machines",
        )  # fmt: skip
    text = f"{found}; reported {age_s:.0f} s ago"
    if age_s <= _RECENT_S:
        return Finding(name=name, state=GOOD, found=text)
    return Finding(name=name, state=MISSING, found=text, needed_for="live changes, if it should run", mend=command)
