"""The columns of click records that a model is trained on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from streams.keys import MISSING, Field, compare_fields, field_key
from streams.records import NO_LABELS, BadRecord, ClickBatch

__all__ = ["Columns", "compare_columns", "fit_columns"]

Columns = tuple[tuple[Field, ...], int]  # fields, and the number of dense columns
_REMEDY = "name the schema of the clicks, built-in or a file, with --schema"


def compare_columns(got: Columns, expected: Columns) -> str | None:
    """The difference between columns; None if they are equal."""
    if got == expected:
        return None
    difference = _difference(got[0], expected[0])
    counts = f"got {len(got[0])} fields and {got[1]} dense columns, expected {len(expected[0])} and {expected[1]}"
    return counts if difference is None else f"{counts}; {difference}"


def _difference(got: tuple[Field, ...], expected: tuple[Field, ...]) -> str | None:
    """The first field that differs; None if one of the lists begins with the other."""
    return compare_fields(got[: len(expected)], expected)


def fit_columns(batch: ClickBatch, expected: Columns | None) -> ClickBatch | BadRecord:
    """The batch with the columns of the model; refuses one of another schema or without labels.

    Fields that the batch has behind the model's are left out; the values of fields that it lacks behind its own are
    missing.

    Args:
        batch: the rows.
        expected: the model's columns; None if there is no model yet.
    """
    if batch.label is None:
        return BadRecord(NO_LABELS)
    columns = batch.fields, len(batch.dense_names)
    if expected is None or columns == expected:
        return batch
    fields, num_dense = expected
    if columns[1] != num_dense or _difference(batch.fields, fields) is not None:
        return BadRecord(f"{compare_columns(columns, expected)}; {_REMEDY}")
    keys = np.empty((batch.num_rows, len(fields)), np.uint64)
    shared = min(len(fields), len(batch.fields))
    keys[:, :shared] = batch.keys[:, :shared]
    for index in range(shared, len(fields)):
        keys[:, index] = field_key(index + 1) | np.uint64(MISSING)
    more = None if batch.more is None else batch.more.of_fields(len(fields))
    weights = None
    if batch.key_weights is not None:
        weights = np.ones(keys.shape, np.float32)
        weights[:, :shared] = batch.key_weights[:, :shared]
    return replace(batch, keys=keys, fields=fields, more=more, key_weights=weights)
