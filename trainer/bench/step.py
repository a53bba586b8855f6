"""What a training step costs with the adaptive embedding and with a plain hash table of the same bytes.

Both learners train on the same click records, in turns, in one process (A B, B A, A B, ...), so that what else the
machine does hits both. The adaptive one has everything on: its importance is split by shard and encoded for the wire,
an agent in the same process counts it outside the clock, and what that publishes is decoded and applied inside it.

A step is timed whole, as `Learner.step` runs it, from the record's bytes on; the embedding's part (forward, backward,
update, feedback) in steps of their own, which are cut open at the looked-up vectors. As in `Session`, a second thread
encodes the importance of the step before and decodes what the agent has published since; a step is over when that is
done too. What the second thread does costs as much again where there is no second core: `beside_ms`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from sketch.changes import COLD, HOT, NO_ROW, Changes
from sketch.hashing import shard_of
from streams.agent.shard import Shard, ShardConfig
from streams.assignments.columns import Fetch
from streams.assignments.history import History
from streams.clients.worker import Worker
from streams.generator import Generator, GeneratorConfig
from streams.importance import count_keys, split_by_shard
from streams.keys import CRITEO_FIELDS
from streams.records import (
    BadRecord,
    ClickBatch,
    Encoded,
    Source,
    decode_assignment,
    decode_clicks,
    encode_clicks,
)
from trainer.embedding.adaptive import AdaptiveEmbedding
from trainer.embedding.lookup import Importance, distinct
from trainer.embedding.plans import RowFormatName, plan_for_capacity
from trainer.embedding.stores import kernels as format_kernels
from trainer.learning.building import build_trainer
from trainer.learning.learner import Learner
from trainer.learning.model_config import ModelConfig
from trainer.learning.trainer import ADAPTIVE, HASH
from trainer.process.change_pacer import ChangePacer
from trainer.process.outbox import encode_parts

__all__ = ["BenchConfig", "Case", "measure_applying", "measure_case"]

_SHARDS = 2
_FILL_ROWS = 1_500_000
_BURST = 100_000
_BOTH = (HASH, ADAPTIVE)
_DENSE_NAMES = tuple(f"I{number}" for number in range(1, 14))


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """What is measured.

    Args:
        device: where.
        model: `dlrm`, `wdl` or `dcn`, with the paper's sizes.
        compression: a full table of Criteo Kaggle's features in float32 is so many times as large.
        row_format: of both embeddings.
        gate: whether the adaptive one has a learned gate.
        steps: pairs of steps measured of a case, and as many again cut open.
        seed: of weights and rows.
    """

    device: torch.device
    model: str = "dlrm"
    compression: float = 1000.0
    row_format: RowFormatName = "float32"
    gate: bool = False
    steps: int = 30
    seed: int = 0


@dataclass
class Case:
    """The figures of one dimension and batch size, times in milliseconds (medians)."""

    dim: int
    batch_rows: int
    step_ms: dict[str, float] = field(default_factory=dict)
    embedding_ms: dict[str, float] = field(default_factory=dict)
    step_ratio: float = 0.0
    embedding_ratio: float = 0.0
    samples_per_s: dict[str, float] = field(default_factory=dict)
    limit_ms: float = 0.0
    limit_share: dict[str, float] = field(default_factory=dict)
    changes_per_step: float = 0.0
    apply_ms_per_step: float = 0.0
    beside_ms: dict[str, float] = field(default_factory=dict)
    checkpoint_copy_ms: float = 0.0
    burst: dict[str, float] = field(default_factory=dict)
    parts_ms: dict[str, float] = field(default_factory=dict)
    embedding_bytes: dict[str, int] = field(default_factory=dict)
    hot: dict[str, int] = field(default_factory=dict)
    distinct: dict[str, int] = field(default_factory=dict)


class _Stream:
    """Synthetic Criteo rows as click records of any size, from one place in the stream on."""

    def __init__(self, seed: int) -> None:
        self._generator = Generator(GeneratorConfig(seed=seed))
        self.next_row = 0

    def take(self, num_rows: int) -> ClickBatch:
        """The next rows."""
        block = next(self._generator.blocks(num_rows, num_rows, self.next_row))
        self.next_row += num_rows
        fields = np.arange(1, len(CRITEO_FIELDS) + 1, dtype=np.uint64) << np.uint64(56)
        return ClickBatch(
            label=block.label,
            dense=block.dense,
            keys=fields | block.payloads,
            event_time_ms=np.arange(num_rows, dtype=np.int64),
            fields=CRITEO_FIELDS,
            dense_names=_DENSE_NAMES,
        )


class _Agent:
    """The shards of an agent without a broker."""

    def __init__(self, capacity: int) -> None:
        self.shards = [Shard(number, ShardConfig(capacity=capacity, num_shards=_SHARDS)) for number in range(_SHARDS)]

    def fill(self, keys: npt.NDArray[np.uint64], scores: npt.NDArray[np.float32]) -> Iterator[Changes]:
        """Counts keys at once and gives each shard's changes."""
        numbers = shard_of(keys, _SHARDS)
        for number, shard in enumerate(self.shards):
            changes = shard.hot_set.update(keys[numbers == number], scores[numbers == number])
            shard.table.apply(changes)
            shard.seq += len(changes)
            yield changes

    def count(self, importance: Importance, batch: ClickBatch, offset: int) -> list[Encoded]:
        """Counts a step's importance and gives the assignment records."""
        records: list[Encoded] = []
        for number, part in split_by_shard(
            importance.keys, importance.scores, batch, _source(offset), num_shards=_SHARDS, ingest_ms=0
        ):
            said = self.shards[number].count(offset, part)
            if isinstance(said, BadRecord):
                raise TypeError(said.reason)
            records += said
        return records


