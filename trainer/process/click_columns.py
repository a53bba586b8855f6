"""The columns of click records that a model is trained on."""

from __future__ import annotations

from streams.keys import Field

__all__ = ["Columns", "compare_columns"]

Columns = tuple[tuple[Field, ...], int]  # fields, and the number of dense columns


def compare_columns(got: Columns, expected: Columns) -> str | None:
    """The difference between columns; None if they are equal."""
    if got == expected:
        return None
    pairs = enumerate(zip(got[0], expected[0], strict=False), 1)
    first = next(((number, mine, other) for number, (mine, other) in pairs if mine != other), None)
    differs = "" if first is None else f", field {first[0]} {_describe(first[1])} for {_describe(first[2])}"
    return (
        f"got {len(got[0])} fields and {got[1]} dense columns, expected {len(expected[0])} and {expected[1]}{differs}"
    )


def _describe(field: Field) -> str:
    return f"{field.name} ({field.kind})"
