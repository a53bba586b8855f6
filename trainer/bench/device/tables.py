"""The embedding tables that are compared, each as a module that a `Learner` trains."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from trainer.embedding.adaptive import AdaptiveEmbedding
from trainer.embedding.gathers import mix64_tensor
from trainer.embedding.hashed import HashEmbedding
from trainer.embedding.plans import hash_plan, plan_for_capacity
from trainer.embedding.stores.rows import RowOptimizer

__all__ = ["ADAPTIVE", "BAG", "FBGEMM", "HASH", "BagTable", "FbgemmTable", "build_adaptive", "build_hash", "missing"]

ADAPTIVE, HASH, BAG, FBGEMM = "adaptive", "hash", "EmbeddingBag", "FBGEMM"
_FLOAT_BYTES = 4


def missing(name: str) -> str | None:
    """Why a table cannot be measured here; None if it can."""
    if name == FBGEMM and find_spec("fbgemm_gpu") is None:
        return "fbgemm_gpu is not installed (pip install fbgemm-gpu), and with it TorchRec"
    return None


def build_adaptive(capacity_rows: int, dim: int, num_fields: int, device: torch.device, **options: Any) -> Any:
    """The adaptive embedding, without hot keys."""
    plan = plan_for_capacity(capacity_rows, dim, num_fields, row_format=options["row_format"])
    return AdaptiveEmbedding(plan, device=device, backend=options.get("backend"))


def build_hash(nbytes: int, dim: int, num_fields: int, device: torch.device, **options: Any) -> Any:
    """The plain hash table of our rows, of as many bytes."""
    plan = hash_plan(nbytes, dim, num_fields, row_format=options["row_format"])
    return HashEmbedding(plan, device=device, backend=options.get("backend"))


def _hashed(keys: Tensor, num_rows: int) -> Tensor:
    """A row for each key: (N,) int64."""
    return ((mix64_tensor(keys) >> 32 & 0xFFFFFFFF) * num_rows) >> 32


class _Plain(nn.Module):
    """A table of hashed rows that has no router, no scores and no check of a step."""

    backend = "torch"

    def __init__(self, dim: int, num_rows: int, device: torch.device) -> None:
        super().__init__()
        self.dim, self.num_rows, self.device = dim, num_rows, device

    def read(self, rows: Tensor) -> Tensor:
        """The vectors (N, D) of rows (N,)."""
        raise NotImplementedError

    def forward(self, keys: Tensor) -> Tensor:
        """The vectors (B, F, D) of keys (B, F)."""
        return self.vectors_of(keys)

    def vectors_of(self, keys: Tensor, *, record_rows: Sequence[int] | None = None) -> Tensor:  # noqa: ARG002
        """As `forward`."""
        return self.read(_hashed(keys.reshape(-1), self.num_rows)).view(*keys.shape, self.dim)

    def learn(self, accept: Tensor | None = None) -> None:
        """One optimizer step; `accept` is ignored."""


class BagTable(_Plain):
    """`torch.nn.EmbeddingBag` of one key a bag, with sparse gradients and torch's Adagrad.

    Torch's Adagrad keeps a sum for each value, ours one for each row; so in equal bytes it has about half of the rows.
    """

    def __init__(self, nbytes: int, dim: int, device: torch.device) -> None:
        super().__init__(dim, nbytes // (2 * _FLOAT_BYTES * dim), device)
        self.bag = nn.EmbeddingBag(self.num_rows, dim, mode="sum", sparse=True, device=device)
        rates = RowOptimizer()
        torch.sparse.check_sparse_tensor_invariants.disable()  # type: ignore[no-untyped-call]  # torch warns without a choice
        self._optimizer = torch.optim.Adagrad(self.bag.parameters(), lr=rates.learning_rate, eps=rates.epsilon)

    def read(self, rows: Tensor) -> Tensor:
        """As `_Plain.read`."""
        vectors: Tensor = self.bag(rows[:, None])
        return vectors

    @torch.no_grad()
    def learn(self, accept: Tensor | None = None) -> None:  # noqa: ARG002
        """As `_Plain.learn`."""
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)


class FbgemmTable(_Plain):
    """FBGEMM's table-batched embedding with row-wise Adagrad, which trains in its backward pass; D divides by 4."""

    def __init__(self, nbytes: int, dim: int, device: torch.device) -> None:
        from fbgemm_gpu import split_table_batched_embeddings_ops_training as training  # noqa: PLC0415
        from fbgemm_gpu.split_embedding_configs import EmbOptimType  # noqa: PLC0415
        from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode  # noqa: PLC0415

        super().__init__(dim, nbytes // (_FLOAT_BYTES * (dim + 1)), device)
        rates = RowOptimizer()
        self.rows = training.SplitTableBatchedEmbeddingBagsCodegen(
            [(self.num_rows, dim, EmbeddingLocation.DEVICE, training.ComputeDevice.CUDA)],
            optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
            learning_rate=rates.learning_rate,
            eps=rates.epsilon,
            pooling_mode=PoolingMode.NONE,
        )

    def read(self, rows: Tensor) -> Tensor:
        """As `_Plain.read`."""
        vectors: Tensor = self.rows(rows, torch.arange(len(rows) + 1, device=rows.device))
        return vectors
