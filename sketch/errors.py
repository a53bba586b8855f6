"""The errors of `sketch`.

SketchError
|-- ParameterError (ValueError)   an invalid argument
`-- SnapshotError  (ValueError)   malformed or damaged snapshot bytes
"""

from __future__ import annotations

__all__ = ["ParameterError", "SketchError", "SnapshotError"]


class SketchError(Exception):
    """The root of every error that `sketch` raises."""


class ParameterError(SketchError, ValueError):
    """An invalid argument."""


class SnapshotError(SketchError, ValueError):
    """Malformed or damaged snapshot bytes."""