def _source(offset: int) -> Source:
    return Source(signal="gradient", topic="clicks", partition=0, offset=offset)


def _send(importance: Importance, batch: ClickBatch, offset: int) -> None:
    """What the outbox does with a step's importance before the producer has it."""
    encode_parts(importance, _source(offset), batch, 0, _SHARDS)


def _decode_all(records: list[Encoded], decoded: list[Any]) -> None:
    """What the session's decoder does with assignment records."""
    decoded += [decode_assignment(key, value, headers) for key, value, headers in records]


def _work_beside(unsent: list[tuple[Importance, ClickBatch, int]], records: list[Encoded], decoded: list[Any]) -> None:
    """All that the second thread does of a step."""
    for waiting in unsent:
        _send(*waiting)
    _decode_all(records, decoded)


def _decode(value: bytes) -> ClickBatch:
    batch = decode_clicks(value, [], fields=CRITEO_FIELDS, dense_names=_DENSE_NAMES)
    if isinstance(batch, BadRecord):
        raise TypeError(batch.reason)
    return batch


class _Bench:
    """Two learners, an agent, and a clock."""

    def __init__(self, config: BenchConfig, dim: int, batch_rows: int) -> None:
        self.config, self.batch_rows, self.case = config, batch_rows, Case(dim, batch_rows)
        self._stream = _Stream(config.seed)
        model = ModelConfig(
            model=config.model,
            dim=dim,
            compression=config.compression,
            row_format=config.row_format,
            gate=config.gate,
            compare_hash=True,
            seed=config.seed,
        )
        self.trainer = build_trainer(model, CRITEO_FIELDS, len(_DENSE_NAMES), config.device)
        self.embedding = self.trainer.embedding
        self._agent = _Agent(self.embedding.plan.capacity_rows)
        self._history = History(_SHARDS)
        self._worker = Worker("outbox")
        self._published: list[Encoded] = []
        self._decoded: list[Any] = []
        self._unsent: list[tuple[Importance, ClickBatch, int]] = []
        self._offset = 0
        self.apply_s: list[float] = []
        self.num_changes = 0

    def _now(self) -> float:
        if self.config.device.type == "cuda":
            torch.cuda.synchronize(self.config.device)
        return time.perf_counter()

    def fill(self) -> None:
        """Fills the hot set with what a stream of 1.5 million rows makes hot, at the scores of real gradients."""
        score = 0.0
        for _ in range(4):
            batch = self._stream.take(self.batch_rows)
            for learner in self.trainer.learners.values():
                importance = learner.step(*self._tensors(batch)).importance
                score = score if importance is None else float(importance.scores.sum() / batch.keys.size)
        for _ in range(_FILL_ROWS // 8192):
            keys, counts = count_keys(self._stream.take(8192).keys)
            for changes in self._agent.fill(keys, counts * np.float32(score)):
                self.embedding.migrate(changes)

    def _tensors(self, batch: ClickBatch) -> tuple[Tensor, Tensor, Tensor]:
        """As `Trainer.step` makes them."""
        device = self.config.device
        dense = torch.from_numpy(np.array(batch.dense, np.float32)).to(device)
        keys = torch.from_numpy(np.array(batch.keys).view(np.int64)).to(device)
        return dense, keys, torch.from_numpy(batch.label.astype(np.float32)).to(device)

    def _follow(self) -> None:
        """Applies what was decoded during the step before."""
        fetches = [
            Fetch(partition=shard, records=[record for record in self._decoded if record.shard == shard])
            for shard in range(_SHARDS)
        ]
        outcomes = [self._history.take(fetch) for fetch in fetches]
        self.embedding.migrate(Changes.concatenate([outcome.changes for outcome in outcomes]))
        self.num_changes += sum(int(outcome.counts.sum()) for outcome in outcomes)

    def _start_beside(self) -> None:
        """Gives the second thread what the last step has left: to encode its importance, to decode what came of it."""
        self._decoded, unsent, self._unsent = [], self._unsent, []
        self._worker.submit(_work_beside, unsent, self._published, self._decoded)

    def whole(self, name: str, value: bytes) -> float:
        """Seconds of a whole step."""
        started_s = self._now()
        if name == ADAPTIVE:
            self._follow()
            self.apply_s.append(self._now() - started_s)
        batch = _decode(value)
        beside = self._start_beside if name == ADAPTIVE else None
        importance = self.trainer.learners[name].step(*self._tensors(batch), beside).importance
        if name == ADAPTIVE:
            self._worker.drain()
        took_s = self._now() - started_s
        self._after(importance, batch)
        return took_s

    def opened(self, name: str, value: bytes) -> float:
        """Seconds of the embedding's part of a step."""
        batch, learner = _decode(value), self.trainer.learners[name]
        dense, keys, label = self._tensors(batch)
        if name == ADAPTIVE:
            self._follow()
        started_s = self._now()
        vectors = learner.embedding(keys)
        if name == ADAPTIVE:
            self._start_beside()
        forward_s = self._now() - started_s
        leaf = vectors.detach().requires_grad_()
        loss = binary_cross_entropy_with_logits(learner.model(dense, leaf), label)
        learner.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        learner.optimizer.step()
        started_s = self._now()
        vectors.backward(leaf.grad)
        importance = learner.embedding.apply_gradients()
        took_s = forward_s + self._now() - started_s
        self._worker.drain()
        self._after(importance, batch)
        return took_s

    def _after(self, importance: Importance | None, batch: ClickBatch) -> None:
        if importance is not None:
            self._published = self._agent.count(importance, batch, self._offset)
            self._unsent.append((importance, batch, self._offset))
            self._offset += 1

    def take_turns(self, kind: Any, steps: int) -> dict[str, npt.NDArray[np.float64]]:
        """Milliseconds of each learner's steps, on the same records."""
        taken: dict[str, list[float]] = {name: [] for name in _BOTH}
        for turn in range(steps):
            value = encode_clicks(self._stream.take(self.batch_rows))
            for name in _BOTH if turn % 2 == 0 else reversed(_BOTH):
                taken[name].append(kind(name, value) * 1e3)
        return {name: np.array(times) for name, times in taken.items()}

    def burst(self, step_ms: float) -> dict[str, float]:
        """The longest pause between steps while 100,000 changes that came at once are applied, and how many steps."""
        pacer, applied, pauses_ms, steps = ChangePacer(), 0, [], 0
        pacer.note_step(step_ms / 1e3)
        changes = _swaps(self.embedding, min(_BURST, 2 * self.embedding.num_hot))
        while applied < len(changes):
            started_s = self._now()
            part = slice(applied, applied + pacer.limit)
            chosen = Changes(changes.key[part], changes.tier[part], changes.row[part], changes.score[part])
            self.embedding.migrate(chosen)
            took_s = self._now() - started_s
            pacer.note_changes(len(chosen), took_s)
            applied, steps = applied + len(chosen), steps + 1
            pauses_ms.append(took_s * 1e3)
        return {"changes": applied, "steps": steps, "longest_pause_ms": max(pauses_ms), "total_ms": sum(pauses_ms)}

    def beside_ms(self, steps: int = 7) -> dict[str, float]:
        """What the second thread does of a step, measured alone."""
        taken: dict[str, list[float]] = {"encode importance": [], "decode assignments": []}
        for _ in range(steps):
            self.whole(ADAPTIVE, encode_clicks(self._stream.take(self.batch_rows)))
            importance, batch, offset = self._unsent[-1]
            started_s = time.perf_counter()
            _send(importance, batch, offset)
            sent_s = time.perf_counter()
            _decode_all(self._published, [])
            taken["encode importance"].append((sent_s - started_s) * 1e3)
            taken["decode assignments"].append((time.perf_counter() - sent_s) * 1e3)
        return {name: float(np.median(times)) for name, times in taken.items()}

    def checkpoint_copy_ms(self) -> float:
        """How long training stands still for a checkpoint."""
        started_s = self._now()
        copies = [tensor.detach().clone() for tensor in self.trainer.unsorted_tensors().values()]
        took_s = self._now() - started_s
        return took_s * 1e3 if copies else 0.0

    def limit_ms(self, keys: npt.NDArray[np.uint64]) -> float:
        """The embedding part's bytes moved once: distinct rows read and written, a gradient read, vectors written."""
        lookup = self.embedding.look_up(torch.from_numpy(keys.reshape(-1).view(np.int64)), len(keys))
        plan = self.embedding.plan
        touched = torch.cat(lookup.routes).numpy()
        rows = np.unique(touched[touched != plan.layout.padding_row]).astype(np.int32)
        rows = np.random.default_rng(0).permutation(rows)
        table = np.zeros((plan.layout.num_rows, plan.row_bytes), np.uint8)
        source, target = (torch.zeros(keys.size, plan.dim) for _ in range(2))
        words, copies = torch.from_numpy(keys.reshape(-1).view(np.int64)), torch.empty(keys.size, dtype=torch.int64)
        times = []
        for _ in range(9):
            self.trainer.learners[HASH].model(
                torch.zeros(256, 13), torch.zeros(256, 26, plan.dim)
            )  # other work between
            started_s = time.perf_counter()
            format_kernels.touch(table, rows)
            target.copy_(source)  # reads a gradient's bytes, writes a vector's
            copies.copy_(words)
            times.append(time.perf_counter() - started_s)
        return float(np.median(times)) * 1e3

    def parts_ms(self, batch: ClickBatch) -> dict[str, float]:
        """Where the time of the adaptive embedding's part goes, on a CPU."""
        parts: dict[str, list[float]] = {}
        embedding = self.embedding
        words = np.array(batch.keys).reshape(-1)
        gradient = torch.randn(len(words), embedding.plan.dim) * 1e-6

        def note(name: str, started_s: float) -> float:
            now_s = time.perf_counter()
            parts.setdefault(name, []).append((now_s - started_s) * 1e3)
            return time.perf_counter()

        none = np.empty(0, np.float32)
        merge = format_kernels.row_kernels(embedding.plan.dim).merge_scores
        for _ in range(7):
            clock_s = time.perf_counter()
            unique, places = distinct(words)
            clock_s = note("find distinct keys", clock_s)
            routes = embedding.router.route(torch.from_numpy(unique.view(np.int64)))
            clock_s = note("route", clock_s)
            lookup = embedding.look_up(torch.from_numpy(words.view(np.int64)), len(batch.keys))
            clock_s = time.perf_counter()
            embedding.table.gather(lookup)
            clock_s = note("gather", clock_s)
            numbering = embedding.number(routes)
            clock_s = note("number rows", clock_s)
            sums, scores = (
                np.zeros((len(numbering.rows), gradient.shape[1]), np.float32),
                np.zeros(len(unique), np.float32),
            )
            merge(
                gradient.numpy(), places, numbering.numbers, np.float32(1), sums, scores, none, gradient.numpy(), none
            )
            clock_s = note("merge gradients, scores", clock_s)
            embedding.table.update(torch.from_numpy(numbering.rows), torch.from_numpy(sums))
            note("update rows", clock_s)
        return {name: float(np.median(times)) for name, times in parts.items()}


def _ratio(times: dict[str, npt.NDArray[np.float64]]) -> float:
    """Adaptive over hash, of the same records: who goes first is favoured or not, so the median of either order counts.

    The geometric mean of the two, which is free of what the order does.
    """
    ratios = times[ADAPTIVE] / times[HASH]
    return float(np.sqrt(np.median(ratios[::2]) * np.median(ratios[1::2])))


def _swaps(embedding: AdaptiveEmbedding, count: int) -> Changes:
    """`count` changes: every hot key that is there made cold, in turn with a new one that takes its row."""
    keys, values = embedding.router.items()
    hot = values >= 0
    leaving, rows = keys[hot][: count // 2], values[hot][: count // 2]
    coming = (np.uint64(1) << np.uint64(56)) | (np.arange(len(rows), dtype=np.uint64) + np.uint64(1 << 40))
    both = np.stack([leaving, coming], axis=1).reshape(-1)
    tiers = np.tile(np.array([COLD, HOT], np.uint8), len(rows))
    placed = np.stack([np.full(len(rows), NO_ROW, np.int32), rows], axis=1).reshape(-1)
    return Changes(both, tiers, placed, np.ones(len(both), np.float32))


def measure_case(config: BenchConfig, dim: int, batch_rows: int) -> Case:
    """All figures of one dimension and batch size."""
    bench = _Bench(config, dim, batch_rows)
    case = bench.case
    bench.fill()
    bench.take_turns(bench.whole, 4)
    bench.take_turns(bench.opened, 2)
    bench.apply_s, bench.num_changes = [], 0
    whole = bench.take_turns(bench.whole, config.steps)
    case.changes_per_step = bench.num_changes / config.steps
    case.apply_ms_per_step = float(np.median(bench.apply_s)) * 1e3
    opened = bench.take_turns(bench.opened, config.steps)
    case.step_ms = {name: float(np.median(times)) for name, times in whole.items()}
    case.embedding_ms = {name: float(np.median(times)) for name, times in opened.items()}
    case.step_ratio, case.embedding_ratio = _ratio(whole), _ratio(opened)
    case.samples_per_s = {name: batch_rows / ms * 1e3 for name, ms in case.step_ms.items()}
    learners: dict[str, Learner] = bench.trainer.learners
    case.embedding_bytes = {name: learner.embedding.nbytes["total"] for name, learner in learners.items()}
    case.hot = {"capacity": bench.embedding.plan.capacity_rows, "num": bench.embedding.num_hot}
    batch = bench._stream.take(batch_rows)  # noqa: SLF001
    lookups = batch.keys.reshape(-1)
    hot = bench.embedding.router.values(lookups)
    case.distinct = {"lookups": lookups.size, "keys": len(np.unique(lookups)), "hot": int((hot >= 0).sum())}
    if config.device.type == "cpu":
        case.limit_ms = bench.limit_ms(batch.keys)
        case.limit_share = {name: case.limit_ms / ms for name, ms in case.embedding_ms.items()}
        case.parts_ms = bench.parts_ms(batch)
    case.beside_ms = bench.beside_ms()
    case.checkpoint_copy_ms = bench.checkpoint_copy_ms()
    case.burst = bench.burst(case.step_ms[ADAPTIVE])
    return case


def measure_applying(config: BenchConfig, dim: int, counts: tuple[int, ...]) -> list[dict[str, float]]:
    """Milliseconds of applying so many changes at once, half of them demotions, to a table that is full."""
    capacity = max(counts) // 2
    plan = plan_for_capacity(capacity, dim, len(CRITEO_FIELDS), row_format=config.row_format)
    figures = []
    for count in counts:
        embedding = AdaptiveEmbedding(plan, seed=config.seed, device=config.device)
        keys = (np.uint64(1) << np.uint64(56)) | np.arange(1, capacity + 1, dtype=np.uint64)
        rows = np.arange(capacity, dtype=np.int32)
        embedding.migrate(Changes(keys, np.full(capacity, HOT, np.uint8), rows, np.ones(capacity, np.float32)))
        changes = _swaps(embedding, count)
        started_s = time.perf_counter()
        embedding.migrate(changes)
        if config.device.type == "cuda":
            torch.cuda.synchronize(config.device)
        took_ms = (time.perf_counter() - started_s) * 1e3
        figures.append({"changes": len(changes), "ms": took_ms, "us_per_change": took_ms * 1e3 / len(changes)})
    return figures
