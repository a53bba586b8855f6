"""What the pipeline carries: replay and agent beside the bare clients, and latencies at half load.

Every rate is a ratio within one run: the same records, the same broker, the same machine, one after the other.

- *replay*: `hotstream replay` of a file, from its first to its last record, against a producer that only sends the
  very records that the replay made.
- *agent*: `hotstream agent` on a topic that is full of importance records, against a consumer that only fetches them.
- *latency*: replay at half of what the agent that counts clicks itself (`--signal frequency`) carried flat out; from a
  click record's timestamp to the moment a subscriber read a change that it caused. The first five seconds, in which
  the hot set fills and every other record is a change, are told apart as `warm_up`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from kafka import KafkaConsumer, TopicPartition

from streams.config import KafkaConfig
from streams.counter import count_keys, split_by_shard
from streams.latency import LatencyHistogram
from streams.partition_log import open_partition_log
from streams.producer import RecordProducer
from streams.records import ClickBatch, Source, decode_clicks, encode_importance
from streams.topics import Topics, TopicSpec, create_topics
from trainer.demo.children import Children
from trainer.demo.observer import Observer
from trainer.errors import ChildError

__all__ = ["PipelineBenchConfig", "bench_pipeline"]

_CLICK_PARTITIONS = 4
_DEADLINE_S = 300.0
_WARM_UP_S = 5.0


@dataclass(frozen=True, kw_only=True)
class PipelineBenchConfig:
    """What to measure.

    Args:
        kafka: a broker that is running; topics are made under prefixes of their own.
        data: a click log in Criteo's format.
        folder: for logs.
        capacity: the agents' hot rows.
        batch_rows: rows a click record.
        shards: partitions of the importance topic (one agent process counts all).
        passes: how often the importance of the log is put into the topic, each time as that of new click records.
        half_load_s: how long the run at half load lasts.
    """

    kafka: KafkaConfig
    data: Path
    folder: Path
    capacity: int
    batch_rows: int
    shards: int
    passes: int
    half_load_s: float

    def named(self, name: str) -> PipelineBenchConfig:
        """The same under a prefix of its own."""
        return replace(self, kafka=replace(self.kafka, prefix=f"{self.kafka.prefix}-{name}"))

    @property
    def topics(self) -> Topics:
        """The topic names."""
        return Topics(self.kafka.prefix)

    def create_topics(self) -> None:
        """Creates them."""
        create_topics(self.kafka, self.topics.specs(click_partitions=_CLICK_PARTITIONS, shards=self.shards))


def bench_pipeline(config: PipelineBenchConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """Measures one part after the other; yields (report key, figures) as they are done.

    Raises:
        ChildError: a process failed or took more than five minutes.
    """
    flat_out = config.named("replay")
    flat_out.create_topics()
    replay, rows = _measure_replay(flat_out)
    yield "replay", replay
    yield "agent", _measure_agent(flat_out, config.named("agent"))
    carried = _measure_clicks_agent(flat_out, rows)
    yield "clicks_agent", carried
    half = config.named("half")
    half.create_topics()
    yield "latency_ms", _measure_latency(half, rate=carried["rows_per_s"] / 2)


def _measure_replay(config: PipelineBenchConfig) -> tuple[dict[str, Any], int]:
    """`hotstream replay` flat out, then a bare producer of the same records to a topic of its own."""
    report = _replay(config, [])
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
    figures = {
        "rows_per_s": report["rows_per_s"],
        "raw_rows_per_s": rows / raw_s,
        "ratio": report["rows_per_s"] * raw_s / rows,
        "rows": rows,
        "bytes": num_bytes,
        "raw_bytes_per_s": num_bytes / raw_s,
    }
    return figures, rows


def _replay(config: PipelineBenchConfig, options: list[str]) -> dict[str, Any]:
    with _children(config) as children:
        path = config.folder / "replay.json"
        children.start(
            "replay",
            ["replay", str(config.data), "--batch-rows", str(config.batch_rows), "--json", str(path),
             "--prefix", config.kafka.prefix, *options],
        )  # fmt: skip
        _wait_until(lambda: "replay" in children.check(), "replay")
        report: dict[str, Any] = json.loads(path.read_text())
        return report


def _measure_agent(clicks: PipelineBenchConfig, config: PipelineBenchConfig) -> dict[str, Any]:
    """An agent on importance that is already there, beside a bare consumer of it."""
    config.create_topics()
    records, events, num_bytes = _fill_importance(clicks, config)
    raw_s = _consume(config, records)
    with _agent(config, "gradient") as observer:
        rate = _rate_of(observer, records)
    return {
        "features_per_s": rate,
        "raw_features_per_s": events / raw_s,
        "ratio": rate * raw_s / events,
        "features": events,
        "records": records,
        "bytes": num_bytes,
    }


def _fill_importance(clicks: PipelineBenchConfig, config: PipelineBenchConfig) -> tuple[int, int, int]:
    """Puts the log's key counts into the importance topic, `passes` times; returns records, events, bytes."""
    records = events = num_bytes = 0
    with open_partition_log(clicks.kafka) as log, RecordProducer(config.kafka) as producer:
        for partition in range(_CLICK_PARTITIONS):
            begin, end = log.bounds(clicks.topics.clicks, partition)
            for record in log.read(clicks.topics.clicks, partition, begin, end):
                batch = decode_clicks(record.value, record.headers)
                if not isinstance(batch, ClickBatch):
                    raise ChildError(f"replay wrote a record that cannot be read: {batch}")
                keys, counts = count_keys(batch.keys)
                for turn in range(config.passes):
                    source = Source(
                        signal="gradient", topic=clicks.topics.clicks, partition=partition + turn * _CLICK_PARTITIONS,
                        offset=record.offset,
                    )  # fmt: skip
                    for shard, part in split_by_shard(
                        keys, counts, batch, source, num_shards=config.shards, ingest_ms=record.timestamp
                    ):
                        value, headers = encode_importance(part)
                        producer.send(config.topics.importance, shard, value, headers)
                        records, events, num_bytes = records + 1, events + len(part.keys), num_bytes + len(value)
        producer.wait()
    return records, events, num_bytes


