"""`DensePart`: the model between the looked-up vectors and the loss, forward and backward.

    dense (B, M), vectors (B, F, D), label (B,), perhaps weight (B,)
        -> logits (B,), loss (), gradient at the vectors, at the parameters

| mode | runs | what it costs |
|---|---|---|
| `eager` | operator by operator | a launch for each operator |
| `compile` | kernels that `torch.compile` fuses | the compiler, seconds to a minute for each new batch size |
| `graph` | a CUDA graph of the operators, for each batch size that repeats | a copy of the vectors |
| `auto` | on CUDA a graph for vectors of at most 256 MB, otherwise `eager` | |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from trainer.errors import PlanError
from trainer.learning.finiteness import all_finite

__all__ = ["DENSE_MODES", "DENSE_OPTIMIZERS", "PRECISIONS", "Computed", "DenseOptimizer", "DenseOptions", "DensePart"]

DENSE_OPTIMIZERS = ("adam", "adagrad", "sgd")
DENSE_MODES = ("auto", "eager", "compile", "graph")
PRECISIONS = ("float32", "bf16")

_MOST_COPIED_BYTES = 256 << 20  # beyond, the copy costs more than the launches
_CAPTURED_AFTER = 3  # steps of one batch size, which also warm up what a graph captures
_MOST_GRAPHS = 4


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

    def build(self, parameters: Iterator[nn.Parameter], *, is_queued: bool = False) -> torch.optim.Optimizer:
        """Returns a torch optimizer of the parameters.

        Args:
            parameters: what it trains.
            is_queued: whether the device decides if a step counts (`Learner.update`); then Adam is the fused one, the
                only one that takes this decision from the device.
        """
        if self.name == "adam":
            return torch.optim.Adam(parameters, lr=self.learning_rate, fused=is_queued or None)
        kinds = {"adagrad": torch.optim.Adagrad, "sgd": torch.optim.SGD}
        return kinds[self.name](parameters, lr=self.learning_rate)


@dataclass(frozen=True, kw_only=True)
class DenseOptions:
    """How the dense part is computed.

    Args:
        precision: `float32`, or `bf16`: matrix products in bfloat16 by torch's autocast; weights and loss in float32.
        mode: `auto`, `eager`, `compile` or `graph`, which needs CUDA.

    Raises:
        PlanError: an argument is invalid.
    """

    precision: Literal["float32", "bf16"] = "float32"
    mode: Literal["auto", "eager", "compile", "graph"] = "auto"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise PlanError(f"precision: got {self.precision!r}, expected one of {', '.join(PRECISIONS)}")
        if self.mode not in DENSE_MODES:
            raise PlanError(f"dense mode: got {self.mode!r}, expected one of {', '.join(DENSE_MODES)}")


@dataclass(frozen=True, kw_only=True)
class Computed:
    """A forward and backward pass; the gradients at the parameters are in the parameters.

    Attributes:
        logits: (B,) float32 predictions.
        loss: the mean over the rows of weight times log loss, in nats.
        at_vectors: (B, F, D) the gradient at the vectors.
        is_finite: whether the loss and the norm of every gradient are finite, a bool ().
    """

    logits: Tensor
    loss: Tensor
    at_vectors: Tensor
    is_finite: Tensor


class DensePart:
    """Computes logits, loss and gradients of a model.

    Args:
        model: maps dense (B, M) and vectors (B, F, D) to logits (B,).
        options: precision and mode.
        device: the device of the model.

    Raises:
        PlanError: the mode is `graph` and the device is not CUDA.
    """

    def __init__(self, model: nn.Module, options: DenseOptions, device: torch.device) -> None:
        if options.mode == "graph" and device.type != "cuda":
            raise PlanError(f"dense mode graph: got device {device}, expected a CUDA device; use eager or compile")
        self._model, self._options, self._device = model, options, device
        self._weights = [weight for weight in model.parameters() if weight.requires_grad]
        self._forward: Callable[..., Tensor] = self._predict
        if options.mode == "compile":
            self._forward = torch.compile(self._predict, dynamic=False)
        # By the number of rows and of inputs (the weight is optional).
        self._graphs: dict[tuple[int, int], _Graph] = {}
        self._seen: dict[tuple[int, int], int] = {}

    def _predict(self, dense: Tensor, vectors: Tensor) -> Tensor:
        logits: Tensor = self._model(dense, vectors)
        return logits

    def _lose(self, dense: Tensor, vectors: Tensor, label: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        """Logits (B,) float32 and loss."""
        if self._options.precision == "bf16":
            # Without the cache of casts, which must not outlive a graph's capture.
            with torch.autocast(self._device.type, torch.bfloat16, cache_enabled=False):
                logits = self._forward(dense, vectors).float()
        else:
            logits = self._forward(dense, vectors)
        return logits, binary_cross_entropy_with_logits(logits, label, weight)

    def drop(self) -> None:
        """Drops the gradients of the last pass."""
        for weight in self._weights:
            weight.grad = None

    def differentiate(self, dense: Tensor, vectors: Tensor, label: Tensor, weight: Tensor | None = None) -> Computed:
        """One forward and backward pass; `vectors` pass their gradient on to what made them."""
        inputs = (dense, vectors, label) if weight is None else (dense, vectors, label, weight)
        if self._captures(vectors) and (graph := self._graph(inputs)) is not None:
            computed = graph.replay(*inputs)
            vectors.backward(computed.at_vectors)  # type: ignore[no-untyped-call]
            return computed
        if self._options.mode == "compile":  # the compiler warns of inputs that are not leaves
            computed = self._run_apart(*inputs)
            vectors.backward(computed.at_vectors)  # type: ignore[no-untyped-call]
            return computed
        at_vectors: list[Tensor] = []
        vectors.register_hook(at_vectors.append)  # type: ignore[no-untyped-call]
        return self._run(*inputs, at_vectors=at_vectors)

    def _captures(self, vectors: Tensor) -> bool:
        """Whether passes over such vectors run as graphs."""
        is_small = self._device.type == "cuda" and vectors.nbytes <= _MOST_COPIED_BYTES
        return self._options.mode == "graph" or (self._options.mode == "auto" and is_small)

    def _run(
        self, dense: Tensor, vectors: Tensor, label: Tensor, weight: Tensor | None = None, *, at_vectors: list[Tensor]
    ) -> Computed:
        logits, loss = self._lose(dense, vectors, label, weight)
        self.drop()
        loss.backward()  # type: ignore[no-untyped-call]
        return self._computed(logits.detach(), loss.detach(), at_vectors[0])

    def _computed(self, logits: Tensor, loss: Tensor, at_vectors: Tensor) -> Computed:
        gradients = [weight.grad for weight in self._weights if weight.grad is not None]
        is_finite = all_finite([loss, at_vectors, *gradients])
        return Computed(logits=logits, loss=loss, at_vectors=at_vectors, is_finite=is_finite)

    def _graph(self, inputs: tuple[Tensor, ...]) -> _Graph | None:
        """The graph of such inputs; None until their size has repeated, or if there are too many sizes."""
        size = len(inputs[0]), len(inputs)
        if size not in self._graphs:
            self._seen[size] = self._seen.get(size, 0) + 1
            if self._seen[size] <= _CAPTURED_AFTER or len(self._graphs) >= _MOST_GRAPHS:
                return None
            self._graphs[size] = _Graph(self._run_apart, self._weights, inputs)
        return self._graphs[size]

    def _run_apart(self, dense: Tensor, vectors: Tensor, label: Tensor, weight: Tensor | None = None) -> Computed:
        """As `_run`, but the gradient stops at the vectors."""
        leaf = vectors.detach().requires_grad_()
        logits, loss = self._lose(dense, leaf, label, weight)
        self.drop()
        loss.backward()  # type: ignore[no-untyped-call]
        assert leaf.grad is not None  # noqa: S101  the model reads the vectors
        return self._computed(logits.detach(), loss.detach(), leaf.grad)


class _Graph:
    """A CUDA graph of one pass, with its own inputs, outputs and gradients.

    The stream orders a replay after all that was queued before.
    """

    def __init__(self, run: Callable[..., Computed], weights: list[nn.Parameter], like: tuple[Tensor, ...]) -> None:
        self._inputs = tuple(torch.empty_like(one).copy_(one.detach()) for one in like)
        self._weights = weights
        self._graph: Any = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            run(*self._inputs)  # on the stream of the capture, so that libraries have their workspaces
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(self._graph):
            self._computed = run(*self._inputs)
        self._gradients = [weight.grad for weight in weights]

    def replay(self, *inputs: Tensor) -> Computed:
        """Queues the pass over other inputs."""
        for mine, given in zip(self._inputs, inputs, strict=True):
            mine.copy_(given.detach(), non_blocking=True)
        self._graph.replay()
        for weight, gradient in zip(self._weights, self._gradients, strict=True):
            weight.grad = gradient
        # The next replay overwrites the outputs; the gradient at the vectors is read before.
        copies = {name: getattr(self._computed, name).clone() for name in ("logits", "loss", "is_finite")}
        return replace(self._computed, **copies)
