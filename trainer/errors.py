"""The errors of `trainer`.

    TrainerError
    |-- PlanError        (ValueError)    sizes that cannot be met
    |-- KeyRangeError    (ValueError)    a key whose field number the model does not have
    |-- KeyTypeError     (TypeError)     keys of another dtype than int64 or uint64
    |-- CapacityError    (ValueError)    an assignment that names a row beyond the capacity
    |-- DeviceError      (RuntimeError)  an embedding that shall be moved to another device
    |-- GradientError    (RuntimeError)  forward, backward and updates called in an order that means nothing
    `-- CheckpointError  (ValueError)    a checkpoint that is damaged or belongs to another model

A bad *record* is none of these: it is a value (`records.BadRecord`), counted and dead-lettered.
"""

from __future__ import annotations

__all__ = [
    "CapacityError",
    "CheckpointError",
    "DeviceError",
    "GradientError",
    "KeyRangeError",
    "KeyTypeError",
    "PlanError",
    "TrainerError",
]


class TrainerError(Exception):
    """The root of every error that `trainer` raises on purpose."""


class PlanError(TrainerError, ValueError):
    """Sizes that cannot be met."""


class KeyRangeError(TrainerError, ValueError):
    """A key whose field number the model does not have."""


class KeyTypeError(TrainerError, TypeError):
    """Keys of another dtype than int64 or uint64."""


class CapacityError(TrainerError, ValueError):
    """An assignment that names a row beyond the capacity: agent and trainer were started with different ones."""


class DeviceError(TrainerError, RuntimeError):
    """An embedding that shall be moved to another device."""


class GradientError(TrainerError, RuntimeError):
    """Forward, backward and updates called in an order that means nothing."""


class CheckpointError(TrainerError, ValueError):
    """A checkpoint that is damaged, of another version, or of another model."""
