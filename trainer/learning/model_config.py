"""What `hotstream train` is told, and the trainer that it means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from streams.keys import Field
from trainer.embedding.adaptive import AdaptiveEmbedding
from trainer.embedding.hashed import HashEmbedding
from trainer.embedding.plans import EmbeddingPlan, PlanOptions, hash_plan, plan, plan_for_capacity
from trainer.embedding.stores.registry import DEFAULT_ROW_FORMAT
from trainer.embedding.stores.rows import RowOptimizer
from trainer.embedding.stores.store import OptimizerName
from trainer.errors import PlanError
from trainer.learning.learner import DenseOptimizer
from trainer.learning.models import build_model
from trainer.learning.trainer import Trainer

__all__ = ["CRITEO_FEATURES", "ModelConfig", "build_trainer", "choose_device"]

CRITEO_FEATURES = 33_762_577  # distinct features of Criteo Kaggle: what a full table would hold


def choose_device(name: str) -> torch.device:
    """The device of that name; `auto` is CUDA where there is one.

    Raises:
        PlanError: CUDA is asked for and is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise PlanError("--device cuda: torch sees no CUDA device; use --device cpu or auto")
    return torch.device(name)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What determines the model and its size; one of the three sizes must be given.

    Args:
        model: `dlrm`, `wdl` or `dcn`.
        dim: D.
        embedding_bytes: everything of the embedding that the trainer allocates.
        compression: a full table of `full_features` rows, its optimizer counted, is so many times as large.
        capacity_rows: unique rows; with `embedding_bytes` too, the rest of the bytes is shared rows.
        full_features: for `compression`.
        row_optimizer: `adagrad` or `sgd`, of the embedding.
        rows: its constants.
        row_format: the store of the embedding's rows, by name.
        hot_store: that of its unique rows, if another.
        gate: whether the embedding has a learned gate for each field and tier.
        dense: the optimizer of the dense part.
        compare_hash: whether a plain hash table of the same bytes learns beside it.
        seed: of all first values.
    """

    model: str = "dlrm"
    dim: int = 16
    embedding_bytes: int | None = None
    compression: float | None = None
    capacity_rows: int | None = None
    full_features: int = CRITEO_FEATURES
    row_optimizer: OptimizerName = "adagrad"
    rows: RowOptimizer = field(default_factory=RowOptimizer)
    row_format: str = DEFAULT_ROW_FORMAT
    hot_store: str | None = None
    gate: bool = False
    dense: DenseOptimizer = field(default_factory=DenseOptimizer)
    compare_hash: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        given = [size for size in (self.embedding_bytes, self.compression, self.capacity_rows) if size is not None]
        if len(given) != 1:
            raise PlanError(
                f"size: got {len(given)} of --embedding-bytes, --compression and --capacity, expected exactly one"
            )
        if self.compression is not None and not self.compression >= 1:
            raise PlanError(f"--compression: got {self.compression}, expected at least 1")

    def plan(self, num_fields: int) -> EmbeddingPlan:
        """The embedding's sizes.

        Raises:
            PlanError: they cannot be met.
        """
        options: PlanOptions = {
            "optimizer": self.row_optimizer,
            "row_format": self.row_format,
            "hot_store": self.hot_store,
            "gate": self.gate,
        }
        if self.capacity_rows is not None:
            return plan_for_capacity(self.capacity_rows, self.dim, num_fields, **options)
        size = self.embedding_bytes
        if size is None:
            row_bytes = (self.dim + (self.row_optimizer == "adagrad")) * 4  # of a full table, which is in float32
            size = int(self.full_features * row_bytes / (self.compression or 1))
        return plan(size, self.dim, num_fields, **options)

    def describe(self, fields: Sequence[Field], num_dense: int) -> dict[str, Any]:
        """What a checkpoint must agree on to be gone on with."""
        layout = self.plan(len(fields)).layout
        return {
            "model": self.model,
            "dim": self.dim,
            "capacity_rows": layout.capacity_rows,
            "level_1_per_field": layout.level_1_per_field,
            "level_2_rows": layout.level_2_rows,
            "row_format": self.row_format,
            "hot_store": self.hot_store,
            "gate": self.gate,
            "row_optimizer": [self.row_optimizer, self.rows.rate, self.rows.epsilon],
            "dense_optimizer": [self.dense.name, self.dense.rate],
            "compare_hash": self.compare_hash,
            "seed": self.seed,
            "fields": [[column.name, column.kind] for column in fields],
            "num_dense": num_dense,
        }


def build_trainer(config: ModelConfig, fields: Sequence[Field], num_dense: int, device: torch.device) -> Trainer:
    """A trainer of fresh weights; those of the dense parts are the same in both learners.

    Raises:
        PlanError: the sizes cannot be met.
    """

    def model() -> torch.nn.Module:
        return build_model(config.model, num_dense=num_dense, num_fields=len(fields), dim=config.dim, seed=config.seed)

    embedding = AdaptiveEmbedding(config.plan(len(fields)), optimizer=config.rows, seed=config.seed, device=device)
    baseline = None
    if config.compare_hash:
        sizes = hash_plan(
            embedding.nbytes["total"],
            config.dim,
            len(fields),
            optimizer=config.row_optimizer,
            row_format=config.row_format,
        )
        baseline = (model(), HashEmbedding(sizes, optimizer=config.rows, seed=config.seed, device=device))
    return Trainer(model(), embedding, optimizer=config.dense, baseline=baseline)
