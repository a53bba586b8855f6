"""The online trainer: adaptive embeddings that follow the hot set.

A public name is imported on first access, so `import trainer` does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.embedding.adaptive import AdaptiveEmbedding
    from trainer.embedding.migration import ApplyReport, MigrationReport
    from trainer.embedding.plans import plan
    from trainer.learning.trainer import StepReport, Trainer

__all__ = ["AdaptiveEmbedding", "ApplyReport", "MigrationReport", "StepReport", "Trainer", "plan"]

_HOMES = {
    "AdaptiveEmbedding": "trainer.embedding.adaptive",
    "ApplyReport": "trainer.embedding.migration",
    "MigrationReport": "trainer.embedding.migration",
    "StepReport": "trainer.learning.trainer",
    "Trainer": "trainer.learning.trainer",
    "plan": "trainer.embedding.plans",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'trainer' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
