"""Steps on batches in memory, in a process of one thread."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import torch
from torch._C._distributed_c10d import FileStore

from streams.keys import FIELD_SHIFT, Field
from streams.records import ClickBatch
from trainer.learning.building import build_trainer
from trainer.learning.model_config import ModelConfig
from trainer.ranks.group import Ranks
from trainer.ranks.trainer import RankedTrainer, build_ranked_trainer

__all__ = ["measure"]

_FIELDS, _DENSE, _BATCHES, _WARM, _DISTINCT = 26, 13, 20, 5, 100_000
_CPU = torch.device("cpu")


def _batch(rows: int, seed: int) -> ClickBatch:
    random = np.random.default_rng(seed)
    payloads = (random.zipf(1.2, (rows, _FIELDS)) % _DISTINCT).astype(np.uint64)
    return ClickBatch(
        label=random.integers(0, 2, rows).astype(np.int8),
        dense=random.random((rows, _DENSE), np.float32),
        keys=(np.arange(1, _FIELDS + 1, dtype=np.uint64) << FIELD_SHIFT) | payloads,
        event_time_ms=np.zeros(rows, np.int64),
        fields=tuple(Field(f"c{number}") for number in range(_FIELDS)),
        dense_names=tuple(f"d{number}" for number in range(_DENSE)),
    )


def measure(world: int, rank: int, meet: str, rows: int, steps: int, shards: int, ahead: bool) -> float:
    """Rows a second of all ranks; a world of 0 is a process without ranks. `ahead`: keys travel a step ahead."""
    torch.set_num_threads(1)
    config = ModelConfig(capacity_rows=20_000)
    batches = [_batch(rows, 1000 * rank + seed) for seed in range(_BATCHES)]
    ranks, trainer = Ranks(), build_trainer(config, batches[0].fields, _DENSE, _CPU)
    if world:
        ranks = Ranks.join(rank, world, _CPU, lambda: FileStore(meet, world))
        trainer = build_ranked_trainer(config, _FIELDS, _DENSE, shards, ranks, _CPU)

    def send_ahead(step: int) -> None:
        if ahead and isinstance(trainer, RankedTrainer):
            trainer.send_ahead(batches[(step + 1) % _BATCHES])

    for step in range(_WARM + steps):
        if step == _WARM:
            started_s = time.perf_counter()
        trainer.step(batches[step % _BATCHES], after_lookup=partial(send_ahead, step))
    took_s = time.perf_counter() - started_s
    if ahead and isinstance(trainer, RankedTrainer):
        trainer.drop_ahead()
    ranks.leave()
    return steps * rows * max(world, 1) / took_s
