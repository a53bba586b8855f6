"""The two implementations of every loop over rows: numba on a CPU, torch on any device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

__all__ = ["Backend", "choose_backend"]

Backend = Literal["numba", "torch"]


def choose_backend(device: torch.device, backend: Backend | None) -> Backend:
    """Returns `backend`, or the default of the device if it is None: numba on a CPU, torch elsewhere.

    Raises:
        ValueError: `backend` is numba and the device is not a CPU.
    """
    chosen = backend or ("numba" if device.type == "cpu" else "torch")
    if chosen == "numba" and device.type != "cpu":
        raise ValueError(f"backend 'numba' needs a CPU, got device {device}")
    return chosen
