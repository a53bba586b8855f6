"""One cell of the comparison: one method, trained in one pass; each row is predicted before it is trained on."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from trainer.embedding.value_bags import sum_vectors
from trainer.errors import TrainerError
from trainer.evaluate.methods.method import Brief, Infeasible, Knob, Method
from trainer.evaluate.methods.registry import METHODS
from trainer.evaluate.presets import Preset
from trainer.evaluate.schedules.feeding import Feeding
from trainer.evaluate.schedules.registry import build_schedule, why_not
from trainer.evaluate.schedules.schedule import MicroBatch
from trainer.evaluate.sources.stream import RowSource, Stream, load_stream
from trainer.learning.quality import Quality

__all__ = ["BudgetError", "Cell", "CellResult", "run_cell"]

_FORMAT = 3  # increases when the results of an older version are no longer comparable
_LAST_60_SHARE = 0.6  # without the start, which differs by up to .07 between seeds and hides the rest
_LAST_SHARE = 1 / 7  # corresponds to the last of the seven days in the paper
_WINDOWS = 50

CellResult = dict[str, Any]


class BudgetError(TrainerError, RuntimeError):
    """A method allocates more bytes than its budget, so its result would be invalid."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Everything that determines the result of a cell.

    Attributes:
        source: the source of the rows.
        num_rows: rows to read; None for all rows of the files.
        preset: the training set-up.
        model: `dlrm`, `wdl` or `dcn`.
        method: the method's name.
        knobs: the method's settings.
        compression: bytes of the full table over those of the method; 1 for the full table.
        seed: the seed of weights, hashes and stochastic rounding.
        trained_rows: train on the first so many rows; None for all. Vocabulary and budget are those of all rows.
        feeding: how training is fed.
    """

    source: RowSource
    num_rows: int | None
    preset: Preset
    model: str
    method: str
    compression: float
    seed: int
    knobs: Mapping[str, Knob] = field(default_factory=dict)
    trained_rows: int | None = None
    feeding: Feeding = field(default_factory=Feeding)

    def describe(self) -> dict[str, Any]:
        """Returns all of it as JSON values."""
        return {
            **self.feeding.describe(),
            "format": _FORMAT,
            "source": self.source.describe(),
            "num_rows": self.num_rows,
            "preset": self.preset.describe(),
            "model": self.model,
            "method": self.method,
            "knobs": dict(self.knobs),
            "compression": self.compression,
            "seed": self.seed,
            "trained_rows": self.trained_rows,
        }

    @property
    def name(self) -> str:
        """The unique name of the cell, without a suffix the name of its file."""
        digest = hashlib.sha256(json.dumps(self.describe(), sort_keys=True).encode()).hexdigest()[:12]
        return f"{self.method}-{self.model}-{self.compression:g}x-seed{self.seed}-{digest}"

    def brief(self, stream: Stream) -> Brief:
        """Returns the input of the method's `build`; the budget includes the optimizer state."""
        brief = Brief(
            budget_bytes=0,
            dim=self.preset.dim,
            field_sizes=stream.field_sizes,
            optimizer=self.preset.optimizer,
            learning_rate=self.preset.learning_rate * float(self.knobs.get("rate_factor", 1.0)),
            epsilon=float(self.knobs.get("epsilon", self.preset.epsilon)),
            seed=self.seed,
            knobs=self.knobs,
            counts=stream.counts,
        )
        budget_bytes = int(brief.full_bytes / self.compression)
        return Brief(**{**vars(brief), "budget_bytes": budget_bytes})


def _check(method: Method, cell: Cell, budget_bytes: int) -> int:
    if method.nbytes > budget_bytes:
        raise BudgetError(f"{cell.name}: takes {method.nbytes} bytes, expected at most {budget_bytes}")
    return method.nbytes


