"""`ModelConfig`: the model, its embedding and their sizes, as the options of `hotstream train` define them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from streams.keys import Field
from trainer.embedding.plans import EmbeddingPlan, PlanOptions, plan, plan_for_capacity
from trainer.embedding.stores.registry import DEFAULT_ROW_FORMAT
from trainer.embedding.stores.rows import RowOptimizer
from trainer.embedding.stores.store import OptimizerName
from trainer.errors import PlanError
from trainer.learning.dense_part import DenseOptimizer, DenseOptions

__all__ = ["CRITEO_FEATURES", "ModelConfig"]

CRITEO_FEATURES = 33_762_577  # distinct features of Criteo Kaggle, each of which has a row in a full table


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The configuration of the model; exactly one of the three sizes is required.

    Args:
        model: `dlrm`, `wdl` or `dcn`.
        dim: D, the dimension of the embedding vectors.
        embedding_bytes: bytes of the embedding: rows, optimizer state, router and gates.
        compression: bytes of a full table with its optimizer state, divided by the bytes of the embedding; 1 or more.
        capacity_rows: unique rows, equal to the agent's `--capacity`.
        full_features: features of the full table that `compression` refers to.
        row_optimizer: the optimizer of the embedding's rows, `adagrad` or `sgd`.
        row_hyperparameters: learning rate and epsilon of `row_optimizer`.
        row_format: the store of the embedding's rows, by name.
        hot_store: the store of its unique rows, by name; None for the same.
        dense_optimizer: the optimizer of the model's parameters.
        dense_options: how the model is computed.
        compare_hash: whether a plain hash table of equal size trains on the same rows.
        seed: the seed of the initial weights and of stochastic rounding.

    Raises:
        PlanError: not exactly one size is given, or a compression is below 1.
    """

    model: str = "dlrm"
    dim: int = 16
    embedding_bytes: int | None = None
    compression: float | None = None
    capacity_rows: int | None = None
    full_features: int = CRITEO_FEATURES
    row_optimizer: OptimizerName = "adagrad"
    row_hyperparameters: RowOptimizer = field(default_factory=RowOptimizer)
    row_format: str = DEFAULT_ROW_FORMAT
    hot_store: str | None = None
    dense_optimizer: DenseOptimizer = field(default_factory=DenseOptimizer)
    dense_options: DenseOptions = field(default_factory=DenseOptions)
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
        """Returns the sizes of the embedding of `num_fields` fields.

        Raises:
            PlanError: the size budget is too small.
        """
        options: PlanOptions = {
            "optimizer": self.row_optimizer,
            "row_format": self.row_format,
            "hot_store": self.hot_store,
        }
        if self.capacity_rows is not None:
            return plan_for_capacity(self.capacity_rows, self.dim, num_fields, **options)
        size = self.embedding_bytes
        if size is None:
            row_bytes = (self.dim + (self.row_optimizer == "adagrad")) * 4  # a full table is in float32
            size = int(self.full_features * row_bytes / (self.compression or 1))
        return plan(size, self.dim, num_fields, **options)

    def describe(self, fields: Sequence[Field], num_dense: int) -> dict[str, Any]:
        """Returns what a checkpoint must match to be resumed, as JSON values."""
        layout = self.plan(len(fields)).layout
        return {
            "model": self.model,
            "dim": self.dim,
            "capacity_rows": layout.capacity_rows,
            "level_1_per_field": layout.level_1_per_field,
            "level_2_rows": layout.level_2_rows,
            "row_format": self.row_format,
            "hot_store": self.hot_store,
            "row_optimizer": [
                self.row_optimizer,
                self.row_hyperparameters.learning_rate,
                self.row_hyperparameters.epsilon,
            ],
            "dense_optimizer": [self.dense_optimizer.name, self.dense_optimizer.learning_rate],
            "precision": self.dense_options.precision,
            "compare_hash": self.compare_hash,
            "seed": self.seed,
            "fields": [[column.name, column.kind] for column in fields],
            "num_dense": num_dense,
        }
