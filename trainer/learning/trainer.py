"""`Trainer`: a batch of clicks in; predictions, loss and importance out."""

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
    """What one batch did.

    Attributes:
        rows: B.
        loss: mean log loss of the predictions, by learner.
        logits: (B,) float32 predictions made before learning from these rows, by learner.
        importance: what each key mattered to the adaptive learner.
    """

    rows: int
    loss: Mapping[str, float]
    logits: Mapping[str, npt.NDArray[np.float32]]
    importance: Importance


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


class Trainer:
    """Trains a model with an adaptive embedding and, on the same rows, one with a plain hash table if asked to.

    Args:
        model: of the adaptive learner.
        embedding: its embedding.
        optimizer: of the dense parts.
        baseline: model and embedding to compare with.
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
            other, table = baseline
            self.learners[HASH] = Learner(other.to(table.device), table, optimizer)

    def step(self, batch: ClickBatch, after_lookup: Callable[[], None] | None = None) -> StepReport:
        """Predicts the batch, then learns from it: every learner the same rows, once.

        `after_lookup` is called once, when the adaptive embedding has been read: what another thread shall do beside
        the dense part is best begun then.
        """
        device = self.embedding.device
        # A decoded batch is a read-only view of its record: copied once, so that torch and numba may take it.
        dense = torch.from_numpy(np.array(batch.dense, np.float32)).to(device)
        keys = torch.from_numpy(np.array(batch.keys).view(np.int64)).to(device)
        label = torch.from_numpy(batch.label.astype(np.float32)).to(device)
        outcomes = {
            name: learner.step(dense, keys, label, after_lookup if name == ADAPTIVE else None)
            for name, learner in self.learners.items()
        }
        importance = outcomes[ADAPTIVE].importance
        assert importance is not None  # noqa: S101  an adaptive embedding always says
        return StepReport(
            rows=batch.num_rows,
            loss={name: outcome.loss for name, outcome in outcomes.items()},
            logits={name: outcome.logits for name, outcome in outcomes.items()},
            importance=importance,
        )

    def migrate(self, changes: Changes) -> MigrationReport:
        """Follows changes of the hot set; between steps."""
        return self.embedding.migrate(changes)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint must hold, by name."""
        return {**self.unsorted_tensors(), **_named(f"{ADAPTIVE}.embedding", self.embedding.tensors())}

    def unsorted_tensors(self) -> dict[str, Tensor]:
        """Likewise, but that hot and warm keys stand in no order, which takes no longer than a copy."""
        parts = [_named(name, learner.unsorted_tensors()) for name, learner in self.learners.items()]
        return {name: tensor for part in parts for name, tensor in part.items()}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over what `tensors` gave.

        Raises:
            CheckpointError: they belong to another model.
        """
        for name, learner in self.learners.items():
            prefix = f"{name}."
            learner.load_tensors(
                {part[len(prefix) :]: tensor for part, tensor in tensors.items() if part.startswith(prefix)}
            )
