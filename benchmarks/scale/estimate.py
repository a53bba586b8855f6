"""What a large system needs, from the simulation and the figures of `benchmarks/results`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.scale.simulation import HALF_LIFE_PER_ROW, Keys, Simulated, draw_ranks
from sketch.changes import Changes
from sketch.hashing import mix64_array
from streams.keys import Field
from streams.records import ChangeEncoder, ClickBatch, encode_clicks
from trainer.advise.lookups import Lookups
from trainer.advise.tracking import measure_importance
from trainer.embedding.plans import plan_for_capacity

__all__ = ["Line", "System", "estimate"]

_RESULTS = Path(__file__).parent.parent / "results"
_LOAD = 0.5  # of what a core or a disk carries, so that a failure can be caught up with
_SNAPSHOT_RECORDS = 256  # the default of `--snapshot-every`
_TIME_MS = 1_700_000_000_000
_DENSE = 13


@dataclass(frozen=True, kw_only=True)
class System:
    """What is wanted.

    Args:
        rows_per_s: clicks a second.
        fields: categorical features of a click.
        features: distinct features.
        capacity: hot rows.
        dim: D.
        record_rows: clicks of a record.
        shards: partitions of `importance` and `assignments`.
        replication: copies of each topic.
    """

    rows_per_s: float
    fields: int
    features: int
    capacity: int
    dim: int
    record_rows: int
    shards: int
    replication: int


@dataclass(frozen=True, kw_only=True)
class Line:
    """A figure: what it is of, the number with its unit, and how it was found."""

    what: str
    value: float
    unit: str
    source: str


def _results(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((_RESULTS / name).read_text())
    return content


def _draw_rows(system: System, rows: int) -> Keys:
    """(rows, F) keys of the stream at its full number of features."""
    ranks = draw_ranks(np.random.default_rng(0), system.features, rows * system.fields).reshape(rows, system.fields)
    numbers = np.arange(1, system.fields + 1, dtype=np.uint64) << np.uint64(56)
    return numbers | (mix64_array(ranks) >> np.uint64(8))


def estimate(system: System, simulated: Sequence[Simulated]) -> list[Line]:
    """The figures, topic by topic and process by process."""
    fields = tuple(Field(f"C{number}", "hash") for number in range(1, system.fields + 1))
    keys = _draw_rows(system, system.record_rows)
    load = measure_importance(Lookups.of(keys), fields)
    largest = simulated[-1]
    click_bytes = len(_click_record(keys, fields)) / len(keys)
    counted_per_s = system.rows_per_s * load.features_per_row
    changes_per_s = counted_per_s * largest.changes_per_event
    return [
        *_topics(system, click_bytes, load.bytes_per_row, changes_per_s, _change_bytes(keys[0], fields)),
        *_agents(system, counted_per_s, largest),
        *_trainers(system),
    ]


def _click_record(keys: Keys, fields: tuple[Field, ...]) -> bytes:
    rows = len(keys)
    batch = ClickBatch(
        label=np.zeros(rows, np.int8), dense=np.random.default_rng(0).random((rows, _DENSE), np.float32), keys=keys,
        event_time_ms=np.zeros(rows, np.int64), fields=fields, dense_names=tuple(f"I{n}" for n in range(_DENSE)),
    )  # fmt: skip
    return encode_clicks(batch)


def _change_bytes(keys: Keys, fields: tuple[Field, ...]) -> float:
    """Mean bytes of key, value and headers of the records that make keys (F,) hot."""
    encoder = ChangeEncoder(
        shard=100, epoch=1, source=(100, 1_000_000), event_time_ms=_TIME_MS, ingest_ms=_TIME_MS, fields=fields,
        generation=1,
    )  # fmt: skip
    rows, scores = np.arange(len(keys), dtype=np.int32) + 50_000_000, np.full(len(keys), 12.345678, np.float32)
    encoded = encoder.encode(Changes(keys, rows, scores), 1_000_000)
    sizes = [
        len(key) + len(value or b"") + sum(len(name) + len(header) for name, header in headers)
        for key, value, headers in encoded
    ]
    return sum(sizes) / len(sizes)


def _topics(
    system: System, click_bytes: float, importance_bytes: float, changes_per_s: float, change_bytes: float
) -> list[Line]:
    pipeline = _results("pipeline.json")
    clicks, importance = system.rows_per_s * click_bytes, system.rows_per_s * importance_bytes
    changes = changes_per_s * change_bytes
    per_replay = pipeline["replay"]["rows_per_s"] * _LOAD
    written = (clicks + importance + changes) * system.replication
    return [
        Line(what="clicks", value=clicks / 1e6, unit="MB/s", source="a record of the stream, encoded"),
        Line(what="importance", value=importance / 1e6, unit="MB/s", source="its importance, encoded"),
        Line(what="changes", value=changes_per_s, unit="changes/s", source="simulation"),
        Line(what="assignments", value=changes / 1e6, unit="MB/s", source=f"{change_bytes:.0f} bytes each, encoded"),
        Line(what="written by brokers", value=written / 1e6, unit="MB/s", source=f"x {system.replication} copies"),
        Line(what="kept for seven days, clicks and importance", value=(clicks + importance) * 604_800
             * system.replication / 1e12, unit="TB", source="the default retention"),
        Line(what="assignments after compaction", value=system.capacity * change_bytes * system.replication / 1e9,
             unit="GB", source="one record a hot feature"),
        Line(what="replays (or other writers) at half load", value=math.ceil(system.rows_per_s / per_replay),
             unit="processes", source="pipeline.json"),
    ]  # fmt: skip


def _agents(system: System, counted_per_s: float, largest: Simulated) -> list[Line]:
    pipeline = _results("pipeline.json")
    cores = counted_per_s / (pipeline["agent"]["features_per_s"] * _LOAD)
    memory = system.capacity * largest.bytes_per_row
    records_per_s = system.rows_per_s / system.record_rows
    every_s = _SNAPSHOT_RECORDS / records_per_s
    fetch = pipeline["agent"]["bytes"] / pipeline["agent"]["features"] * pipeline["agent"]["raw_features_per_s"]
    shard_rows, shard_bytes = system.capacity / system.shards, memory / system.shards
    half_life_s = HALF_LIFE_PER_ROW * system.capacity / counted_per_s
    return [
        Line(what="features counted", value=counted_per_s / 1e6, unit="M/s",
             source="distinct features of a click record"),
        Line(what="agents, cores at half load", value=math.ceil(cores), unit="cores", source="pipeline.json"),
        Line(what="agents, memory of all", value=memory / 1e9, unit="GB", source="simulation"),
        Line(what="half-life of a score", value=half_life_s / 3600, unit="h", source="1,000 events a row, the default"),
        Line(what="snapshots, all, with the default of 256 records", value=memory / every_s / 1e6, unit="MB/s",
             source=f"one every {every_s:.1f} s a shard"),
        Line(what="snapshots, all, with --snapshot-every 30000", value=memory / every_s / 1e6 * 256 / 30_000,
             unit="MB/s", source=f"one every {every_s * 30_000 / 256:.0f} s a shard"),
        Line(what="one shard taken over: read its snapshot", value=shard_bytes / fetch, unit="s",
             source="pipeline.json, bare consumer"),
        Line(what="one shard taken over: restore it", value=shard_rows / 1e6 * largest.restore_s_per_million_rows,
             unit="s", source="simulation"),
    ]  # fmt: skip


def _trainers(system: System) -> list[Line]:
    planned = plan_for_capacity(system.capacity, system.dim, system.fields)
    cpu = next(one for one in _results("trainer.json")["cases"] if one["dim"] == 16 and one["batch_rows"] == 2048)
    gpu = max(
        (one for one in _results("trainer-cuda.json")["cases"] if one["dim"] == 16 and one["batch_rows"] == 65_536),
        key=lambda one: one["samples_per_s"]["adaptive"],
    )
    rates = {"a core": cpu["samples_per_s"]["adaptive"], "an H100": gpu["samples_per_s"]["adaptive"]}
    total = planned.nbytes["total"]
    serving = total - planned.nbytes["optimizer"]
    return [
        Line(what=f"embedding in training, D {system.dim}", value=total / 1e9, unit="GB", source="plan_for_capacity"),
        Line(what="embedding in serving", value=serving / 1e9, unit="GB", source="without the optimizer's state"),
        *(
            Line(what=f"trainers, of {name} each, at half load", value=math.ceil(system.rows_per_s / (rate * _LOAD)),
                 unit="processes", source="trainer.json" if name == "a core" else "trainer-cuda.json, batch 65,536")
            for name, rate in rates.items()
        ),
    ]  # fmt: skip
