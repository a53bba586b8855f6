"""Copies arrays to a device without waiting for it."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["to_device"]


def to_device(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """The array as a tensor on the device; on a CPU without a copy.

    On CUDA the copy goes through pinned memory and is ordered with the work of the current stream: the host waits for
    nothing, and may change the array afterwards.
    """
    tensor = torch.from_numpy(array)
    if device.type != "cuda" or not tensor.numel():
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
