"""Measures the tables side by side: the embedding part of a step, whole steps, bytes and memory.

Every table trains on the same batches in turns (A B B A) with the same dense part. A whole step is that of a session:
pinned inputs, forward, backward, the device's own check of the step, update, and results that are read a step later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from trainer.bench.device.clock import DeviceClock
from trainer.bench.device.inputs import NUM_DENSE, NUM_FIELDS, Batch, fill_hot_set, make_batches
from trainer.bench.device.limits import adaptive_bytes, hash_bytes
from trainer.bench.device.tables import (
    ADAPTIVE,
    BAG,
    FBGEMM,
    HASH,
    BagTable,
    FbgemmTable,
    build_adaptive,
    build_hash,
    missing,
)
from trainer.embedding.transfers import to_device
from trainer.learning.dense_part import DenseOptimizer, DenseOptions
from trainer.learning.learner import Learner
from trainer.learning.models import build_model
from trainer.learning.readback import Readback, Waiting

__all__ = ["DeviceCase", "DeviceConfig", "measure_tables"]

_GRADIENT = 1e-6  # about as large as that of a mean over thousands of rows
_SMALL_ROWS = 8192


@dataclass(frozen=True, kw_only=True)
class DeviceConfig:
    """What to measure.

    Args:
        device: the device.
        model: `dlrm`, `wdl` or `dcn`.
        row_format: the format of our rows.
        backend: the body of our embeddings; None for the default of the device.
        mode: the mode of the dense part.
        turns: measurements of each table; their median counts.
        repeats: repetitions in a turn; None for 20, with large batches 5.
        seed: the seed of inputs and weights.
    """

    device: torch.device
    model: str = "dlrm"
    row_format: str = "float32"
    backend: str | None = None
    mode: str = "auto"
    turns: int = 6
    repeats: int | None = None
    seed: int = 0


@dataclass(kw_only=True)
class DeviceCase:
    """The figures of one dimension, hot set and batch size; by table, times in milliseconds (medians).

    Attributes:
        step_ms: whole steps.
        embedding_ms: lookup, and update with the gradient at the vectors.
        forward_ms: the lookup alone.
        limit_bytes: `limits` of our tables; `limit_ms` these bytes over the bandwidth.
        reads: lookups, distinct keys and hot lookups of a batch.
        nbytes: the bytes that a table counts; `allocated_bytes` what the device has allocated for it.
        transient_bytes: the most memory that a step's embedding part of the adaptive table takes beside the tables.
        skipped: tables that were not measured, and why.
    """

    dim: int
    batch_rows: int
    capacity_rows: int
    step_ms: dict[str, float] = field(default_factory=dict)
    embedding_ms: dict[str, float] = field(default_factory=dict)
    forward_ms: dict[str, float] = field(default_factory=dict)
    samples_per_s: dict[str, float] = field(default_factory=dict)
    limit_bytes: dict[str, int] = field(default_factory=dict)
    limit_ms: dict[str, float] = field(default_factory=dict)
    reads: dict[str, int] = field(default_factory=dict)
    nbytes: dict[str, int] = field(default_factory=dict)
    allocated_bytes: int = 0
    transient_bytes: int = 0
    skipped: dict[str, str] = field(default_factory=dict)


class _Side:
    """One table with its dense part."""

    def __init__(self, table: Any, config: DeviceConfig, dim: int) -> None:
        self.table, self._device = table, config.device
        model = build_model(config.model, num_dense=NUM_DENSE, num_fields=NUM_FIELDS, dim=dim, seed=config.seed)
        options = DenseOptions(mode=config.mode)  # type: ignore[arg-type]
        self._learner = Learner(model.to(config.device), table, DenseOptimizer(), options)
        self._accept = torch.ones((), dtype=torch.bool, device=config.device)
        self._readback = Readback(config.device)
        self._waiting: Waiting | None = None

    def embed(self, batch: Batch, gradient: Tensor) -> None:
        """The embedding part of a step."""
        vectors = self.table(batch.keys)
        vectors.backward(gradient)
        self.table.learn(self._accept)

    @torch.no_grad()
    def look_up(self, batch: Batch) -> None:
        """The lookup alone."""
        self.table(batch.keys)

    def step(self, batch: Batch) -> None:
        """A whole step, and the results of the one before."""
        dense, keys, label = (to_device(part, self._device) for part in batch.host)
        computed = self._learner.differentiate(dense, keys, label, record_rows=batch.record_rows)
        scores = self._learner.update(computed.is_finite)
        results = {"loss": computed.loss, "logits": computed.logits, "is_finite": computed.is_finite}
        if scores is not None:
            results |= scores.columns
        self.finish()
        self._waiting = self._readback.start(results)

    def finish(self) -> None:
        """Reads the results of the last step."""
        if self._waiting is not None:
            self._waiting.read()
        self._waiting = None


def _allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def _build(config: DeviceConfig, dim: int, capacity_rows: int) -> tuple[dict[str, _Side], dict[str, str], int]:
    """The tables, those that are missing and why, and the bytes allocated for the adaptive one."""
    options: dict[str, Any] = {"row_format": config.row_format, "backend": config.backend}
    before = _allocated(config.device)
    adaptive = build_adaptive(capacity_rows, dim, NUM_FIELDS, config.device, **options)
    fill_hot_set(adaptive, config.seed)
    allocated, nbytes = _allocated(config.device) - before, adaptive.nbytes["total"]
    tables: dict[str, Any] = {
        ADAPTIVE: adaptive,
        HASH: build_hash(nbytes, dim, NUM_FIELDS, config.device, **options),
        BAG: BagTable(nbytes, dim, config.device),
    }
    reason = missing(FBGEMM)
    if reason is None:
        tables[FBGEMM] = FbgemmTable(nbytes, dim, config.device)
    sides = {name: _Side(table, config, dim) for name, table in tables.items()}
    return sides, {} if reason is None else {FBGEMM: reason}, allocated


def measure_tables(
    config: DeviceConfig, dim: int, capacity_rows: int, batch_sizes: Sequence[int], bandwidth: float
) -> list[DeviceCase]:
    """Measures one hot set with every batch size.

    Args:
        config: what to measure.
        dim: D.
        capacity_rows: rows of the hot set.
        batch_sizes: rows of a step.
        bandwidth: bytes a second of the device's memory.
    """
    sides, skipped, allocated = _build(config, dim, capacity_rows)
    cases = []
    for batch_rows in batch_sizes:
        case = DeviceCase(dim=dim, batch_rows=batch_rows, capacity_rows=capacity_rows, skipped=skipped)
        case.allocated_bytes = allocated
        _measure(case, sides, config)
        case.limit_ms = {name: count / bandwidth * 1e3 for name, count in case.limit_bytes.items()}
        cases.append(case)
    return cases


def _measure(case: DeviceCase, sides: dict[str, _Side], config: DeviceConfig) -> None:
    rows, device = case.batch_rows, config.device
    batches = make_batches(8 if rows <= _SMALL_ROWS else 3, rows, device, config.seed)
    gradients = [
        torch.randn(rows, NUM_FIELDS, case.dim, device=device) * (_GRADIENT * 2048 / rows)
        for _ in range(4 if rows <= _SMALL_ROWS else 1)
    ]
    clock, repeats = DeviceClock(device), config.repeats or (20 if rows <= _SMALL_ROWS else 5)
    names, turns = list(sides), {"turns": config.turns, "repeats": repeats, "warm_up": 4}

    def of_each(work: Any) -> dict[str, float]:
        works = [lambda number, side=side: work(side, number) for side in sides.values()]
        return dict(zip(names, clock.take_turns(works, **turns), strict=True))

    def batch_of(number: int) -> Batch:
        return batches[number % len(batches)]

    case.forward_ms = of_each(lambda side, number: side.look_up(batch_of(number)))
    case.embedding_ms = of_each(lambda side, number: side.embed(batch_of(number), gradients[number % len(gradients)]))
    case.transient_bytes = _transient(sides[ADAPTIVE], batches[0], gradients[0], device)
    case.step_ms = of_each(lambda side, number: side.step(batch_of(number)))
    for side in sides.values():
        side.finish()
    case.samples_per_s = {name: rows / ms * 1e3 for name, ms in case.step_ms.items()}
    adaptive, hashed = sides[ADAPTIVE].table, sides[HASH].table
    counted = adaptive_bytes(adaptive, batches[0].keys)
    case.limit_bytes = {ADAPTIVE: counted.pop("bytes"), HASH: hash_bytes(hashed, batches[0].keys)}
    case.reads = counted
    case.nbytes = {ADAPTIVE: adaptive.nbytes["device"], HASH: hashed.nbytes["device"]}


def _transient(side: _Side, batch: Batch, gradient: Tensor, device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    side.embed(batch, gradient)
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before
