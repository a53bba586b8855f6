"""The errors of `trainer`.

    TrainerError
    |-- PlanError        (ValueError)    sizes that cannot be met
    |-- KeyRangeError    (ValueError)    a key whose field number the model does not have
    |-- CapacityError    (ValueError)    an assignment that names a row beyond the capacity
    |-- GradientError    (RuntimeError)  forward, backward and updates called in an order that means nothing
    `-- CheckpointError  (ValueError)    a checkpoint that is damaged or belongs to another model

A bad *record* is none of these: it is a value (`records.BadRecord`), counted and dead-lettered.
"""

from __future__ import annotations

__all__ = [
    "CapacityError",
    "CheckpointError",
    "GradientError",
    "KeyRangeError",
    "PlanError",
    "TrainerError",
]


class TrainerError(Exception):
    """The root of every error that `trainer` raises on purpose."""


class PlanError(TrainerError, ValueError):
    """Sizes that cannot be met."""


class KeyRangeError(TrainerError, ValueError):
    """A key whose field number the model does not have."""


class CapacityError(TrainerError, ValueError):
    """An assignment that names a row beyond the capacity: agent and trainer were started with different ones."""


class GradientError(TrainerError, RuntimeError):
    """Forward, backward and updates called in an order that means nothing."""


class CheckpointError(TrainerError, ValueError):
    """A checkpoint that is damaged, of another version, or of another model."""
