"""Checks that numbers are finite: of a step before it changes anything, and of a state before it is stored."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["all_finite", "find_non_finite"]


def all_finite(tensors: list[Tensor]) -> Tensor:
    """Whether the norm of each float tensor is finite, as a bool tensor () on their device; does not synchronise.

    A norm of 1.8e19 or more counts as infinite, because its square, which optimizers keep, is.
    """
    return torch.stack(torch._foreach_norm(tensors)).sum().isfinite()  # noqa: SLF001  as `clip_grad_norm_` does


def find_non_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Returns the name of the first tensor with a number that is not finite; None if there is none.

    Integer tensors count as finite. Allocates nothing; costs one pass over the tensors.
    """
    for name, tensor in sorted(tensors.items()):
        if tensor.is_floating_point() and tensor.numel() and not torch.stack(tensor.aminmax()).isfinite().all():
            return name
    return None
