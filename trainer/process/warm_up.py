"""Compiles, loads and starts everything that a first step needs, by training a small temporary model."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from sketch.changes import NO_ROW, Changes
from streams.errors import InvariantError
from streams.keys import Field
from streams.records import BadRecord, ClickBatch, Source, decode_clicks, encode_clicks
from trainer.learning.building import build_trainer
from trainer.learning.model_config import ModelConfig
from trainer.process.outbox import encode_parts

__all__ = ["warm_up"]

logger = logging.getLogger(__name__)

_ROWS, _CAPACITY, _VALUES = 64, 64, 40
_RATE = 0.001


def _batch(fields: tuple[Field, ...], dense_names: tuple[str, ...], seed: int) -> ClickBatch:
    """A small click record, encoded and decoded like one from the topic."""
    generator = np.random.default_rng(seed)
    numbers = np.arange(1, len(fields) + 1, dtype=np.uint64) << np.uint64(56)  # (F,)
    original = ClickBatch(
        label=generator.integers(0, 2, _ROWS).astype(np.int8),
        dense=generator.random((_ROWS, len(dense_names)), np.float32),
        keys=numbers | generator.integers(1, _VALUES, (_ROWS, len(fields)), np.uint64),
        event_time_ms=np.zeros(_ROWS, np.int64),
        fields=fields,
        dense_names=dense_names,
    )
    batch = decode_clicks(encode_clicks(original), [], fields=fields, dense_names=dense_names)
    if isinstance(batch, BadRecord):
        raise InvariantError(f"warm-up: got a bad click record ({batch.reason}), expected the one just encoded")
    return batch


def warm_up(config: ModelConfig, fields: Sequence[Field], dense_names: Sequence[str], device: torch.device) -> float:
    """Trains a few random batches with promotions and demotions between them; returns the time that it took in seconds.

    Without it the first steps of a process wait for compilers, and delay the changes that they cause. The random state
    is preserved.
    """
    started_s = time.perf_counter()
    logger.info("compiles or loads its kernels, which takes about a minute once after an installation")
    small = replace(
        config,
        capacity_rows=_CAPACITY,
        embedding_bytes=None,
        compression=None,
        dense_optimizer=replace(config.dense_optimizer, learning_rate=_RATE),  # a large one might diverge
        row_hyperparameters=replace(config.row_hyperparameters, learning_rate=_RATE),
    )
    columns = tuple(fields)
    with torch.random.fork_rng():
        trainer = build_trainer(small, columns, len(dense_names), device)
        for turn in range(3):
            batch = _batch(columns, tuple(dense_names), turn)
            importance = trainer.step(batch).importance
            if importance is None:
                raise InvariantError("warm-up: got a loss or gradient that is not finite, expected finite numbers")
            source = Source(signal="gradient", topic="clicks", partition=0, offset=turn)
            encode_parts(importance, source, batch, 0, 2)
            keys = importance.keys[:_CAPACITY]
            rows = np.arange(len(keys), dtype=np.int32)
            rows[1::2] = NO_ROW
            trainer.migrate(Changes(keys, rows, importance.scores[:_CAPACITY]))
    took_s = time.perf_counter() - started_s
    logger.info("ready: kernels compiled or loaded in %.1f s", took_s)
    return took_s
