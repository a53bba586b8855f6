"""`Learner`: a model, its embedding and their optimizers; one forward pass predicts, and its backward pass trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from trainer.embedding.hashed import HashEmbedding
from trainer.embedding.key_embedding import FollowingEmbedding
from trainer.embedding.lookup import Importance, Scores
from trainer.embedding.value_bags import Bags, sum_values
from trainer.errors import CheckpointError
from trainer.learning.dense_part import DENSE_OPTIMIZERS, Computed, DenseOptimizer, DenseOptions, DensePart

__all__ = ["DENSE_OPTIMIZERS", "DenseOptimizer", "Learner", "Outcome"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of one training step of a learner.

    Attributes:
        logits: (B,) float32 predictions, computed before the learner trained on these rows.
        loss: the mean log loss of these predictions, in nats.
        importance: the importance of each key; None if the embedding does not measure it, or the step was refused.
    """

    logits: npt.NDArray[np.float32]
    loss: float
    importance: Importance | None


class Learner:
    """A model and its embedding, trained together on the mean log loss.

    Args:
        model: maps dense (B, M) and vectors (B, F, D) to logits (B,).
        embedding: an adaptive embedding or the plain hash table.
        optimizer: the optimizer of the model's parameters; the embedding has its own.
        options: how the model is computed.

    Attributes:
        is_queued: whether a step only queues work: the device then decides whether it counts (`update`).
    """

    def __init__(
        self,
        model: nn.Module,
        embedding: FollowingEmbedding | HashEmbedding,
        optimizer: DenseOptimizer,
        options: DenseOptions | None = None,
    ) -> None:
        self.model = model
        self.embedding = embedding
        self.is_queued = embedding.backend != "numba"
        self.optimizer = optimizer.build(model.parameters(), is_queued=self.is_queued)
        self._dense = DensePart(model, options or DenseOptions(), embedding.device)

    def differentiate(
        self,
        dense: Tensor,
        keys: Tensor | Bags,
        label: Tensor,
        after_lookup: Callable[[], None] | None = None,
        *,
        weight: Tensor | None = None,
        record_rows: Sequence[int] | None = None,
    ) -> Computed:
        """Predicts the rows of dense (B, M) float32 and keys (B, F) int64, and computes the gradients of the loss.

        The loss is the mean over the rows of weight (B,) float32 times log loss; without a weight all rows weigh 1.

        `update` or `drop` must follow. It calls `after_lookup` right before the dense part. The dense part releases the
        interpreter's lock, so another thread can run beside it. It does not synchronise with the device.

        Args:
            dense: dense features.
            keys: feature keys, or the bags of several values in a field.
            label: (B,) float32.
            after_lookup: called after the lookup.
            weight: (B,) float32, the weight of each row; None for 1.
            record_rows: the rows of each click record in the batch; None for one record.
        """
        if isinstance(keys, Bags):
            vectors = sum_values(self.embedding, keys, record_rows)  # (B, F, D)
        else:
            vectors = self.embedding.vectors_of(keys, record_rows=record_rows)  # (B, F, D)
        if after_lookup is not None:
            after_lookup()
        return self._dense.differentiate(dense, vectors, label, weight)

    def update(self, accept: Tensor | None = None) -> Scores | None:
        """Applies the gradients of the last pass; returns the keys' scores, if the embedding measures them.

        Args:
            accept: a bool tensor () on the device; if it is false, weights, rows and optimizer states stay as they
                are. None for true. Needs `is_queued`.
        """
        if self.is_queued:
            self._mask(accept)
        self.optimizer.step()
        return self.embedding.learn(accept)

    def _mask(self, accept: Tensor | None) -> None:
        """Makes the next step of the dense optimizer change nothing unless `accept`."""
        if isinstance(self.optimizer, torch.optim.Adam):  # the fused one; torch's GradScaler does the same
            self.optimizer.found_inf = None if accept is None else (~accept).float()  # type: ignore[attr-defined]
            return
        for weight in self.model.parameters():
            if accept is not None and weight.grad is not None:  # a gradient of zero changes nothing in Adagrad and SGD
                weight.grad = torch.where(accept, weight.grad, 0.0)

    def drop(self) -> None:
        """Drops the gradients of the last pass: the learner is as before it."""
        self.optimizer.zero_grad(set_to_none=True)
        self.embedding.zero_grad()

    def step(
        self, dense: Tensor, keys: Tensor, label: Tensor, after_lookup: Callable[[], None] | None = None
    ) -> Outcome:
        """Predicts the rows, then trains on label (B,) float32, unless the loss or a gradient is not finite."""
        computed = self.differentiate(dense, keys, label, after_lookup)
        scores = None
        if computed.is_finite:
            scores = self.update()
        else:
            self.drop()
        importance = scores.to_importance() if scores is not None else None
        return Outcome(logits=computed.logits.cpu().numpy(), loss=float(computed.loss), importance=importance)

    def unsorted_tensors(self) -> dict[str, Tensor]:
        """Returns every tensor of a checkpoint by name, with the hot keys in arbitrary order."""
        named = {f"embedding.{name}": tensor for name, tensor in self.embedding.unsorted_tensors().items()}
        named |= {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            named |= {f"optimizer.{index}.{name}": value for name, value in state.items() if torch.is_tensor(value)}
        return named

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores the state that `unsorted_tensors` returned.

        Raises:
            CheckpointError: the tensors belong to another model.
        """

        def under(prefix: str) -> dict[str, Tensor]:
            return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}

        try:
            self.model.load_state_dict(under("model."))
        except RuntimeError as error:
            raise CheckpointError(f"the checkpoint's weights belong to another model: {error}") from error
        self.embedding.load_tensors(under("embedding."))
        states: dict[int, dict[str, Any]] = {}
        for name, tensor in under("optimizer.").items():
            index, _, part = name.partition(".")
            states.setdefault(int(index), {})[part] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": states})
