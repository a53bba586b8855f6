"""`CapturingEmbedding`: a torch module from keys to vectors that captures gradients until they are applied.

backward --> captured passes (at most 8) --reduce, add up--> `Touched`: rows and sums --apply_gradients--> the stores
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sketch.changes import Changes
from trainer.embedding.backends import Backend, choose_backend
from trainer.embedding.captured import Captured, Capturing, Touched, add_up
from trainer.embedding.lookup import Importance, Lookup, Scores, as_words
from trainer.embedding.migration import MigrationReport
from trainer.embedding.plans import EmbeddingPlan
from trainer.errors import CheckpointError, DeviceError, DivergedError

if TYPE_CHECKING:
    from typing_extensions import Self  # of `typing` from Python 3.11 on

__all__ = ["CapturingEmbedding", "FollowingEmbedding"]

_NOT_COMPILED = "an embedding that follows a hot set runs outside of compiled graphs: compile with fullgraph=False"
_MERGED_AFTER, _WARNED_AFTER, _MOST_PASSES = 8, 64, 1024


def _forward(
    embedding: CapturingEmbedding,
    keys: Tensor | npt.NDArray[np.uint64],
    batch_rows: int | None,
    record_lookups: Sequence[int] | None,
) -> Tensor:
    words = as_words(keys, embedding.device)
    lookup = embedding.look_up(words.view(-1), len(words) if batch_rows is None else batch_rows)
    if record_lookups is not None and len(record_lookups) > 1:
        lookup = replace(lookup, record_lookups=tuple(record_lookups))
    vectors = embedding.gather_learning(lookup)
    return vectors.view(*words.shape, embedding.plan.dim)


class CapturingEmbedding(Capturing[Lookup]):
    """An embedding whose rows are not parameters: `backward` captures gradients, and `apply_gradients` applies them.

    Subclasses own the stores. They define what a lookup reads (`look_up`) and its vectors (`gather`), sum a pass's
    gradients by row (`reduce`), and name their complete state (`tensors`, `unsorted_tensors`, `load_tensors`).

    As a torch module:
        - `state_dict` holds all state as tensors (rows, optimizer state, steps and seeds, gates, hot keys), so
          `torch.load(weights_only=True)` and safetensors can read it. The constructor's arguments (plan, learning rate)
          are not part of it. An embedding loads as a whole: if one tensor is missing, all are reported missing and
          nothing changes.
        - Gradients of several passes before `apply_gradients` accumulate, as in torch. Each loss counts as a mean over
          the rows of its own pass. After 8 passes the gradients are merged by row. After 64 passes a single warning
          reports that `apply_gradients` is missing; after 1,024 the captured gradients are dropped. `zero_grad` drops
          them as well.
        - `eval` has no effect; under `no_grad` nothing is captured.
        - `half`, `double` and other conversions leave the rows in the plan's format, and vectors are float32. A move to
          another device raises `DeviceError`.
        - `torch.compile` of a surrounding model breaks the graph here. Under `fullgraph=True` torch reports that.

    Args:
        plan: the sizes.
        device: the device of the rows.
        backend: `numba`, `torch` or `triton`; None for the default of the device.
    """

    def __init__(
        self,
        plan: EmbeddingPlan,
        *,
        device: torch.device | None = None,
        backend: Backend | None = None,
    ) -> None:
        super().__init__()
        self.plan = plan
        self.device = device or torch.device("cpu")
        self.backend = choose_backend(self.device, backend, plan.dim)
        self._merged: Touched | None = None
        self._num_waiting, self._has_warned = 0, False

    def look_up(self, keys: Tensor, batch_rows: int) -> Lookup:
        """The reads of each store for (N,) int64 keys."""
        raise NotImplementedError

    def reduce(self, lookup: Lookup, gradient: Tensor) -> Touched:
        """Sums one pass's gradient (N, D) by row."""
        raise NotImplementedError

    def tensors(self) -> dict[str, Tensor]:
        """The complete state, with the hot keys in ascending order."""
        raise NotImplementedError

    def unsorted_tensors(self) -> dict[str, Tensor]:
        """The complete state with the hot keys unsorted, which costs no more than a copy."""
        raise NotImplementedError

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores the state from the result of `tensors`; drops captured gradients.

        Raises:
            CheckpointError: a tensor has another size.
        """
        raise NotImplementedError

    def forward(self, keys: Tensor | npt.NDArray[np.uint64]) -> Tensor:
        """The vectors (B, F, D), float32, of keys (B, F), int64 or uint64; B may be 0. Has no side effects on rows.

        Raises:
            KeyRangeError: a key's field number is not 1 to F (on a CPU).
            KeyTypeError: the keys have another dtype.
        """
        return self.vectors_of(keys)

    def vectors_of(
        self,
        keys: Tensor | npt.NDArray[np.uint64],
        *,
        batch_rows: int | None = None,
        record_rows: Sequence[int] | None = None,
        record_lookups: Sequence[int] | None = None,
    ) -> Tensor:
        """As `forward`, for keys of any shape (...,) -> (..., D).

        Args:
            keys: the feature keys.
            batch_rows: the rows over which the loss is a mean; None for the first dimension of the keys.
            record_rows: the rows of each click record in the batch, whose scores are kept apart; None for one record.
            record_lookups: the same as numbers of keys, where rows have different numbers of them.
        """
        if record_rows is not None:
            record_lookups = [rows * math.prod(keys.shape[1:]) for rows in record_rows]
        if torch.compiler.is_compiling():
            # Not as a decorator: that would import the compiler, which takes seconds.
            torch._dynamo.graph_break(msg=_NOT_COMPILED)  # noqa: SLF001
            disabled: Callable[..., Tensor] = torch.compiler.disable(_forward)  # type: ignore[no-untyped-call]
            return disabled(self, keys, batch_rows, record_lookups)
        return _forward(self, keys, batch_rows, record_lookups)

    @torch.no_grad()
    def capture(self, lookup: Lookup, gradient: Tensor) -> None:
        """Keeps the gradient (N, D) of a lookup; `backward` calls this."""
        if self._num_waiting >= _MOST_PASSES:
            self.zero_grad()
        super().capture(lookup, gradient)
        self._num_waiting += 1
        if len(self._captured) > _MERGED_AFTER:
            waiting = self._num_waiting
            self._merged, self._num_waiting = self.take_touched(), waiting
        if self._num_waiting > _WARNED_AFTER and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"the gradients of {self._num_waiting} backward passes are not applied, and the rows do not learn: "
                "call the embedding's apply_gradients() after optimizer.step(), or its zero_grad(); "
                f"after {_MOST_PASSES} passes they are dropped",
                RuntimeWarning,
                stacklevel=2,
            )

    def take_touched(self) -> Touched | None:
        """Returns the summed gradients of all passes since the last call and clears them; None if there were none.

        Raises:
            GradientError: changes were applied since one of the forward passes.
        """
        merged, captured = self._merged, self._captured
        self.zero_grad()
        parts = [*([merged] if merged else []), *(self.reduce(*one) for one in captured)]
        return add_up(parts, self.backend) if parts else None

    def take_single_pass(self) -> Captured[Lookup] | None:
        """Returns the captured pass and clears it if there is exactly one, which needs no sum over passes."""
        if self._merged is not None or len(self._captured) != 1:
            return None
        (single,) = self._captured
        self.zero_grad()
        return single

    def take_finite(self, scale: float | None) -> Touched | None:
        """As `take_touched`, divided by the scale of the losses; None, too, if they are scaled and not finite.

        The scores are the norms of all gradients, so they are finite if and only if these are.

        Raises:
            DivergedError: they are not finite, and there is no scale; checked on a CPU only.
            GradientError: changes were applied since one of the forward passes.
        """
        touched = self.take_touched()
        if touched is None or (scale is None and self.device.type != "cpu"):
            return touched
        if not math.isfinite(float(touched.scores.sum())):
            if scale is not None:
                return None
            raise DivergedError(
                "the gradients at the embedding's vectors are not finite, so no row was changed: skip this batch "
                "(optimizer.zero_grad()), or lower the learning rates; losses of a GradScaler need "
                "apply_gradients(scale=scaler.get_scale())"
            )
        return touched if scale is None else touched.divided_by(float(scale))

    @property
    def has_captured(self) -> bool:
        """Whether there are captured gradients to apply."""
        return self._num_waiting > 0

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drops captured gradients."""
        super().zero_grad(set_to_none)
        self._captured, self._merged, self._num_waiting = [], None, 0

    def apply(self, fn: Callable[[nn.Module], None]) -> Self:
        """`torch.nn.Module.apply`: calls `fn` on every submodule and on this module.

        Raises:
            TypeError: `fn` is `Changes`; call `migrate` for these.
        """
        if isinstance(fn, Changes):
            raise TypeError("apply: got Changes, expected a function of a module; for changes call migrate(changes)")
        return super().apply(fn)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:  # noqa: ARG002
        """Called by `to`, `half`, `cuda` and similar methods: leaves the rows unchanged, and refuses another device."""
        before = torch.empty(0, device=self.device)
        after = fn(before)
        if after.device != before.device:
            raise DeviceError(
                f"the embedding is on {before.device} and cannot be moved to {after.device}: make one with "
                f"device=torch.device({str(after.device)!r}) and load this one's state_dict() into it"
            )
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.update({prefix + name: tensor.detach() for name, tensor in self.tensors().items()})

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        own = {prefix + name: name for name in self.unsorted_tensors()}
        others = {name: tensor for name, tensor in state_dict.items() if name not in own}
        super()._load_from_state_dict(others, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        if not own.keys() <= state_dict.keys():
            missing_keys.extend(own)
            return
        try:
            self.load_tensors({name: state_dict[full].detach().cpu() for full, name in own.items()})
        except CheckpointError as error:
            error_msgs.append(f"{prefix.rstrip('.') or 'embedding'}: {error}")


class FollowingEmbedding(CapturingEmbedding):
    """An embedding that follows the hot set and measures the importance of its keys, as a `Trainer` needs it."""

    @property
    def num_hot(self) -> int:
        """The number of hot keys."""
        raise NotImplementedError

    @property
    def nbytes(self) -> dict[str, int]:
        """The allocated bytes by part; `total` is their sum."""
        raise NotImplementedError

    def learn(self, accept: Tensor | None = None) -> Scores:
        """Updates the rows that backward passes touched since the last call; see `AdaptiveEmbedding.learn`."""
        raise NotImplementedError

    def apply_gradients(self) -> Importance:
        """As `learn`; returns the keys' importance on the host."""
        return self.learn().to_importance()

    def migrate(self, changes: Changes) -> MigrationReport:
        """Follows changes of the hot set."""
        raise NotImplementedError

    def rows_of(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.int32]:
        """The unique row of each key (K,), negative for a key without one."""
        raise NotImplementedError
