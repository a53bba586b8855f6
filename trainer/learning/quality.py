"""AUC and log loss of a stream of predictions in a fixed amount of memory.

The AUC comes from two histograms of logits, one per label, with ties counted half. Bins are 1/2048 wide, so it is
right to about 1e-5 for predictions that are spread at all; a test holds it to the rank formula.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Quality", "Windows"]

_NUM_BINS = 1 << 16
_LIMIT = 16.0  # logits beyond +-16 are certain either way
_SCALE = _NUM_BINS / (2 * _LIMIT)
_MAX_WINDOWS = 4096

Logits = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int8]


class Quality:
    """Counts predictions; `auc` and `log_loss` of all of them since the start.

    Memory: 1 MB, whatever was counted.
    """

    def __init__(self) -> None:
        self._counts = np.zeros((2, _NUM_BINS), np.int64)  # (label, bin)
        self._loss_sum = 0.0

    @property
    def rows(self) -> int:
        """Predictions counted."""
        return int(self._counts.sum())

    def add(self, logits: Logits, labels: Labels) -> None:
        """Counts (B,) predictions; a logit that is no number counts as 0."""
        clean = np.nan_to_num(logits.astype(np.float64), nan=0.0, posinf=1e3, neginf=-1e3)
        bins = np.clip((clean + _LIMIT) * _SCALE, 0, _NUM_BINS - 1).astype(np.int64)
        np.add.at(self._counts, (labels.astype(np.int64), bins), 1)
        # log(1 + e^x) - y x, without overflow
        losses = np.maximum(clean, 0) - clean * labels + np.log1p(np.exp(-np.abs(clean)))
        self._loss_sum += float(losses.sum())

    @property
    def auc(self) -> float | None:
        """The share of (click, no click) pairs in the right order, ties half; None while one of the two is missing."""
        negatives, positives = self._counts
        pairs = int(negatives.sum()) * int(positives.sum())
        if pairs == 0:
            return None
        below = np.cumsum(negatives) - negatives
        return float(np.dot(positives.astype(np.float64), below + negatives / 2) / pairs)

    @property
    def log_loss(self) -> float | None:
        """The mean negative log likelihood in nats; None before the first prediction."""
        return self._loss_sum / self.rows if self.rows else None

    def to_state(self) -> dict[str, Any]:
        """What `from_state` needs, as numbers that JSON can hold: only the bins that are not empty."""
        label, place = np.nonzero(self._counts)
        return {
            "label": label.tolist(),
            "bin": place.tolist(),
            "count": self._counts[label, place].tolist(),
            "loss_sum": self._loss_sum,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Quality:
        """The counts that `to_state` described."""
        quality = cls()
        quality._counts[state["label"], state["bin"]] = state["count"]
        quality._loss_sum = float(state["loss_sum"])
        return quality


class Windows:
    """Prequential quality of one or more models over the same rows: in total, and by windows of rows.

    A window ends with the first batch that fills it. The last 4096 windows are kept.

    Args:
        names: of the models, for example `adaptive` and `hash`.
        window_rows: rows to a window.
    """

    def __init__(self, names: list[str], window_rows: int = 20_000) -> None:
        self.names = names
        self.window_rows = window_rows
        self.rows = 0
        self.total = {name: Quality() for name in names}
        self.finished: list[dict[str, float | int | None]] = []
        self._current = {name: Quality() for name in names}

    def add(self, logits: Mapping[str, Logits], labels: Labels) -> None:
        """Counts one batch: each model's (B,) logits of the same rows."""
        for name in self.names:
            self.total[name].add(logits[name], labels)
            self._current[name].add(logits[name], labels)
        self.rows += len(labels)
        if self._current[self.names[0]].rows >= self.window_rows:
            self.finished = [*self.finished, self._describe()][-_MAX_WINDOWS:]
            self._current = {name: Quality() for name in self.names}

    def _describe(self) -> dict[str, float | int | None]:
        window: dict[str, float | int | None] = {"rows": self.rows}
        for name, quality in self._current.items():
            window[f"auc_{name}"] = quality.auc
            window[f"log_loss_{name}"] = quality.log_loss
        return window

    def auc(self) -> dict[str, float | None]:
        """Each model's AUC over all rows."""
        return {name: quality.auc for name, quality in self.total.items()}

    def log_loss(self) -> dict[str, float | None]:
        """Each model's log loss over all rows."""
        return {name: quality.log_loss for name, quality in self.total.items()}

    def latest_auc(self) -> dict[str, float | None]:
        """Each model's AUC in the last finished window, or so far in the first."""
        if not self.finished:
            return {name: quality.auc for name, quality in self._current.items()}
        return {name: self.finished[-1][f"auc_{name}"] for name in self.names}

    def to_state(self) -> dict[str, Any]:
        """What `from_state` needs, for JSON."""
        return {
            "names": self.names,
            "window_rows": self.window_rows,
            "rows": self.rows,
            "finished": self.finished,
            "total": {name: quality.to_state() for name, quality in self.total.items()},
            "current": {name: quality.to_state() for name, quality in self._current.items()},
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Windows:
        """The windows that `to_state` described."""
        windows = cls(list(state["names"]), int(state["window_rows"]))
        windows.rows = int(state["rows"])
        windows.finished = list(state["finished"])
        windows.total = {name: Quality.from_state(part) for name, part in state["total"].items()}
        windows._current = {name: Quality.from_state(part) for name, part in state["current"].items()}
        return windows
