"""`Learner`: a model, its embedding and their optimizers; one forward pass predicts, and its backward pass trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from trainer.embedding.adaptive import AdaptiveEmbedding
from trainer.embedding.hashed import HashEmbedding
from trainer.embedding.lookup import Importance
from trainer.errors import CheckpointError, PlanError
from trainer.learning.finiteness import are_finite

__all__ = ["DENSE_OPTIMIZERS", "DenseOptimizer", "Learner", "Outcome", "Pass"]

DENSE_OPTIMIZERS = ("adam", "adagrad", "sgd")


@dataclass(frozen=True, kw_only=True)
class DenseOptimizer:
    """The optimizer of the dense part (every parameter of the model).

    Args:
        name: `adam`, `adagrad` or `sgd`.
        learning_rate: more than 0.

    Raises:
        PlanError: an argument is invalid.
    """

    name: Literal["adam", "adagrad", "sgd"] = "adam"
    learning_rate: float = 0.001

    def __post_init__(self) -> None:
        if self.name not in DENSE_OPTIMIZERS:
            raise PlanError(f"dense optimizer {self.name!r}: expected one of {', '.join(DENSE_OPTIMIZERS)}")
        if not self.learning_rate > 0:
            raise PlanError(f"dense learning rate: got {self.learning_rate}, expected more than 0")

    def build(self, parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
        """Returns a torch optimizer of the parameters."""
        kinds = {"adam": torch.optim.Adam, "adagrad": torch.optim.Adagrad, "sgd": torch.optim.SGD}
        return kinds[self.name](parameters, lr=self.learning_rate)


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


@dataclass(frozen=True, kw_only=True)
class Pass:
    """A forward and backward pass that has not changed the learner yet.

    Attributes:
        logits: (B,) predictions.
        loss: the mean log loss of these predictions, in nats.
        is_finite: whether the loss and the norm of every gradient are finite.
    """

    logits: Tensor
    loss: Tensor
    is_finite: bool


class Learner:
    """A model and its embedding, trained together on the mean log loss.

    Args:
        model: maps dense (B, M) and vectors (B, F, D) to logits (B,).
        embedding: an adaptive embedding or the plain hash table.
        optimizer: the optimizer of the model's parameters; the embedding has its own.
    """

    def __init__(
        self, model: nn.Module, embedding: AdaptiveEmbedding | HashEmbedding, optimizer: DenseOptimizer
    ) -> None:
        self.model = model
        self.embedding = embedding
        self.optimizer = optimizer.build(model.parameters())

    def differentiate(
        self,
        dense: Tensor,
        keys: Tensor,
        label: Tensor,
        after_lookup: Callable[[], None] | None = None,
        *,
        weight: Tensor | None = None,
    ) -> Pass:
        """Predicts the rows of dense (B, M) float32 and keys (B, F) int64, and computes the gradients of the loss.

        The loss is the mean over the rows of weight (B,) float32 times log loss; without a weight all rows weigh 1.

        `update` or `drop` must follow. It calls `after_lookup` right before the dense part. The dense part releases the
        interpreter's lock, so another thread can run beside it. It synchronises with the device.
        """
        vectors = self.embedding(keys)  # (B, F, D)
        at_vectors: list[Tensor] = []
        vectors.register_hook(at_vectors.append)
        if after_lookup is not None:
            after_lookup()
        logits = self.model(dense, vectors)  # (B,)
        loss = binary_cross_entropy_with_logits(logits, label, weight)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [weight.grad for weight in self.model.parameters() if weight.grad is not None]
        return Pass(
            logits=logits.detach(), loss=loss.detach(), is_finite=are_finite([loss.detach(), *at_vectors, *gradients])
        )

    def update(self) -> Importance | None:
        """Applies the gradients of the last pass; returns the importance of each key, if the embedding measures it."""
        self.optimizer.step()
        return self.embedding.apply_gradients()

    def drop(self) -> None:
        """Drops the gradients of the last pass: the learner is as before it."""
        self.optimizer.zero_grad(set_to_none=True)
        self.embedding.zero_grad()

    def step(
        self, dense: Tensor, keys: Tensor, label: Tensor, after_lookup: Callable[[], None] | None = None
    ) -> Outcome:
        """Predicts the rows, then trains on label (B,) float32, unless the loss or a gradient is not finite."""
        computed = self.differentiate(dense, keys, label, after_lookup)
        importance = None
        if computed.is_finite:
            importance = self.update()
        else:
            self.drop()
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
