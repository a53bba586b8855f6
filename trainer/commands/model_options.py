"""The model's configuration, from the options of `hotstream train`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.learning.model_config import ModelConfig

__all__ = ["model_config"]


def model_config(options: dict[str, Any]) -> ModelConfig:
    """Returns the model configuration of the options, and removes these options from the dictionary."""
    from trainer.embedding.stores.rows import RowOptimizer  # noqa: PLC0415
    from trainer.learning.dense_part import DenseOptimizer, DenseOptions  # noqa: PLC0415 - torch takes seconds to import, and `--help` does not need it
    from trainer.learning.model_config import CRITEO_FEATURES, ModelConfig  # noqa: PLC0415

    size = {name: options.pop(name) for name in ("embedding_bytes", "compression", "capacity_rows")}
    if not any(size.values()):
        size["compression"] = 1000.0
    return ModelConfig(
        **size,
        model=options.pop("model"),
        dim=options.pop("dim"),
        full_features=options.pop("full_features") or CRITEO_FEATURES,
        row_optimizer=options.pop("optimizer"),
        row_format=options.pop("row_format"),
        hot_store=options.pop("hot_store"),
        row_hyperparameters=RowOptimizer(learning_rate=options.pop("learning_rate")),
        dense_optimizer=DenseOptimizer(
            name=options.pop("dense_optimizer"), learning_rate=options.pop("dense_learning_rate")
        ),
        dense_options=DenseOptions(precision=options.pop("precision"), mode=options.pop("dense_mode")),
        compare_hash=options.pop("compare") == "hash",
        seed=options.pop("seed"),
    )
