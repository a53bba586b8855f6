"""The set-ups of a comparison: how a model is trained, and how much of the grid is run unless asked otherwise."""

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
    """What all methods have in common.

    Attributes:
        name: of the preset.
        about: one line.
        dim: D.
        batch_rows: B.
        optimizer: of the rows.
        rate: learning rate of the rows.
        epsilon: of their Adagrad.
        dense: optimizer of the rest.
        towers: keyword arguments of each model.
        rows: of the stream.
        seeds: how many.
        compressions: ratios.
        methods: by name; None for all.
    """

    name: str
    about: str
    dim: int = 16
    batch_rows: int = 2048
    optimizer: OptimizerName = "adagrad"
    rate: float = 0.3
    epsilon: float = 3e-5
    dense: DenseOptimizer = field(default_factory=DenseOptimizer)
    towers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rows: int = 2_000_000
    seeds: int = 3
    compressions: tuple[float, ...] = (10, 100, 1000, 10_000)
    methods: tuple[str, ...] | None = None

    def build_model(self, name: str, *, num_dense: int, num_fields: int, seed: int) -> nn.Module:
        """The model of that name, whose first weights depend on the seed alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            towers = self.towers.get(name, {})
            return MODELS[name](num_dense=num_dense, num_fields=num_fields, dim=self.dim, **towers)

    def describe(self) -> dict[str, Any]:
        """What a cell's figures depend on."""
        dense = [self.dense.name, self.dense.rate]
        rows = [self.optimizer, self.rate, self.epsilon]
        return {"dim": self.dim, "batch": self.batch_rows, "rows": rows, "dense": dense, "towers": dict(self.towers)}


_SMALL: Mapping[str, Mapping[str, Any]] = {
    "dlrm": {"bottom": (64, 32), "top": (64, 32)},
    "wdl": {"deep": (64, 32)},
    "dcn": {"deep": (64, 32)},
}

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            name="quick",
            about="a first look, in minutes",
            towers=_SMALL,
            rows=100_000,
            seeds=1,
            compressions=(100,),
            methods=("full", "hash", "qr", "cafe-paper", "cafe"),
        ),
        Preset(name="reference", about="small towers, row-wise Adagrad, batch 2048", towers=_SMALL),
        Preset(
            name="paper",
            about="CAFE's own: SGD at .1, batch 128, its towers",
            batch_rows=128,
            optimizer="sgd",
            rate=0.1,
            dense=DenseOptimizer(name="sgd", rate=0.1),
        ),
    )
}
