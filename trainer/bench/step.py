"""The cost of a training step with the adaptive embedding, compared with a plain hash table of the same bytes.

Both learners train on the same click records, alternating in one process (A B, B A, A B, ...), so that other load on
the machine affects both. The adaptive learner has all features enabled: its importance is split by shard and encoded,
an agent in the same process counts it outside the timed section, and the resulting changes are decoded and applied
inside.

Whole steps are timed as `Learner.step` runs them, starting from the bytes of the record. The embedding's part (forward,
backward, update, feedback) is timed in separate steps, which are split at the looked-up vectors. As in `Session`, a
second thread encodes the importance of the previous step and decodes what the agent has published since; a step ends
when that thread is done as well. `beside_ms` is the work of the second thread, which adds to the step if there is no
second core.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from sketch.changes import Changes
from streams.assignments.columns import Fetch
from streams.assignments.history import History
from streams.clients.worker import Worker
from streams.importance import count_keys
from streams.keys import CRITEO_FIELDS, field_key
from streams.records import ClickBatch, Encoded, encode_clicks
from trainer.bench import parts
from trainer.bench.feed import DENSE_NAMES, NUM_SHARDS, Agent, Stream, decode, decode_all, send, work_beside
from trainer.embedding.adaptive import AdaptiveEmbedding
from trainer.embedding.lookup import Importance
from trainer.embedding.plans import plan_for_capacity
from trainer.learning.building import build_trainer
from trainer.learning.learner import Learner
from trainer.learning.model_config import ModelConfig
from trainer.learning.trainer import ADAPTIVE, HASH

__all__ = ["BenchConfig", "Case", "measure_applying", "measure_case"]

_FILL_ROWS = 1_500_000
_BOTH = (HASH, ADAPTIVE)


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Configuration of the benchmark.

    Args:
        device: the device to measure.
        model: `dlrm`, `wdl` or `dcn`, with the sizes of the paper.
        compression: the size of a full float32 table of Criteo Kaggle's features, relative to the embedding.
        row_format: the row format of both embeddings.
        steps: pairs of whole steps per case, and as many pairs of split steps.
        seed: the seed of weights and rows.
    """

    device: torch.device
    model: str = "dlrm"
    compression: float = 1000.0
    row_format: str = "float32"
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


