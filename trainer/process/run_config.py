"""`RunConfig`: what a training run trains, where, and where its checkpoints are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from trainer.learning.model_config import ModelConfig

__all__ = ["RunConfig"]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The configuration of a run.

    Args:
        model: the model and its sizes.
        device: the device to train on.
        checkpoint_dir: the directory of checkpoints and journal; None for none.
        checkpoint_every: rows between two checkpoints.
        keep_checkpoints: the number of checkpoints to keep.
        window_rows: rows in a window of the metrics.
    """

    model: ModelConfig
    device: torch.device
    checkpoint_dir: Path | None = None
    checkpoint_every: int = 200_000
    keep_checkpoints: int = 3
    window_rows: int = 20_000
