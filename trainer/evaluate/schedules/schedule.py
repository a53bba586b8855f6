"""`Schedule`: the steps of a run, and what happens around each. The plain one has a step for each batch.

    for each step:  fetch  ->  each micro-batch: forward, backward  ->  one optimizer step  ->  write_back

The loss of a step is the mean over the rows of all its micro-batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from trainer.evaluate.methods.method import Method
from trainer.evaluate.methods.row_tables import RowNumbers, Rows, RowTables

__all__ = ["Ids", "MicroBatch", "Schedule", "full_row_bytes", "record", "why_no_tables"]

Ids = npt.NDArray[np.int64]
MicroBatch = slice | Ids


class Schedule:
    """The batches in their order.

    Args:
        batches: the rows of each batch.

    Attributes:
        steps: the micro-batches of each step; each row of the stream is in exactly one of them.
    """

    def __init__(self, batches: Sequence[slice]) -> None:
        self.steps: list[list[MicroBatch]] = [[rows] for rows in batches]

    def fetch(self, number: int) -> None:
        """Before step `number`."""

    def write_back(self, number: int) -> None:
        """After step `number`."""

    def counts(self) -> dict[str, Any]:
        """What was moved, touched or left out, with and without the schedule."""
        return {}


def why_no_tables(name: str, method: Method) -> str | None:
    """Why a schedule cannot count the rows of a method; None if it can."""
    if not isinstance(method, RowTables) or "adaptive" in method.capabilities:
        return f"{name}: its rows move, or are not those of tables; expected full, hash, double-hash, qr, robe or mde"
    return None


def full_row_bytes(table: Rows) -> int:
    """Bytes of one row of a table with its optimizer sum."""
    return table.store.row_bytes(table.store.dim, table.store.sizes.optimizer)


@torch.no_grad()
def record(method: RowTables, words: npt.NDArray[Any]) -> list[list[RowNumbers]]:
    """The row numbers (B, ...) of each lookup in each table that a forward pass of words (B, F) makes; reads no row."""
    for table in method.all_rows:
        table.recorder = []
    method(torch.from_numpy(words.astype(np.int64, copy=True)))
    found = []
    for table in method.all_rows:
        found.append(table.recorder or [])
        table.recorder = None
    return found
