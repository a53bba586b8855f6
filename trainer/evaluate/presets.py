"""Presets of a comparison: the training set-up that all methods share, and the default size of the grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from trainer.embedding.stores.store import OptimizerName
from trainer.learning.learner import DenseOptimizer
from trainer.learning.models import MODELS

__all__ = ["PRESETS", "Preset"]


@dataclass(frozen=True, kw_only=True)
class Preset:
    """The training set-up that all methods share, and the defaults of the grid.

    Attributes:
        name: the preset's name.
        dim: D.
        batch_rows: B.
        optimizer: the optimizer of the rows.
        learning_rate: the learning rate of the rows.
        epsilon: the epsilon of the rows' Adagrad.
        dense: the optimizer of the other parameters.
        towers: the keyword arguments of each model, which set its layer sizes.
        rows: default number of generated rows.
        seeds: default number of seeds.
        compressions: default compression ratios.
        methods: default methods; None for all.
    """

    name: str
    dim: int = 16
    batch_rows: int = 2048
    optimizer: OptimizerName = "adagrad"
    learning_rate: float = 0.3
    epsilon: float = 3e-5
    dense: DenseOptimizer = field(default_factory=DenseOptimizer)
    towers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rows: int = 2_000_000
    seeds: int = 3
    compressions: tuple[float, ...] = (10, 100, 1000, 10_000)
    methods: tuple[str, ...] | None = None

    def build_model(self, name: str, *, num_dense: int, num_fields: int, seed: int) -> nn.Module:
        """Returns the named model; its initial weights depend only on the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            towers = self.towers.get(name, {})
            return MODELS[name](num_dense=num_dense, num_fields=num_fields, dim=self.dim, **towers)

    def describe(self) -> dict[str, Any]:
        """Returns what the result of a cell depends on, as JSON values."""
        dense = [self.dense.name, self.dense.learning_rate]
        rows = [self.optimizer, self.learning_rate, self.epsilon]
        return {"dim": self.dim, "batch": self.batch_rows, "rows": rows, "dense": dense, "towers": dict(self.towers)}


_SMALL: Mapping[str, Mapping[str, Any]] = {
    "dlrm": {"bottom": (64, 32), "top": (64, 32)},
    "wdl": {"deep": (64, 32)},
    "dcn": {"deep": (64, 32)},
}

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(  # a first result within minutes
            name="quick",
            towers=_SMALL,
            rows=100_000,
            seeds=1,
            compressions=(100,),
            methods=("full", "hash", "qr", "cafe", "hotstream"),
        ),
        Preset(name="reference", towers=_SMALL),
        Preset(  # the set-up of the CAFE paper, with its layer sizes
            name="paper",
            batch_rows=128,
            optimizer="sgd",
            learning_rate=0.1,
            dense=DenseOptimizer(name="sgd", learning_rate=0.1),
        ),
    )
}
