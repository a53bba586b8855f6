"""AUC and log loss of a stream of predictions in constant memory.

The AUC is computed from two histograms of the logits, one per label; a tie counts as half a pair. Bins are 1/2048 wide,
so the error is about 1e-5 unless most logits fall into a few bins. A test compares it with the exact rank formula.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Quality", "Windows"]

_NUM_BINS = 1 << 16
_LIMIT = 16.0  # beyond +-16 a predicted probability is within 1.2e-7 of 0 or 1
_SCALE = _NUM_BINS / (2 * _LIMIT)
_MAX_WINDOWS = 4096

Logits = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int8]


class Quality:
    """Accumulates predictions; `auc` and `log_loss` cover all of them. It takes 1 MB, whatever their number."""

    def __init__(self) -> None:
        self._counts = np.zeros((2, _NUM_BINS), np.int64)  # (label, bin)
        self._loss_sum = 0.0
        self._num_nan = 0

    @property
    def rows(self) -> int:
        """The number of predictions."""
        return int(self._counts.sum())

    def add(self, logits: Logits, labels: Labels) -> None:
        """Adds (B,) predictions; an infinite logit counts as +-1000. After a NaN there is no AUC and no log loss."""
        self._num_nan += int(np.isnan(logits).sum())
        clean = np.nan_to_num(logits.astype(np.float64), nan=0.0, posinf=1e3, neginf=-1e3)
        bins = np.clip((clean + _LIMIT) * _SCALE, 0, _NUM_BINS - 1).astype(np.int64)
        np.add.at(self._counts, (labels.astype(np.int64), bins), 1)
        # log(1 + e^x) - y x, without overflow
        losses = np.maximum(clean, 0) - clean * labels + np.log1p(np.exp(-np.abs(clean)))
        self._loss_sum += float(losses.sum())

    def add_up(self, other: Quality) -> None:
        """Adds another one's predictions."""
        self._counts += other._counts
        self._loss_sum += other._loss_sum
        self._num_nan += other._num_nan

    @property
    def auc(self) -> float | None:
        """The share of (click, no click) pairs in the correct order; None without both labels, or after a NaN."""
        negatives, positives = self._counts
        pairs = int(negatives.sum()) * int(positives.sum())
        if pairs == 0 or self._num_nan:
            return None
        below = np.cumsum(negatives) - negatives
        return float(np.dot(positives.astype(np.float64), below + negatives / 2) / pairs)

    @property
    def log_loss(self) -> float | None:
        """The mean negative log likelihood in nats; None before the first prediction, or after a NaN."""
        return self._loss_sum / self.rows if self.rows and not self._num_nan else None

    def to_state(self) -> dict[str, Any]:
        """Returns the state for `from_state` as JSON values; it contains only the bins that are not empty."""
        label, bin_index = np.nonzero(self._counts)
        return {
            "label": label.tolist(),
            "bin": bin_index.tolist(),
            "count": self._counts[label, bin_index].tolist(),
            "loss_sum": self._loss_sum,
            "nan": self._num_nan,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Quality:
        """Restores the object from the state that `to_state` returned."""
        quality = cls()
        quality._counts[state["label"], state["bin"]] = state["count"]
        quality._loss_sum = float(state["loss_sum"])
        quality._num_nan = int(state["nan"])
        return quality


class Windows:
    """Prequential quality of one or more models over the same rows, in total and by windows of rows.

    A window ends with the batch that fills it. `finished` keeps the last 4096 windows.

    Args:
        names: the models' names, for example `adaptive` and `hash`.
        window_rows: rows of a window.
    """

    def __init__(self, names: list[str], window_rows: int = 20_000) -> None:
        self.names = names
        self.window_rows = window_rows
        self.rows = 0
        self.total = {name: Quality() for name in names}
        self.finished: list[dict[str, float | int | None]] = []
        self._current = {name: Quality() for name in names}

    def add(self, logits: Mapping[str, Logits], labels: Labels) -> None:
        """Adds one batch: (B,) logits of each model and the (B,) labels."""
        for name in self.names:
            self.total[name].add(logits[name], labels)
            self._current[name].add(logits[name], labels)
        self.rows += len(labels)
        if self._current[self.names[0]].rows >= self.window_rows:
            self.finished = [*self.finished, self._describe()][-_MAX_WINDOWS:]
            self._current = {name: Quality() for name in self.names}

    def add_up(self, other: Windows) -> None:
        """Adds another one's predictions of the same models; finished windows stay apart, the longer list is kept."""
        self.rows += other.rows
        self.finished = max(self.finished, other.finished, key=len)
        for name in self.names:
            self.total[name].add_up(other.total[name])
            self._current[name].add_up(other._current[name])

    def _describe(self) -> dict[str, float | int | None]:
        window: dict[str, float | int | None] = {"rows": self.rows}
        for name, quality in self._current.items():
            window[f"auc_{name}"] = quality.auc
            window[f"log_loss_{name}"] = quality.log_loss
        return window

    def auc(self) -> dict[str, float | None]:
        """Returns the AUC of each model over all rows."""
        return {name: quality.auc for name, quality in self.total.items()}

    def log_loss(self) -> dict[str, float | None]:
        """Returns the log loss of each model over all rows."""
        return {name: quality.log_loss for name, quality in self.total.items()}

    def latest_auc(self) -> dict[str, float | None]:
        """Returns the AUC of each model in the last finished window; before that, in the unfinished first one."""
        if not self.finished:
            return {name: quality.auc for name, quality in self._current.items()}
        return {name: self.finished[-1][f"auc_{name}"] for name in self.names}

    def to_state(self) -> dict[str, Any]:
        """Returns the state for `from_state` as JSON values."""
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
        """Restores the object from the state that `to_state` returned."""
        windows = cls(list(state["names"]), int(state["window_rows"]))
        windows.rows = int(state["rows"])
        windows.finished = list(state["finished"])
        windows.total = {name: Quality.from_state(part) for name, part in state["total"].items()}
        windows._current = {name: Quality.from_state(part) for name, part in state["current"].items()}
        return windows
