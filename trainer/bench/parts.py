"""Measures parts of a step: the parts of the embedding, a lower bound for it, and bursts of changes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sketch.changes import NO_ROW, Changes
from streams.keys import field_key
from streams.records import ClickBatch
from trainer.embedding.adaptive import AdaptiveEmbedding
from trainer.embedding.lookup import distinct
from trainer.embedding.stores import kernels as store_kernels
from trainer.process.change_pacer import ChangePacer

__all__ = ["burst", "checkpoint_copy_ms", "limit_ms", "parts_ms", "swaps"]

_BURST = 100_000


def burst(embedding: AdaptiveEmbedding, step_ms: float, now: Callable[[], float]) -> dict[str, float]:
    """The longest pause between steps and the number of steps while a burst of 100,000 changes is applied."""
    pacer, applied, pauses_ms, steps = ChangePacer(), 0, [], 0
    pacer.note_step(step_ms / 1e3)
    changes = swaps(embedding, min(_BURST, 2 * embedding.num_hot))
    while applied < len(changes):
        started_s = now()
        part = slice(applied, applied + pacer.limit)
        chosen = Changes(changes.key[part], changes.row[part], changes.score[part])
        embedding.migrate(chosen)
        took_s = now() - started_s
        pacer.note_changes(len(chosen), took_s)
        applied, steps = applied + len(chosen), steps + 1
        pauses_ms.append(took_s * 1e3)
    return {"changes": applied, "steps": steps, "longest_pause_ms": max(pauses_ms), "total_ms": sum(pauses_ms)}


def checkpoint_copy_ms(name_tensors: Callable[[], Mapping[str, Tensor]], now: Callable[[], float]) -> float:
    """Milliseconds for which a checkpoint blocks training."""
    started_s = now()
    copies = [tensor.detach().clone() for tensor in name_tensors().values()]
    took_s = now() - started_s
    return took_s * 1e3 if copies else 0.0


def limit_ms(embedding: AdaptiveEmbedding, keys: npt.NDArray[np.uint64], between: Callable[[], Any]) -> float:
    """A lower bound: the time to move the bytes once (read and write rows, read a gradient, write vectors).

    Args:
        embedding: the embedding to measure.
        keys: (B, F), the keys of a batch.
        between: other work to run before each measurement.
    """
    words = torch.from_numpy(keys.reshape(-1).view(np.int64))
    rows, num_rows = _touched(embedding, words, len(keys))
    rows = np.random.default_rng(0).permutation(rows)
    table = np.zeros((num_rows, embedding.plan.row_bytes), np.uint8)
    source, target = (torch.zeros(keys.size, embedding.plan.dim) for _ in range(2))
    copies = torch.empty(keys.size, dtype=torch.int64)
    times = []
    for _ in range(9):
        between()
        started_s = time.perf_counter()
        store_kernels.touch(table, rows)
        target.copy_(source)  # reads as many bytes as a gradient has, writes as many as the vectors
        copies.copy_(words)
        times.append(time.perf_counter() - started_s)
    return float(np.median(times)) * 1e3


def _touched(embedding: AdaptiveEmbedding, words: Tensor, batch_rows: int) -> tuple[npt.NDArray[np.int32], int]:
    """The distinct rows that keys (N,) read, numbered across all stores, and the number of all rows."""
    touched, first = [], 0
    lookup = embedding.look_up(words, batch_rows)
    unique, shared = (reads.addresses for reads in lookup.reads.values())
    stores = (embedding.unique, embedding.shared.level_1, embedding.shared.level_2)
    for store, addresses in zip(stores, (unique, shared[:, :1], shared[:, 1:]), strict=True):
        touched.append(np.unique(addresses) + first)
        first += store.num_rows
    return np.concatenate(touched).astype(np.int32), first


def parts_ms(embedding: AdaptiveEmbedding, batch: ClickBatch) -> dict[str, float]:
    """Milliseconds of each part of an embedding step, on a CPU (medians)."""
    taken: dict[str, list[float]] = {}
    words = np.array(batch.keys).reshape(-1)
    gradient = torch.randn(len(words), embedding.plan.dim) * 1e-6

    def note(name: str, started_s: float) -> float:
        now_s = time.perf_counter()
        taken.setdefault(name, []).append((now_s - started_s) * 1e3)
        return time.perf_counter()

    for _ in range(7):
        clock_s = time.perf_counter()
        unique, _ = distinct(words)
        clock_s = note("find distinct keys", clock_s)
        embedding.router.route(torch.from_numpy(unique.view(np.int64)))
        clock_s = note("route", clock_s)
        lookup = embedding.look_up(torch.from_numpy(words.view(np.int64)), len(batch.keys))
        clock_s = note("look up (both, and addresses)", clock_s)
        embedding.gather(lookup)
        clock_s = note("gather", clock_s)
        touched = embedding.reduce(lookup, gradient)
        clock_s = note("merge gradients, scores", clock_s)
        for store, sums in zip((embedding.unique, embedding.shared), touched.sums.values(), strict=True):
            store.learn(sums, touched.batch_rows)
        note("update rows", clock_s)
    return {name: float(np.median(times)) for name, times in taken.items()}


def swaps(embedding: AdaptiveEmbedding, count: int) -> Changes:
    """`count` changes that demote hot keys, each followed by the promotion of a new key into the same row."""
    keys, values = embedding.router.items()
    hot = values >= 0
    leaving, rows = keys[hot][: count // 2], values[hot][: count // 2]
    coming = field_key(1) | (np.arange(len(rows), dtype=np.uint64) + np.uint64(1 << 40))
    both = np.stack([leaving, coming], axis=1).reshape(-1)
    new_rows = np.stack([np.full(len(rows), NO_ROW, np.int32), rows], axis=1).reshape(-1)
    return Changes(both, new_rows, np.ones(len(both), np.float32))
