"""Throughput of the pipeline compared with bare Kafka clients, and latencies at half load.

Every ratio compares two measurements of one run, with the same records, broker and machine, one after the other.

- *replay*: `hotstream replay` of a file, from its first to its last record, compared with a producer that only sends
  the records that the replay made.
- *agent*: `hotstream agent` on a topic that is full of importance records, compared with a consumer that only fetches
  them. The topic holds the log `passes` times. `features_per_s` starts after the first pass, when the hot set is full;
  `warm_up` is the first pass, during which the hot set fills and the agent publishes many changes.
- *clicks_agent*: the throughput of an agent that counts clicks itself (`--signal frequency`) while replay runs at full
  speed on the same machine.
- *fill*: `trainer.bench.fill`, the rate of publishing the changes of a hot set that fills.
- *latency*: from the timestamp of a click record to the moment when a subscriber reads a change that it caused, with
  replay at half of that throughput. `warm_up` separates the first ten seconds, in which the hot set fills, and the time
  that the subscriber then takes to catch up.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from streams.clients.admin import create_topics
from streams.clients.config import KafkaConfig
from streams.clients.partition_reader import open_partition_log
from streams.clients.producer import RecordProducer
from streams.clients.topic_reader import TopicReader
from streams.errors import ChildError
from streams.importance import count_keys, split_by_shard
from streams.processes.children import Children
from streams.records import (
    ClickBatch,
    ImportanceBatch,
    Source,
    decode_clicks,
    encode_importance,
)
from streams.telemetry.latency import LatencyHistogram
from streams.telemetry.observer import Observer
from streams.topics import Topics, TopicSpec
from trainer.bench.agent_figures import AgentFigures
from trainer.bench.fill import measure_fill

__all__ = ["PipelineBenchConfig", "bench_pipeline"]

_CLICK_PARTITIONS = 4
_DEADLINE_S = 300.0
_WARM_UP_S = 10.0
_CARRY_S = 8.0


@dataclass(frozen=True, kw_only=True)
class PipelineBenchConfig:
    """Configuration of the benchmark.

    Args:
        kafka: a running broker; each part creates topics under its own prefix.
        config_path: the file of its properties, which the child processes read, too; None without properties.
        data: a click log in Criteo's format.
        folder: the folder for logs.
        capacity: hot rows of the agents.
        batch_rows: rows per click record.
        shards: partitions of the importance topic, all counted by one agent process.
        passes: how often the importance of the log is written to the topic, each time as that of new click records.
        half_load_s: duration of the run at half load.
    """

    kafka: KafkaConfig
    config_path: Path | None = None
    data: Path
    folder: Path
    capacity: int
    batch_rows: int
    shards: int
    passes: int
    half_load_s: float

    def named(self, name: str) -> PipelineBenchConfig:
        """The same configuration under a prefix of its own."""
        return replace(self, kafka=replace(self.kafka, prefix=f"{self.kafka.prefix}-{name}"))

    @property
    def topics(self) -> Topics:
        """The topic names."""
        return Topics(self.kafka.prefix)

    @property
    def child_options(self) -> list[str]:
        """The options that every child process has; it receives the broker's address in its environment."""
        file = [] if self.config_path is None else ["--config", str(self.config_path.resolve())]
        return ["--prefix", self.kafka.prefix, *file]

    def create_topics(self) -> None:
        """Creates the topics."""
        create_topics(self.kafka, self.topics.specs(click_partitions=_CLICK_PARTITIONS, shards=self.shards))


