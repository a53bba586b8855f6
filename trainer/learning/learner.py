"""One model with its embedding and its optimizers: predict, then learn from the same forward pass."""

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

__all__ = ["DENSE_OPTIMIZERS", "DenseOptimizer", "Learner", "Outcome"]

DENSE_OPTIMIZERS = ("adam", "adagrad", "sgd")


@dataclass(frozen=True, kw_only=True)
class DenseOptimizer:
    """How the dense part learns.

    Args:
        name: `adam`, `adagrad` or `sgd`.
        rate: learning rate, more than 0.
    """

    name: Literal["adam", "adagrad", "sgd"] = "adam"
    rate: float = 0.001

    def __post_init__(self) -> None:
        if self.name not in DENSE_OPTIMIZERS:
            raise PlanError(f"dense optimizer {self.name!r}: expected one of {', '.join(DENSE_OPTIMIZERS)}")
        if not self.rate > 0:
            raise PlanError(f"dense rate: got {self.rate}, expected more than 0")

    def build(self, parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
        """The torch optimizer of these parameters."""
        kinds = {"adam": torch.optim.Adam, "adagrad": torch.optim.Adagrad, "sgd": torch.optim.SGD}
        return kinds[self.name](parameters, lr=self.rate)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one batch did to a learner.

    Attributes:
        logits: (B,) float32, predicted before anything was learned from these rows.
        loss: the mean log loss of these predictions.
        importance: what each key mattered; None from an embedding that does not say.
    """

    logits: npt.NDArray[np.float32]
    loss: float
    importance: Importance | None


class Learner:
    """A model over an embedding, trained together by the mean log loss.

    Args:
        model: (dense (B, M), vectors (B, F, D)) -> logits (B,).
        embedding: adaptive, or the plain hash table.
        optimizer: of the model's parameters; the embedding brings its own.
    """

    def __init__(
        self, model: nn.Module, embedding: AdaptiveEmbedding | HashEmbedding, optimizer: DenseOptimizer
    ) -> None:
        self.model = model
        self.embedding = embedding
        self.optimizer = optimizer.build(model.parameters())

    def step(
        self, dense: Tensor, keys: Tensor, label: Tensor, after_lookup: Callable[[], None] | None = None
    ) -> Outcome:
        """Predicts dense (B, M) float32 and keys (B, F) int64, then learns label (B,) float32.

        `after_lookup` is called before the dense part, which leaves the interpreter's lock to other threads.
        """
        vectors = self.embedding(keys)  # (B, F, D)
        if after_lookup is not None:
            after_lookup()
        logits = self.model(dense, vectors)  # (B,)
        loss = binary_cross_entropy_with_logits(logits, label)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        importance = self.embedding.apply_gradients()
        return Outcome(logits=logits.detach().cpu().numpy(), loss=float(loss.detach()), importance=importance)

    def unsorted_tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint must hold, by name; hot and warm keys in no order."""
        named = {f"embedding.{name}": tensor for name, tensor in self.embedding.unsorted_tensors().items()}
        named |= {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            named |= {f"optimizer.{number}.{name}": value for name, value in state.items() if torch.is_tensor(value)}
        return named

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over what `tensors` gave.

        Raises:
            CheckpointError: they belong to another model.
        """

        def under(prefix: str) -> dict[str, Tensor]:
            return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}

        try:
            self.model.load_state_dict(under("model."))
        except RuntimeError as error:
            raise CheckpointError(f"the checkpoint's weights are of another model: {error}") from error
        self.embedding.load_tensors(under("embedding."))
        states: dict[int, dict[str, Any]] = {}
        for name, tensor in under("optimizer.").items():
            number, _, part = name.partition(".")
            states.setdefault(int(number), {})[part] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": states})
