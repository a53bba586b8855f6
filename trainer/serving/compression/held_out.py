"""What a served model is worth on rows that it was not trained on, and how fast it looks up."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.learning.quality import Quality
from trainer.serving.predictor import Predictor

__all__ = ["HeldOut", "Worth", "measure"]

_TIMED = 20  # batches


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """B rows of a log.

    Attributes:
        dense: (B, M) float32.
        keys: (N,) uint64, all values of the B F fields.
        offsets: (B F,) int64, where each field's begin.
        label: (B,) int8.
        weights: (N,) float32, the factor of each value's vector; None for 1.
    """

    dense: npt.NDArray[np.float32]
    keys: npt.NDArray[np.uint64]
    offsets: npt.NDArray[np.int64]
    label: npt.NDArray[np.int8]
    weights: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True, kw_only=True)
class Worth:
    """The result.

    Attributes:
        auc: None without clicks, or with clicks alone.
        log_loss: in nats; None without rows.
        rows: measured.
        lookups_per_s: vectors a second of one thread's processor time, in the median of some batches.
    """

    auc: float | None
    log_loss: float | None
    rows: int
    lookups_per_s: float | None


def measure(predictor: Predictor, batches: Iterable[HeldOut]) -> Worth:
    """Predicts each batch; needs torch."""
    quality, rates = Quality(), list[float]()
    for batch in batches:
        quality.add(predictor.predict(batch.dense, batch.keys, batch.offsets, batch.weights), batch.label)
        if len(rates) < _TIMED:
            rates.append(_rate(predictor, batch.keys))
    pace: Any = statistics.median(rates) if rates else None
    return Worth(auc=quality.auc, log_loss=quality.log_loss, rows=quality.rows, lookups_per_s=pace)


def _rate(predictor: Predictor, keys: npt.NDArray[np.uint64]) -> float:
    start_s = time.thread_time()
    predictor.lookup(keys)
    return len(keys) / max(1e-9, time.thread_time() - start_s)
