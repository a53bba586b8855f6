"""The Triton body of the embeddings: a few fused kernels for a GPU, which the tests also run interpreted on a CPU."""

from __future__ import annotations

__all__: list[str] = []
