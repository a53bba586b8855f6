"""The errors of `sketch`.

SketchError
|-- ParameterError (ValueError)   an argument that cannot be meant
`-- SnapshotError  (ValueError)   bytes that are no snapshot, or a damaged one
"""

from __future__ import annotations

__all__ = ["ParameterError", "SketchError", "SnapshotError"]


class SketchError(Exception):
    """The root of every error that `sketch` raises on purpose."""


class ParameterError(SketchError, ValueError):
    """An argument that cannot be meant."""


class SnapshotError(SketchError, ValueError):
    """Bytes that are no snapshot, or a damaged one."""
