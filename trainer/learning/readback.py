"""`Readback`: copies results of a step to the host while the device goes on, and reads them later.

On CUDA the copies run on a stream of their own into pinned memory, after the work that makes the results; nothing is
waited for until `read`. On a CPU there is nothing to copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["Readback", "Waiting"]

Array = npt.NDArray[Any]


class Waiting:
    """Results that are on their way to the host."""

    def __init__(self, tensors: Mapping[str, Tensor], event: torch.cuda.Event | None) -> None:
        self._tensors, self._event = tensors, event

    def read(self) -> dict[str, Array]:
        """The results by name, in memory that nothing else writes; waits for them, and for no later work."""
        if self._event is not None:
            self._event.synchronize()
        return {name: tensor.numpy() for name, tensor in self._tensors.items()}


class Readback:
    """Starts copies from a device.

    Args:
        device: the device of the results.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def start(self, tensors: Mapping[str, Tensor]) -> Waiting:
        """Queues the copies of tensors that the current stream makes, and that no later work overwrites."""
        if self._stream is None:
            return Waiting({name: tensor.detach() for name, tensor in tensors.items()}, None)
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        copies, event = {}, torch.cuda.Event()  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._stream):
            for name, tensor in tensors.items():
                tensor.record_stream(self._stream)
                copies[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                copies[name].copy_(tensor.detach(), non_blocking=True)
            event.record(self._stream)
        return Waiting(copies, event)
