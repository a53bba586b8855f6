"""`Trainer`: one step maps a batch of clicks to predictions, losses and importance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sketch.changes import Changes
from streams.records import ClickBatch
from trainer.embedding.adaptive import AdaptiveEmbedding
from trainer.embedding.hashed import HashEmbedding
from trainer.embedding.lookup import Importance
from trainer.embedding.migration import MigrationReport
from trainer.learning.learner import DenseOptimizer, Learner

__all__ = ["ADAPTIVE", "HASH", "StepReport", "Trainer"]

ADAPTIVE, HASH = "adaptive", "hash"


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """The result of one training step.

    Attributes:
        rows: B, the rows of the batch.
        loss: the mean log loss of the predictions in nats, by learner.
        logits: (B,) float32 predictions, computed before training on these rows, by learner.
        importance: the importance of each key to the adaptive learner; None if the step was refused.
        diverged: the learners whose loss or gradients are not finite; if there are any, the step was refused.
    """

    rows: int
    loss: Mapping[str, float]
    logits: Mapping[str, npt.NDArray[np.float32]]
    importance: Importance | None
    diverged: tuple[str, ...] = ()


def _with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


class Trainer:
    """Trains a model with an adaptive embedding, and optionally a baseline with a plain hash table on the same rows.

    Args:
        model: the model of the adaptive learner.
        embedding: the embedding of the adaptive learner.
        optimizer: the optimizer of both models' parameters.
        baseline: the model and the embedding of the baseline.
    """

    def __init__(
        self,
        model: nn.Module,
        embedding: AdaptiveEmbedding,
        *,
        optimizer: DenseOptimizer | None = None,
        baseline: tuple[nn.Module, HashEmbedding] | None = None,
    ) -> None:
        optimizer = optimizer or DenseOptimizer()
        self.embedding = embedding
        self.learners = {ADAPTIVE: Learner(model.to(embedding.device), embedding, optimizer)}
        if baseline is not None:
            hash_model, hash_embedding = baseline
            self.learners[HASH] = Learner(hash_model.to(hash_embedding.device), hash_embedding, optimizer)

    def step(self, batch: ClickBatch, after_lookup: Callable[[], None] | None = None) -> StepReport:
        """Predicts the batch, then trains every learner on it.

        The step is refused, and changes nothing, if the loss or a gradient of any learner is not finite.

        It calls `after_lookup` once, after the lookup of the adaptive embedding: the best time to start the work of
        another thread, which then runs beside the dense part.
        """
        device = self.embedding.device
        # A decoded batch is a read-only view of its record; torch and numba need a writable copy.
        dense = torch.from_numpy(np.array(batch.dense, np.float32)).to(device)
        keys = torch.from_numpy(np.array(batch.keys).view(np.int64)).to(device)
        label = torch.from_numpy(batch.require_labels().astype(np.float32)).to(device)
        weight = None if batch.weight is None else torch.from_numpy(np.array(batch.weight)).to(device)
        passes = {
            name: learner.differentiate(dense, keys, label, after_lookup if name == ADAPTIVE else None, weight=weight)
            for name, learner in self.learners.items()
        }
        diverged = tuple(name for name, computed in passes.items() if not computed.is_finite)
        importance = None
        if diverged:
            self._drop()
        else:
            importance = self._update()
        return StepReport(
            rows=batch.num_rows,
            loss={name: float(computed.loss) for name, computed in passes.items()},
            logits={name: computed.logits.cpu().numpy() for name, computed in passes.items()},
            importance=importance,
            diverged=diverged,
        )

    def _update(self) -> Importance | None:
        """Applies the gradients of all learners; returns the importance to the adaptive learner."""
        return {name: learner.update() for name, learner in self.learners.items()}[ADAPTIVE]

    def _drop(self) -> None:
        """Drops the gradients of all learners."""
        for learner in self.learners.values():
            learner.drop()

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
