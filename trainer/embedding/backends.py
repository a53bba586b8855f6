"""The implementations of every loop over rows: numba on a CPU, torch on any device, fused Triton kernels on a GPU."""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

__all__ = ["MOST_FUSED", "Backend", "backend_of_tables", "choose_backend", "has_triton", "is_interpreted"]

Backend = Literal["numba", "torch", "triton"]
MOST_FUSED = 512


@cache
def has_triton() -> bool:
    """Whether Triton 3.2 or newer is installed, which torch brings along on Linux."""
    try:
        language = import_module("triton.language")
    except ImportError:
        return False
    return hasattr(language, "gather")


def is_interpreted() -> bool:
    """Whether Triton interprets its kernels, which then run on a CPU, slowly; set before Triton is imported."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def choose_backend(device: torch.device, backend: Backend | None, dim: int = 1) -> Backend:
    """Returns `backend`, or the default of the device if it is None: numba on a CPU, triton on CUDA, otherwise torch.

    Vectors of more than 512 values (`dim`) do not fit the registers of the triton kernels; torch's have no limit.

    Raises:
        ValueError: `backend` is numba and the device is not a CPU, or it is triton and the device is no GPU.
    """
    if backend is None:
        fuses = device.type == "cuda" and dim <= MOST_FUSED and has_triton()
        backend = "numba" if device.type == "cpu" else "triton" if fuses else "torch"
    if backend == "numba" and device.type != "cpu":
        raise ValueError(f"backend 'numba' needs a CPU, got device {device}")
    if backend == "triton" and device.type != "cuda" and not is_interpreted():
        raise ValueError(
            f"backend 'triton' needs a GPU, got device {device}; TRITON_INTERPRET=1 interprets it on a CPU"
        )
    if backend == "triton" and dim > MOST_FUSED:
        raise ValueError(f"backend 'triton': got dimension {dim}, expected at most {MOST_FUSED}; choose 'torch'")
    if backend == "triton" and not has_triton():
        raise ValueError("backend 'triton' needs Triton 3.2 or newer: install it, or choose 'torch'")
    return backend


def backend_of_tables(backend: Backend) -> Backend:
    """The backend of the tables that the kernels of `backend` work on: those of triton are tables of torch."""
    return "torch" if backend == "triton" else backend
