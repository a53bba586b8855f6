"""The tables of an assignment history as tensors of a checkpoint: `history.SHARD.NAME`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from streams.assignments.history import History

__all__ = ["HISTORY", "history_arrays", "history_tensors"]

HISTORY = "history."


def history_tensors(history: History) -> dict[str, torch.Tensor]:
    """Copies of a history's tables as a checkpoint has them."""
    arrays = history.to_arrays().items()
    return {
        HISTORY + name: torch.from_numpy(one.view(np.int64) if one.dtype == np.uint64 else one) for name, one in arrays
    }


def history_arrays(tensors: Mapping[str, torch.Tensor]) -> dict[str, npt.NDArray[Any]]:
    """The tables among the tensors of a checkpoint, as `History.load` takes them."""
    return {name.removeprefix(HISTORY): one.numpy() for name, one in tensors.items() if name.startswith(HISTORY)}