def run_cell(cell: Cell) -> CellResult:
    """Trains and evaluates the cell. Equal cells give equal results, except for `seconds`.

    Raises:
        BudgetError: the method exceeds its budget.
    """
    started_s = time.perf_counter()
    stream = load_stream(cell.source, cell.num_rows)
    brief = cell.brief(stream)
    identity = {
        "method": cell.method,
        "model": cell.model,
        "compression": cell.compression,
        "seed": cell.seed,
        "features": brief.num_features,
        "budget_bytes": brief.budget_bytes,
        "knobs": dict(cell.knobs),
    }
    method = METHODS[cell.method].build(brief)
    if not isinstance(method, Infeasible) and stream.has_bags and not method.reads_lists:
        has = "several" if stream.more is not None else "weights"
        method = Infeasible(f"it reads one value a field, and fields of this log have {has}")
    if not isinstance(method, Infeasible) and (reason := why_not(cell.feeding, method, stream)):
        method = Infeasible(reason)
    if isinstance(method, Infeasible):
        return {**identity, "rows": 0, "infeasible": method.reason}
    _check(method, cell, brief.budget_bytes)
    num_rows = min(cell.trained_rows or stream.num_rows, stream.num_rows)
    metrics = _train(cell, stream, num_rows, method)
    sizes = {"rows": num_rows, "bytes": _check(method, cell, brief.budget_bytes), "paper_bytes": method.paper_bytes}
    seconds = round(time.perf_counter() - started_s, 2)
    return {**identity, **sizes, **metrics, "details": method.describe(), "seconds": seconds}


def _first_row(num_rows: int, share: float) -> int:
    """Returns the first row of the last `share` of the rows."""
    return num_rows - int(num_rows * share)


def _since(rows: MicroBatch, first_row: int) -> slice | npt.NDArray[np.bool_]:
    """Which of the rows (B,) of a micro-batch are `first_row` or later ones."""
    return slice(max(0, first_row - rows.start), None) if isinstance(rows, slice) else rows >= first_row


def _lookup(stream: Stream, words: npt.NDArray[Any], rows: MicroBatch, method: Method) -> Tensor:
    """The vectors (B, F, D) of a micro-batch."""
    bags = stream.bags(rows, reads_ids=method.reads_ids) if isinstance(rows, slice) else None
    if bags is not None:
        return sum_vectors(method.forward_values(bags.keys, bags.num_rows), bags)
    vectors: Tensor = method(torch.from_numpy(words[rows].astype(np.int64, copy=True)))
    return vectors


def _train(cell: Cell, stream: Stream, num_rows: int, method: Method) -> CellResult:
    num_dense = stream.dense.shape[1]
    model = cell.preset.build_model(cell.model, num_dense=num_dense, num_fields=stream.num_fields, seed=cell.seed)
    optimizer = cell.preset.dense.build(chain(model.parameters(), method.parameters()))
    words = stream.ids if method.reads_ids else stream.keys.view(np.int64)
    total, last_60, last, window = Quality(), Quality(), Quality(), Quality()
    curve: list[list[float | None]] = []
    batches = [*stream.batches(cell.preset.batch_rows, num_rows=num_rows)]
    schedule, num_trained = build_schedule(cell.feeding, method, words, batches), 0
    parts = ((total, 0), (last_60, _first_row(num_rows, _LAST_60_SHARE)), (last, _first_row(num_rows, _LAST_SHARE)))
    for number, step in enumerate(schedule.steps):
        schedule.fetch(number)
        optimizer.zero_grad(set_to_none=True)
        labels, predicted = [stream.label[rows] for rows in step], []
        step_rows = sum(map(len, labels))
        for rows, label in zip(step, labels, strict=True):
            dense = torch.from_numpy(stream.dense[rows])  # (B, M)
            logits = model(dense, _lookup(stream, words, rows, method))  # (B,)
            weight = None if stream.weight is None else torch.from_numpy(stream.weight[rows])  # (B,)
            loss = binary_cross_entropy_with_logits(logits, torch.from_numpy(label.astype(np.float32)), weight)
            (loss * (len(label) / step_rows)).backward()  # type: ignore[no-untyped-call]
            predicted.append(logits.detach().numpy())
        optimizer.step()
        method.learn()
        schedule.write_back(number)
        num_trained += step_rows
        for rows, label, logits in zip(step, labels, predicted, strict=True):
            for quality, first_row in (*parts, (window, 0)):
                later = _since(rows, first_row)
                quality.add(logits[later], label[later])
        if window.rows >= num_rows / _WINDOWS:
            curve.append([num_trained, window.log_loss, window.auc])
            window = Quality()
    return {
        "auc": total.auc,
        "logloss": total.log_loss,
        "auc_last_60": last_60.auc,
        "auc_last": last.auc,
        "logloss_last": last.log_loss,
        "curve": curve,
        **({} if cell.feeding.name == "plain" else {cell.feeding.key: schedule.counts()}),
    }
