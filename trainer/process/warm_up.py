"""Everything that a first step would compile, load or start, done on a small model that is then thrown away."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from sketch.changes import COLD, HOT, NO_ROW, WARM, Changes
from streams.errors import InvariantError
from streams.keys import Field
from streams.records import BadRecord, ClickBatch, Source, decode_clicks, encode_clicks
from trainer.learning.building import build_trainer
from trainer.learning.model_config import ModelConfig
from trainer.process.outbox import encode_parts

__all__ = ["warm_up"]

logger = logging.getLogger(__name__)

_ROWS, _CAPACITY, _VALUES = 64, 64, 40


def _batch(fields: tuple[Field, ...], dense_names: tuple[str, ...], seed: int) -> ClickBatch:
    """A click record of few values, as it comes from the topic."""
    generator = np.random.default_rng(seed)
    numbers = np.arange(1, len(fields) + 1, dtype=np.uint64) << np.uint64(56)  # (F,)
    said = ClickBatch(
        label=generator.integers(0, 2, _ROWS).astype(np.int8),
        dense=generator.random((_ROWS, len(dense_names)), np.float32),
        keys=numbers | generator.integers(1, _VALUES, (_ROWS, len(fields)), np.uint64),
        event_time_ms=np.zeros(_ROWS, np.int64),
        fields=fields,
        dense_names=dense_names,
    )
    batch = decode_clicks(encode_clicks(said), [], fields=fields, dense_names=dense_names)
    if isinstance(batch, BadRecord):
        raise InvariantError(f"a click record of our own cannot be read: {batch.reason}")
    return batch


def warm_up(config: ModelConfig, fields: Sequence[Field], dense_names: Sequence[str], device: torch.device) -> float:
    """Trains a few batches of nothing, with promotions and demotions between them; returns the seconds that it took.

    Without it the first steps of a process wait for compilers, and the changes that they bring about wait with them.
    The random state is left as it is.
    """
    started_s = time.perf_counter()
    small = replace(config, capacity_rows=_CAPACITY, embedding_bytes=None, compression=None)
    columns = tuple(fields)
    with torch.random.fork_rng():
        trainer = build_trainer(small, columns, len(dense_names), device)
        for turn in range(3):
            batch = _batch(columns, tuple(dense_names), turn)
            importance = trainer.step(batch).importance
            source = Source(signal="gradient", topic="clicks", partition=0, offset=turn)
            encode_parts(importance, source, batch, 0, 2)
            keys = importance.keys[:_CAPACITY]
            tiers = np.resize(np.array([HOT, WARM, COLD], np.uint8), len(keys))
            rows = np.where(tiers == HOT, np.arange(len(keys)), NO_ROW).astype(np.int32)
            trainer.migrate(Changes(keys, tiers, rows, importance.scores[:_CAPACITY]))
    took_s = time.perf_counter() - started_s
    logger.info("ready: kernels compiled or loaded in %.1f s", took_s)
    return took_s