def _consume(config: PipelineBenchConfig, num_records: int) -> float:
    """Seconds that a consumer needs to fetch all importance records and look at none."""
    consumer = KafkaConsumer(
        bootstrap_servers=config.kafka.servers,
        enable_auto_commit=False,
        max_partition_fetch_bytes=16 << 20,
        fetch_max_bytes=64 << 20,
        fetch_max_wait_ms=50,
        **config.kafka.client_arguments(),
    )
    try:
        places = [TopicPartition(config.topics.importance, number) for number in range(config.shards)]
        consumer.assign(places)
        consumer.seek_to_beginning(*places)
        seen, started_s = 0, time.perf_counter()
        while seen < num_records:
            seen += sum(len(records) for records in consumer.poll(timeout_ms=500).values())
            if time.perf_counter() - started_s > _DEADLINE_S:
                raise ChildError(f"a bare consumer read {seen} of {num_records} records in {_DEADLINE_S:.0f} s")
        return time.perf_counter() - started_s
    finally:
        consumer.close()


def _measure_clicks_agent(config: PipelineBenchConfig, rows: int) -> dict[str, Any]:
    """An agent that counts clicks itself: both of its halves share one core."""
    with open_partition_log(config.kafka) as log:
        records = sum(end - begin for begin, end in log.all_bounds(config.topics.clicks, _CLICK_PARTITIONS))
    with _agent(config, "frequency") as observer:
        rate = _rate_of(observer, records * config.shards)
        events = sum(shard["events"] for shard in observer.shards.values())
    return {"features_per_s": rate, "rows_per_s": rate * rows / events, "rows": rows}


def _measure_latency(config: PipelineBenchConfig, *, rate: float) -> dict[str, Any]:
    """Clicks in, changes read, at a rate that the agent can hold."""
    with _agent(config, "frequency") as observer:
        rows = int(rate * (_WARM_UP_S + config.half_load_s))
        with _children(config) as children:
            children.start(
                "replay-half",
                ["replay", str(config.data), "--loop", "--limit", str(rows), "--rate", str(rate),
                 "--batch-rows", str(config.batch_rows), "--prefix", config.kafka.prefix],
            )  # fmt: skip
            started_s, warm_up = 0.0, None
            while "replay-half" not in children.check():
                observer.look()
                if observer.latency.count and not started_s:
                    started_s = time.monotonic()
                if warm_up is None and started_s and time.monotonic() - started_s > _WARM_UP_S:
                    warm_up, observer.latency = observer.latency, LatencyHistogram()
        steady = observer.latency
    return {
        "event_to_assignment": steady.summary(),
        "changes": steady.count,
        "warm_up": warm_up.summary() if warm_up else None,
        "rows_per_s": rate,
    }


@contextmanager
def _children(config: PipelineBenchConfig) -> Iterator[Children]:
    with Children(config.folder, {"KAFKA_BOOTSTRAP_SERVERS": config.kafka.bootstrap_servers}) as children:
        yield children


@contextmanager
def _agent(config: PipelineBenchConfig, signal: str) -> Iterator[Observer]:
    """An agent process at work, and somebody who watches it."""
    with _children(config) as children, Observer(config.kafka) as observer:
        children.start(
            f"agent-{signal}",
            ["agent", "--capacity", str(config.capacity), "--signal", signal, "--prefix", config.kafka.prefix,
             "--session-timeout", "6"],
        )  # fmt: skip

        def has_shards() -> bool:
            children.check()
            observer.look()
            return len(observer.shards) == config.shards

        _wait_until(has_shards, "agent")
        yield observer
        children.stop(f"agent-{signal}")


def _rate_of(observer: Observer, num_records: int) -> float:
    """Feature events a second from the first to the last second in which the agent was busy."""
    seen: dict[int, tuple[int, int]] = {}

    def is_done() -> bool:
        observer.look()
        counted, events = observer.counted, sum(shard["events"] for shard in observer.shards.values())
        seen.setdefault(counted, (time.time_ns(), events))
        return counted >= num_records

    _wait_until(is_done, "agent")
    # The first sample may lie anywhere in the agent's start, and the last one up to a second after its end.
    samples = np.array([sample for _, sample in sorted(seen.items())][1:-1], np.int64)
    if len(samples) < 2:
        samples = np.array([sample for _, sample in sorted(seen.items())], np.int64)
    (first_ns, first_events), (last_ns, last_events) = samples[0], samples[-1]
    return float((last_events - first_events) / ((last_ns - first_ns) / 1e9))


def _wait_until(is_done: Any, what: str) -> None:
    deadline_s = time.monotonic() + _DEADLINE_S
    while not is_done():
        if time.monotonic() > deadline_s:
            raise ChildError(f"{what} was not done after {_DEADLINE_S:.0f} s")
        time.sleep(0.005)
