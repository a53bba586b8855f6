"""An outside anchor for a comparison: one pass of logistic regression over all features, without an embedding.

A log on which the uncompressed table does not beat it is too short for embeddings to have learnt anything, so the
differences between their compressions are noise.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.evaluate.cell import CellResult
from trainer.evaluate.presets import Preset
from trainer.evaluate.sources.stream import Stream
from trainer.learning.quality import Quality

__all__ = ["Anchor", "find_too_short", "fit_regression", "scaled_batch_rows"]

_BATCH_ROWS, _LEARNING_RATE = 8, 0.05
_SHOWN_STEPS = 1000  # between two calls of `on_rows`
_FEWEST_STEPS, _SMALLEST_BATCH_ROWS = 200, 64


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """The result of the regression; each row was predicted before it was trained on.

    Attributes:
        rows: the number of rows.
        auc: the AUC; None without both labels.
        logloss: the mean log loss in nats.
    """

    rows: int
    auc: float | None
    logloss: float | None


def fit_regression(stream: Stream, on_rows: Callable[[int, int], None] = lambda _done, _total: None) -> Anchor:
    """Trains a weight for each feature and each dense column with Adagrad, 8 rows a step. O(N F).

    Args:
        stream: the rows.
        on_rows: called now and then with the number of rows trained and that of all.
    """
    inputs = np.log1p(np.maximum(np.nan_to_num(stream.dense, nan=0.0, posinf=0.0, neginf=0.0), 0)).astype(np.float32)
    weights = np.zeros((2, sum(stream.field_sizes)), np.float32)  # the weight and its Adagrad sum
    others = np.zeros((2, inputs.shape[1] + 1), np.float32)  # the same of the dense columns and of the bias
    inputs = np.concatenate([inputs, np.ones((len(inputs), 1), np.float32)], axis=1)
    quality = Quality()
    for step, rows in enumerate(stream.batches(_BATCH_ROWS, num_rows=stream.num_rows)):
        if step % _SHOWN_STEPS == 0:
            on_rows(step * _BATCH_ROWS, stream.num_rows)
        ids, label, dense = stream.ids[rows], stream.label[rows], inputs[rows]
        more_ids, more_rows, more_factors = _more_of(stream, rows)
        factors = 1.0 if stream.key_weights is None else stream.key_weights[rows]  # (B, F)
        logits = (weights[0, ids] * factors).sum(axis=1) + dense @ others[0]  # (B,)
        np.add.at(logits, more_rows, weights[0, more_ids] * more_factors)
        quality.add(logits, label)
        slopes = (1 / (1 + np.exp(-np.clip(logits, -30, 30))) - label).astype(np.float32)  # (B,)
        of_first = np.broadcast_to(slopes[:, None], ids.shape) * np.float32(factors)
        every_slope = np.concatenate([of_first.reshape(-1), slopes[more_rows] * more_factors])
        _step(weights, np.concatenate([ids.reshape(-1), more_ids]), every_slope)
        _step(others, np.arange(others.shape[1]), slopes @ dense)
    return Anchor(rows=stream.num_rows, auc=quality.auc, logloss=quality.log_loss)


def _more_of(stream: Stream, rows: slice) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.float32]]:
    """The ids (M,) of the further values of some rows, the row of each within the slice, and its weight."""
    if stream.more is None:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
    offsets, more = stream.more.offsets, stream.more.between(rows.start, rows.stop)
    ids = stream.more_ids[offsets[rows.start] : offsets[rows.stop]]
    return ids, more.rows, np.ones(len(ids), np.float32) if more.weights is None else more.weights


def _step(weights: npt.NDArray[np.float32], ids: npt.NDArray[Any], slopes: npt.NDArray[np.float32]) -> None:
    """One Adagrad step of weights (2, K) with slopes (N,) at ids (N,), which may repeat."""
    np.add.at(weights[1], ids, slopes * slopes)
    np.subtract.at(weights[0], ids, np.float32(_LEARNING_RATE) * slopes / np.sqrt(weights[1, ids] + np.float32(1e-6)))


def scaled_batch_rows(preset: Preset, num_rows: int) -> int:
    """The preset's batch size, halved until a pass has at least 200 steps, but not below 64 rows."""
    batch_rows = preset.batch_rows
    while num_rows / batch_rows < _FEWEST_STEPS and batch_rows > _SMALLEST_BATCH_ROWS:
        batch_rows //= 2
    return batch_rows


def find_too_short(cells: Sequence[CellResult], anchor: Anchor | None) -> str | None:
    """Why these results say nothing about embeddings; None if they do, or if there is no full table among them.

    The full table must beat the regression by AUC and by log loss. AUC alone may be won by ranking rows of different
    times by a base rate that drifts, and is blind to predictions that are too bold; log loss sees both.
    """
    if anchor is None:
        return None
    lost = []
    for name, known, measure, is_better in (
        ("auc", anchor.auc, "an AUC", operator.gt),
        ("logloss", anchor.logloss, "a log loss", operator.lt),
    ):
        of_full = [cell[name] for cell in cells if cell["method"] == "full" and cell.get(name) is not None]
        full = sum(of_full) / len(of_full) if of_full else None
        if full is not None and known is not None and not is_better(full, known):
            lost.append(f"{measure} of {full:.4f}, one pass of logistic regression {known:.4f}")
    if not lost:
        return None
    return (
        f"too short: on these {anchor.rows:,} rows the uncompressed table reaches {', and '.join(lost)}; so "
        "differences between methods are noise here, and none is better. Use more rows"
    )