def bench_pipeline(config: PipelineBenchConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """Measures one part after the other; yields (report key, figures) of each.

    Raises:
        ChildError: a process failed or took more than five minutes.
    """
    filling = config.named("fill")
    filling.create_topics()
    yield "fill", measure_fill(filling.kafka, filling.topics.assignments)
    flat_out = config.named("replay")
    flat_out.create_topics()
    replay = _measure_replay(flat_out)
    yield "replay", replay
    yield "agent", _measure_agent(flat_out, config.named("agent"))
    beside = config.named("beside")
    beside.create_topics()
    carried = _measure_clicks_agent(beside, replay["rows_per_s"])
    yield "clicks_agent", carried
    half = config.named("half")
    half.create_topics()
    yield "latency_ms", _measure_latency(half, rate=carried["rows_per_s"] / 2)


def _measure_replay(config: PipelineBenchConfig) -> dict[str, Any]:
    """Runs `hotstream replay` at full speed, then a bare producer of the same records to another topic."""
    path = config.folder / "replay.json"
    with _children(config) as children:
        _start_replay(children, config, ["--json", str(path)])
        _wait_until(lambda: "replay" in children.check(), "replay")
    report = json.loads(path.read_text())
    with open_partition_log(config.kafka) as log:
        records = [
            (partition, record.value, list(record.headers))
            for partition in range(_CLICK_PARTITIONS)
            for record in log.read(config.topics.clicks, partition, *log.bounds(config.topics.clicks, partition))
        ]
    raw_topic = f"{config.kafka.prefix}.raw"
    configs = {"max.message.bytes": str(8 << 20)}
    create_topics(config.kafka, [TopicSpec(name=raw_topic, partitions=_CLICK_PARTITIONS, cleanup="delete",
                                           configs=configs)])  # fmt: skip
    with RecordProducer(config.kafka) as producer:
        started_s = time.perf_counter()
        for partition, value, headers in records:
            producer.send(raw_topic, partition, value, headers)
        producer.wait()
        raw_s = time.perf_counter() - started_s
    rows = report["rows"]["sent"]
    num_bytes = sum(len(value) for _, value, _ in records)
    return {
        "rows_per_s": report["rows_per_s"],
        "raw_rows_per_s": rows / raw_s,
        "ratio": report["rows_per_s"] * raw_s / rows,
        "rows": rows,
        "bytes": num_bytes,
        "raw_bytes_per_s": num_bytes / raw_s,
    }


def _start_replay(children: Children, config: PipelineBenchConfig, options: list[str]) -> None:
    children.start(
        "replay",
        ["replay", str(config.data), "--batch-rows", str(config.batch_rows), *config.child_options, *options],
    )


def _measure_agent(clicks: PipelineBenchConfig, config: PipelineBenchConfig) -> dict[str, Any]:
    """Measures an agent on a full importance topic, and a bare consumer of the same topic."""
    config.create_topics()
    records, events, num_bytes = _fill_importance(clicks, config)
    raw_s = _consume(config, records)
    with _agent(config, "gradient"), AgentFigures(config.kafka) as figures:
        _wait_until(lambda: figures.look().counted >= records, "agent")
    begin, full, end = figures.start, figures.after(events / config.passes), figures.samples[-2]
    rate = full.features_per_s(end)
    return {
        "features_per_s": rate,
        "raw_features_per_s": events / raw_s,
        "ratio": rate * raw_s / events,
        "changes_per_s": (end.changes - full.changes) / (end.time_s - full.time_s),
        "seconds": end.time_s - full.time_s,
        "warm_up": {
            "features_per_s": begin.features_per_s(full),
            "features": full.events,
            "changes": full.changes,
        },
        "features": events,
        "records": records,
        "bytes": num_bytes,
    }


def _fill_importance(clicks: PipelineBenchConfig, config: PipelineBenchConfig) -> tuple[int, int, int]:
    """Writes the key counts of the log to the importance topic `passes` times; returns records, events, bytes.

    Passes follow each other, since a stream that repeats each click record twenty times in a row would drift wildly.
    """
    records = events = num_bytes = 0
    topic = clicks.topics.clicks
    with open_partition_log(clicks.kafka) as log, RecordProducer(config.kafka) as producer:
        bounds = log.all_bounds(topic, _CLICK_PARTITIONS)
        for turn in range(config.passes):
            for partition in range(_CLICK_PARTITIONS):
                for record in log.read(topic, partition, *bounds[partition]):
                    part_of_pass = partition + turn * _CLICK_PARTITIONS
                    source = Source(signal="gradient", topic=topic, partition=part_of_pass, offset=record.offset)
                    for shard, part in _importance_of(record, source, config.shards):
                        value, headers = encode_importance(part)
                        producer.send(config.topics.importance, shard, value, headers)
                        records, events, num_bytes = records + 1, events + len(part.keys), num_bytes + len(value)
        producer.wait()
    return records, events, num_bytes


def _importance_of(record: Any, source: Source, num_shards: int) -> list[tuple[int, ImportanceBatch]]:
    batch = decode_clicks(record.value, record.headers)
    if not isinstance(batch, ClickBatch):
        raise ChildError(f"replay wrote an invalid record: {batch}")
    keys, counts = count_keys(batch.every_key)
    return split_by_shard(keys, counts, batch, source, num_shards=num_shards, ingest_ms=record.timestamp)


def _consume(config: PipelineBenchConfig, num_records: int) -> float:
    """Seconds in which a bare consumer fetches all importance records, without decoding them."""
    with TopicReader(config.kafka, config.topics.importance, max_poll_records=500) as reader:
        seen, started_s = 0, time.perf_counter()
        while seen < num_records:
            seen += sum(len(records) for records in reader.poll(500).values())
            if time.perf_counter() - started_s > _DEADLINE_S:
                raise ChildError(f"a bare consumer read {seen} of {num_records} records in {_DEADLINE_S:.0f} s")
        return time.perf_counter() - started_s


def _measure_clicks_agent(config: PipelineBenchConfig, replay_rows_per_s: float) -> dict[str, Any]:
    """Measures an agent that counts clicks itself while replay runs at full speed."""
    rows = int(replay_rows_per_s * (_WARM_UP_S + _CARRY_S))
    with _agent(config, "frequency"), AgentFigures(config.kafka) as figures, _children(config) as children:
        _start_replay(children, config, ["--loop", "--limit", str(rows)])
        _wait_until(lambda: figures.look() and "replay" in children.check(), "replay")
    warm = next(sample for sample in figures.samples if sample.time_s >= figures.start.time_s + _WARM_UP_S)
    end = figures.samples[-1]
    records_per_s = (end.counted - warm.counted) / (end.time_s - warm.time_s) / config.shards
    return {
        "features_per_s": warm.features_per_s(end),
        "rows_per_s": records_per_s * config.batch_rows,
        "seconds": end.time_s - warm.time_s,
    }


def _measure_latency(config: PipelineBenchConfig, *, rate: float) -> dict[str, Any]:
    """Measures the latency from clicks to changes at a rate that the agent sustains."""
    rows = int(rate * (_WARM_UP_S + config.half_load_s))
    with _agent(config, "frequency"), Observer(config.kafka) as observer, _children(config) as children:
        _start_replay(children, config, ["--loop", "--limit", str(rows), "--rate", str(rate)])
        started_s, warm_s, warm_up = 0.0, 0.0, None
        while "replay" not in children.check():
            observer.look()
            if observer.latency.count and not started_s:
                started_s = time.monotonic()
            is_warm = started_s and time.monotonic() - started_s > _WARM_UP_S and not observer.num_behind
            if warm_up is None and is_warm:
                warm_s = time.monotonic() - started_s
                warm_up, observer.latency = observer.latency, LatencyHistogram()
        steady = observer.latency
    return {
        "event_to_assignment": steady.summary(),
        "changes": steady.count,
        "warm_up": {**warm_up.summary(), "changes": warm_up.count, "seconds": warm_s} if warm_up else None,
        "rows_per_s": rate,
    }


@contextmanager
def _children(config: PipelineBenchConfig) -> Iterator[Children]:
    with Children(config.folder, {"KAFKA_BOOTSTRAP_SERVERS": config.kafka.bootstrap_servers}) as children:
        yield children


@contextmanager
def _agent(config: PipelineBenchConfig, signal: str) -> Iterator[None]:
    """Runs an agent process that has all shards."""
    with _children(config) as children, AgentFigures(config.kafka) as figures:
        children.start(
            f"agent-{signal}",
            ["agent", "--capacity", str(config.capacity), "--signal", signal, "--session-timeout", "6",
             *config.child_options],
        )  # fmt: skip

        def has_shards() -> bool:
            children.check()
            return figures.look().num_shards == config.shards

        _wait_until(has_shards, "agent")
        yield
        children.stop(f"agent-{signal}")


def _wait_until(is_done: Any, what: str) -> None:
    deadline_s = time.monotonic() + _DEADLINE_S
    while not is_done():
        if time.monotonic() > deadline_s:
            raise ChildError(f"{what} was not done after {_DEADLINE_S:.0f} s")
        time.sleep(0.005)