class _Bench:
    """Two learners, an agent, and a clock."""

    def __init__(self, config: BenchConfig, dim: int, batch_rows: int) -> None:
        self.config, self.batch_rows, self.case = config, batch_rows, Case(dim, batch_rows)
        self.stream = Stream(config.seed)
        model = ModelConfig(
            model=config.model,
            dim=dim,
            compression=config.compression,
            row_format=config.row_format,
            compare_hash=True,
            seed=config.seed,
        )
        self.trainer = build_trainer(model, CRITEO_FIELDS, len(DENSE_NAMES), config.device)
        embedding = self.trainer.embedding
        assert isinstance(embedding, AdaptiveEmbedding)  # noqa: S101  `build_trainer` makes no other
        self.embedding = embedding
        self._agent = Agent(self.embedding.plan.capacity_rows)
        self._history = History(NUM_SHARDS)
        self._worker = Worker("outbox")
        self._published: list[Encoded] = []
        self._decoded: list[Any] = []
        self._unsent: list[tuple[Importance, ClickBatch, int]] = []
        self._offset = 0
        self.apply_s: list[float] = []
        self.num_changes = 0

    def now(self) -> float:
        """Seconds, after all queued work of the device is done."""
        if self.config.device.type == "cuda":
            torch.cuda.synchronize(self.config.device)
        return time.perf_counter()

    def fill(self) -> None:
        """Fills the hot set from a stream of 1.5 million rows, with scores like those of real gradients."""
        score = 0.0
        for _ in range(4):
            batch = self.stream.take(self.batch_rows)
            for learner in self.trainer.learners.values():
                importance = learner.step(*self._tensors(batch)).importance
                score = score if importance is None else float(importance.scores.sum() / batch.keys.size)
        for _ in range(_FILL_ROWS // 8192):
            keys, counts = count_keys(self.stream.take(8192).keys)
            for changes in self._agent.fill(keys, counts * np.float32(score)):
                self.embedding.migrate(changes)

    def _tensors(self, batch: ClickBatch) -> tuple[Tensor, Tensor, Tensor]:
        """The tensors of a batch, as in `Trainer.step`."""
        device = self.config.device
        dense = torch.from_numpy(np.array(batch.dense, np.float32)).to(device)
        keys = torch.from_numpy(np.array(batch.keys).view(np.int64)).to(device)
        return dense, keys, torch.from_numpy(batch.require_labels().astype(np.float32)).to(device)

    def _follow(self) -> None:
        """Applies the changes that were decoded during the previous step."""
        fetches = [
            Fetch(partition=shard, records=[record for record in self._decoded if record.shard == shard])
            for shard in range(NUM_SHARDS)
        ]
        outcomes = [self._history.take(fetch) for fetch in fetches]
        self.embedding.migrate(Changes.concatenate([outcome.changes for outcome in outcomes]))
        self.num_changes += sum(int(outcome.counts.sum()) for outcome in outcomes)

    def _start_beside(self) -> None:
        """Starts the second thread: it encodes the importance of the last step and decodes the resulting changes."""
        self._decoded, unsent, self._unsent = [], self._unsent, []
        self._worker.submit(work_beside, unsent, self._published, self._decoded)

    def whole(self, name: str, value: bytes) -> float:
        """Seconds of a whole step."""
        started_s = self.now()
        if name == ADAPTIVE:
            self._follow()
            self.apply_s.append(self.now() - started_s)
        batch = decode(value)
        beside = self._start_beside if name == ADAPTIVE else None
        importance = self.trainer.learners[name].step(*self._tensors(batch), beside).importance
        if name == ADAPTIVE:
            self._worker.drain()
        took_s = self.now() - started_s
        self._after(importance, batch)
        return took_s

    def opened(self, name: str, value: bytes) -> float:
        """Seconds of the embedding's part of a step."""
        batch, learner = decode(value), self.trainer.learners[name]
        dense, keys, label = self._tensors(batch)
        if name == ADAPTIVE:
            self._follow()
        started_s = self.now()
        vectors = learner.embedding(keys)
        if name == ADAPTIVE:
            self._start_beside()
        forward_s = self.now() - started_s
        leaf = vectors.detach().requires_grad_()
        loss = binary_cross_entropy_with_logits(learner.model(dense, leaf), label)
        learner.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        learner.optimizer.step()
        started_s = self.now()
        vectors.backward(leaf.grad)
        importance = learner.embedding.apply_gradients()
        took_s = forward_s + self.now() - started_s
        self._worker.drain()
        self._after(importance, batch)
        return took_s

    def _after(self, importance: Importance | None, batch: ClickBatch) -> None:
        if importance is not None:
            self._published = self._agent.count(importance, batch, self._offset)
            self._unsent.append((importance, batch, self._offset))
            self._offset += 1

    def take_turns(self, kind: Any, steps: int) -> dict[str, npt.NDArray[np.float64]]:
        """Milliseconds of the steps of each learner, on the same records."""
        taken: dict[str, list[float]] = {name: [] for name in _BOTH}
        for turn in range(steps):
            value = encode_clicks(self.stream.take(self.batch_rows))
            for name in _BOTH if turn % 2 == 0 else reversed(_BOTH):
                taken[name].append(kind(name, value) * 1e3)
        return {name: np.array(times) for name, times in taken.items()}

    def beside_ms(self, steps: int = 7) -> dict[str, float]:
        """Milliseconds of the second thread's work in a step, measured alone (medians)."""
        taken: dict[str, list[float]] = {"encode importance": [], "decode assignments": []}
        for _ in range(steps):
            self.whole(ADAPTIVE, encode_clicks(self.stream.take(self.batch_rows)))
            importance, batch, offset = self._unsent[-1]
            started_s = time.perf_counter()
            send(importance, batch, offset)
            sent_s = time.perf_counter()
            decode_all(self._published, [])
            taken["encode importance"].append((sent_s - started_s) * 1e3)
            taken["decode assignments"].append((time.perf_counter() - sent_s) * 1e3)
        return {name: float(np.median(times)) for name, times in taken.items()}

    def work(self) -> None:
        """Runs some work of the dense part."""
        dim = self.embedding.plan.dim
        self.trainer.learners[HASH].model(torch.zeros(256, len(DENSE_NAMES)), torch.zeros(256, len(CRITEO_FIELDS), dim))


def _ratio(times: dict[str, npt.NDArray[np.float64]]) -> float:
    """The ratio of adaptive to hash: the geometric mean of the median ratios in either order of execution.

    The order within a pair affects the times; the geometric mean of both orders cancels the effect.
    """
    ratios = times[ADAPTIVE] / times[HASH]
    return float(np.sqrt(np.median(ratios[::2]) * np.median(ratios[1::2])))


def measure_case(config: BenchConfig, dim: int, batch_rows: int) -> Case:
    """Measures all figures of one dimension and batch size."""
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
    batch = bench.stream.take(batch_rows)
    lookups = batch.keys.reshape(-1)
    hot = bench.embedding.router.values(lookups)
    case.distinct = {"lookups": lookups.size, "keys": len(np.unique(lookups)), "hot": int((hot >= 0).sum())}
    if config.device.type == "cpu":
        case.limit_ms = parts.limit_ms(bench.embedding, batch.keys, bench.work)
        case.limit_share = {name: case.limit_ms / ms for name, ms in case.embedding_ms.items()}
        case.parts_ms = parts.parts_ms(bench.embedding, batch)
    case.beside_ms = bench.beside_ms()
    case.checkpoint_copy_ms = parts.checkpoint_copy_ms(bench.trainer.unsorted_tensors, bench.now)
    case.burst = parts.burst(bench.embedding, case.step_ms[ADAPTIVE], bench.now)
    return case


def measure_applying(config: BenchConfig, dim: int, counts: tuple[int, ...]) -> list[dict[str, float]]:
    """Milliseconds to apply batches of changes, half of them demotions, to a full table."""
    capacity = max(counts) // 2
    plan = plan_for_capacity(capacity, dim, len(CRITEO_FIELDS), row_format=config.row_format)
    figures = []
    for count in counts:
        embedding = AdaptiveEmbedding(plan, seed=config.seed, device=config.device)
        keys = field_key(1) | np.arange(1, capacity + 1, dtype=np.uint64)
        rows = np.arange(capacity, dtype=np.int32)
        embedding.migrate(Changes(keys, rows, np.ones(capacity, np.float32)))
        changes = parts.swaps(embedding, count)
        started_s = time.perf_counter()
        embedding.migrate(changes)
        if config.device.type == "cuda":
            torch.cuda.synchronize(config.device)
        took_ms = (time.perf_counter() - started_s) * 1e3
        figures.append({"changes": len(changes), "ms": took_ms, "us_per_change": took_ms * 1e3 / len(changes)})
    return figures
