"""The trainer's unique rows and the agents' capacity are one number; the agents record it in the control topic."""

from __future__ import annotations

import logging
from dataclasses import replace

from trainer.errors import PlanError
from trainer.learning.model_config import ModelConfig

__all__ = ["fit_to_agents"]

logger = logging.getLogger(__name__)


def fit_to_agents(model: ModelConfig, agents_rows: int | None, num_fields: int, *, is_sized: bool) -> ModelConfig:
    """The configuration with which the trainer has a unique row for every hot feature of the agents.

    Args:
        model: the configuration of the options.
        agents_rows: the agents' capacity; None if no agent has started yet, so that nothing can be compared.
        num_fields: F.
        is_sized: whether an option chooses the size; if not, the agents' capacity does.

    Raises:
        PlanError: the trainer has fewer unique rows than the agents assign.
    """
    if agents_rows is None:
        rows = model.plan(num_fields).capacity_rows
        logger.info("no agent has recorded its capacity yet; it must be %d, the unique rows of this trainer", rows)
        return model
    if not is_sized:
        logger.info("--capacity %d, as the agents have", agents_rows)
        return replace(model, embedding_bytes=None, compression=None, capacity_rows=agents_rows)
    rows = model.plan(num_fields).capacity_rows
    if rows < agents_rows:
        raise PlanError(
            f"the trainer has {rows} unique rows, and the agents assign {agents_rows}: expected at least as many; "
            f"start it with --capacity {agents_rows}, or the agents with --capacity {rows} --new-epoch"
        )
    if rows > agents_rows:
        logger.warning(
            "the trainer has %d unique rows, and the agents assign %d: %.0f %% of them are never used; start the "
            "agents with --capacity %d --new-epoch, or the trainer with --capacity %d",
            rows, agents_rows, 100 * (1 - agents_rows / rows), rows, agents_rows,
        )  # fmt: skip
    return model
