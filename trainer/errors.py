"""The errors of `trainer`.

    TrainerError
    |-- PlanError        (ValueError)    an invalid model configuration, or a size budget that is too small
    |-- KeyRangeError    (ValueError)    a key whose field number the model does not have
    |-- KeyTypeError     (TypeError)     keys of another dtype than int64 or uint64
    |-- BagError         (ValueError)    offsets or weights of bags that do not fit their keys
    |-- CapacityError    (ValueError)    an assignment whose row number exceeds the capacity
    |-- DeviceError      (RuntimeError)  an embedding that is moved to another device or dtype
    |-- GradientError    (RuntimeError)  forward, backward and updates in an invalid order
    |-- CheckpointError  (ValueError)    a checkpoint that is damaged, belongs to another model, or cannot be written
    |-- DivergedError    (ArithmeticError)  a model whose loss, gradients or weights are not finite
    |-- RankError        (ConnectionError)  another process that trains the same model has ended
    |-- ReplicaError     (RuntimeError)  a replica that is asked for what its topic does not have
    `-- RequestError     (ValueError)    a request to `hotstream serve` that is malformed

A bad *record* raises none of these: `streams.records` returns it as a value (`BadRecord`), which the trainer counts and
dead-letters.
"""

from __future__ import annotations

__all__ = [
    "BagError",
    "CapacityError",
    "CheckpointError",
    "DeviceError",
    "DivergedError",
    "GradientError",
    "KeyRangeError",
    "KeyTypeError",
    "PlanError",
    "RankError",
    "ReplicaError",
    "RequestError",
    "TrainerError",
]


class TrainerError(Exception):
    """The base class of the errors that `trainer` raises."""


class PlanError(TrainerError, ValueError):
    """An invalid model configuration, or a size budget that is too small."""


class KeyRangeError(TrainerError, ValueError):
    """A key whose field number the model does not have."""


class KeyTypeError(TrainerError, TypeError):
    """Keys of another dtype than int64 or uint64."""


class BagError(TrainerError, ValueError):
    """Offsets or weights of bags that do not fit their keys."""


class CapacityError(TrainerError, ValueError):
    """An assignment whose row number exceeds the capacity: agent and trainer run with different capacities."""


class DeviceError(TrainerError, RuntimeError):
    """An embedding that shall be moved to another device."""


class GradientError(TrainerError, RuntimeError):
    """Forward, backward and updates in an invalid order."""


class CheckpointError(TrainerError, ValueError):
    """A checkpoint that is damaged, has another format version, belongs to another model, or cannot be written."""


class DivergedError(TrainerError, ArithmeticError):
    """A model whose loss, gradients or weights are not finite."""


class RankError(TrainerError, ConnectionError):
    """Another rank has ended, or cannot be reached."""


class ReplicaError(TrainerError, RuntimeError):
    """A replica that has not read a model yet, or is asked for what its topic does not have."""


class RequestError(TrainerError, ValueError):
    """A request to `hotstream serve` that is malformed, or does not fit the model."""
