"""`Trainer`: one step maps a batch of clicks to predictions, losses and importance."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sketch.changes import Changes
from streams.records import ClickBatch
from trainer.embedding.hashed import HashEmbedding
from trainer.embedding.key_embedding import FollowingEmbedding
from trainer.embedding.lookup import Importance, Scores, split_scores
from trainer.embedding.migration import MigrationReport
from trainer.embedding.transfers import to_device
from trainer.embedding.value_bags import Bags
from trainer.learning.dense_part import Computed, DenseOptions
from trainer.learning.learner import DenseOptimizer, Learner
from trainer.learning.readback import Readback, Waiting

__all__ = ["ADAPTIVE", "HASH", "StartedStep", "StepReport", "Trainer", "keys_of"]

ADAPTIVE, HASH = "adaptive", "hash"


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """The result of one training step.

    Attributes:
        rows: B, the rows of the batch.
        loss: the mean log loss of the predictions in nats, by learner.
        logits: (B,) float32 predictions, computed before training on these rows, by learner.
        importances: the importance of the keys of each click record to the adaptive learner, in the order of the
            records; none if the step was refused.
        diverged: the learners whose loss or gradients are not finite; if there are any, the step was refused.
        seconds: from the step's start until its report was read; on a device the next step starts in between.
    """

    rows: int
    loss: Mapping[str, float]
    logits: Mapping[str, npt.NDArray[np.float32]]
    importances: tuple[Importance, ...]
    diverged: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def importance(self) -> Importance | None:
        """The importance of the keys of the first click record; None if the step was refused."""
        return self.importances[0] if self.importances else None


class StartedStep:
    """A step whose work is done (on a CPU) or queued on a device.

    Args:
        rows: B.
        results: what `Trainer` reads back, by name and learner.
        started_s: when it started, in seconds of `time.perf_counter`.
    """

    def __init__(self, rows: int, names: tuple[str, ...], results: Waiting, *, started_s: float) -> None:
        self.rows, self._names, self._results = rows, names, results
        self._started_s = started_s

    def finish(self) -> StepReport:
        """Waits for the step, and for no later one, and returns its report."""
        read = self._results.read()
        seconds = time.perf_counter() - self._started_s
        is_finite = read["is_finite"]
        diverged = tuple(name for name, good in zip(self._names, is_finite, strict=True) if not good)
        return StepReport(
            rows=self.rows,
            loss={name: float(loss) for name, loss in zip(self._names, read["loss"], strict=True)},
            logits={name: read[f"logits.{name}"] for name in self._names},
            importances=() if diverged else split_scores(read["keys"], read["scores"], read.get("counts")),
            diverged=diverged,
            seconds=seconds,
        )


def keys_of(batch: ClickBatch, device: torch.device) -> Tensor | Bags:
    """The keys (B, F) as int64, or the bags of rows with further values or weights."""
    if batch.more is not None or batch.key_weights is not None:
        return Bags.of(batch.keys, batch.more, device, key_weights=batch.key_weights)
    return to_device(np.array(batch.keys).view(np.int64), device)


def _with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


class Trainer:
    """Trains a model with an adaptive embedding, and optionally a baseline with a plain hash table on the same rows.

    Args:
        model: the model of the adaptive learner.
        embedding: the embedding of the adaptive learner.
        optimizer: the optimizer of both models' parameters.
        options: how the models are computed.
        baseline: the model and the embedding of the baseline.
    """

    def __init__(
        self,
        model: nn.Module,
        embedding: FollowingEmbedding,
        *,
        optimizer: DenseOptimizer | None = None,
        options: DenseOptions | None = None,
        baseline: tuple[nn.Module, HashEmbedding] | None = None,
    ) -> None:
        optimizer = optimizer or DenseOptimizer()
        self.embedding = embedding
        self.learners = {ADAPTIVE: Learner(model.to(embedding.device), embedding, optimizer, options)}
        if baseline is not None:
            hash_model, hash_embedding = baseline
            hash_model.to(hash_embedding.device)
            self.learners[HASH] = Learner(hash_model, hash_embedding, optimizer, options)
        self._readback = Readback(embedding.device)

    @property
    def is_queued(self) -> bool:
        """Whether `start` only queues a step, so that the report should be read while the next one runs."""
        return self.learners[ADAPTIVE].is_queued

    def step(
        self,
        batch: ClickBatch,
        after_lookup: Callable[[], None] | None = None,
        *,
        record_rows: Sequence[int] | None = None,
    ) -> StepReport:
        """As `start`; waits for the report."""
        return self.start(batch, after_lookup, record_rows=record_rows).finish()

    def start(
        self,
        batch: ClickBatch,
        after_lookup: Callable[[], None] | None = None,
        *,
        record_rows: Sequence[int] | None = None,
    ) -> StartedStep:
        """Predicts the batch, then trains every learner on it.

        The step is refused, and changes nothing, if the loss or a gradient of any learner is not finite. On a device it
        only queues work, and the device decides whether the step is refused; nothing waits for it before `finish`.

        It calls `after_lookup` once, after the lookup of the adaptive embedding: the best time to start the work of
        another thread, which then runs beside the dense part.

        Args:
            batch: the rows of one click record, or of several.
            after_lookup: called after the lookup.
            record_rows: the rows of each click record; None for one record.
        """
        started_s = time.perf_counter()
        device = self.embedding.device
        # A decoded batch is a read-only view of its record; torch and numba need a writable copy.
        dense = to_device(np.array(batch.dense, np.float32), device)
        keys = keys_of(batch, device)
        label = to_device(batch.require_labels().astype(np.float32), device)
        weight = None if batch.weight is None else to_device(np.array(batch.weight), device)
        passes = {
            name: learner.differentiate(
                dense,
                keys,
                label,
                after_lookup if name == ADAPTIVE else None,
                weight=weight,
                record_rows=record_rows,
            )
            for name, learner in self.learners.items()
        }
        is_finite, loss = self._judge(tuple(passes.values()), batch.num_rows)
        scores = self._conclude(is_finite)
        results = {
            "is_finite": is_finite,
            "loss": loss,
            **{f"logits.{name}": computed.logits for name, computed in passes.items()},
        }
        if scores is not None:
            results |= scores.columns
        return StartedStep(batch.num_rows, tuple(passes), self._readback.start(results), started_s=started_s)

    def _judge(self, passes: Sequence[Computed], rows: int) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Whether each pass over the rows of the batch is finite, a bool (L,), and its loss (L,)."""
        is_finite = torch.stack([computed.is_finite for computed in passes])
        return is_finite, torch.stack([computed.loss for computed in passes])

    def _conclude(self, is_finite: Tensor) -> Scores | None:
        """Trains all learners if all passes (L,) are finite; returns the scores of the adaptive one, None if known not.

        A device that only queues work takes the decision by itself.
        """
        accept = None
        if self.is_queued:
            accept = is_finite.all()
        elif not is_finite.all():
            for learner in self.learners.values():
                learner.drop()
            return None
        return {name: learner.update(accept) for name, learner in self.learners.items()}[ADAPTIVE]

    def migrate(self, changes: Changes) -> MigrationReport:
        """Follows changes of the hot set; between steps."""
        return self.embedding.migrate(changes)

    def tensors(self) -> dict[str, Tensor]:
        """Returns every tensor of a checkpoint by name, with the hot keys in ascending order."""
        return {**self.unsorted_tensors(), **_with_prefix(f"{ADAPTIVE}.embedding", self.embedding.tensors())}

    def unsorted_tensors(self) -> dict[str, Tensor]:
        """As `tensors`, but with the hot keys in arbitrary order: this takes no longer than a copy."""
        parts = [_with_prefix(name, learner.unsorted_tensors()) for name, learner in self.learners.items()]
        return {name: tensor for part in parts for name, tensor in part.items()}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores the state that `tensors` or `unsorted_tensors` returned.

        Raises:
            CheckpointError: the tensors belong to another model.
        """
        for name, learner in self.learners.items():
            prefix = f"{name}."
            learner.load_tensors(
                {part[len(prefix) :]: tensor for part, tensor in tensors.items() if part.startswith(prefix)}
            )
