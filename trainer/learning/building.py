"""Builds the trainer of a `ModelConfig`, and selects its device."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from streams.keys import Field
from trainer.embedding.adaptive import AdaptiveEmbedding
from trainer.embedding.hashed import HashEmbedding
from trainer.embedding.plans import hash_plan
from trainer.errors import PlanError
from trainer.learning.model_config import ModelConfig
from trainer.learning.models import build_model
from trainer.learning.trainer import Trainer

__all__ = ["build_trainer", "choose_device"]


def choose_device(name: str) -> torch.device:
    """Returns the named device; `auto` is CUDA if torch finds a CUDA device, else the CPU.

    Raises:
        PlanError: the name is `cuda` and torch finds no CUDA device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise PlanError("--device cuda: torch finds no CUDA device; use --device cpu or auto")
    return torch.device(name)


def build_trainer(config: ModelConfig, fields: Sequence[Field], num_dense: int, device: torch.device) -> Trainer:
    """Returns an untrained trainer; the models of both learners start with the same weights.

    Raises:
        PlanError: the size budget is too small.
    """

    def model() -> torch.nn.Module:
        return build_model(config.model, num_dense=num_dense, num_fields=len(fields), dim=config.dim, seed=config.seed)

    optimizer = config.row_hyperparameters
    embedding = AdaptiveEmbedding(config.plan(len(fields)), optimizer=optimizer, seed=config.seed, device=device)
    baseline = None
    if config.compare_hash:
        plan = hash_plan(
            embedding.nbytes["total"],
            config.dim,
            len(fields),
            optimizer=config.row_optimizer,
            row_format=config.row_format,
        )
        baseline = (model(), HashEmbedding(plan, optimizer=optimizer, seed=config.seed, device=device))
    return Trainer(
        model(), embedding, optimizer=config.dense_optimizer, options=config.dense_options, baseline=baseline
    )
