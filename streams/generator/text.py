r"""Formats generated rows as lines of Criteo's text format, in one byte buffer.

A line is `label \t I1 ... I13 \t C1 ... C26 \n`; a missing cell is empty, a token is 8 hex digits.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from streams.digits import MAX_NUMBER_BYTES, write_hex, write_number
from streams.generator.blocks import RowBlock
from streams.keys import MISSING_WORD

__all__ = ["format_tsv"]

Bytes = npt.NDArray[np.uint8]
_TAB, _NEWLINE = ord("\t"), ord("\n")
_TOKEN_BYTES = 8


@njit(nogil=True, cache=True)
def _write_rows(
    label: npt.NDArray[np.int8],
    dense: npt.NDArray[np.float32],
    payloads: npt.NDArray[np.uint64],
    out: Bytes,
) -> int:
    """Writes B rows to the start of `out`; returns their number of bytes."""
    end = 0
    for row in range(label.shape[0]):
        end = write_number(np.int64(label[row]), out, end)
        for column in range(dense.shape[1]):
            out[end] = _TAB
            end += 1
            if not np.isnan(dense[row, column]):
                end = write_number(np.int64(dense[row, column]), out, end)
        for field in range(payloads.shape[1]):
            out[end] = _TAB
            end += 1
            if payloads[row, field] != MISSING_WORD:
                end = write_hex(payloads[row, field], _TOKEN_BYTES, out, end)
        out[end] = _NEWLINE
        end += 1
    return end


def format_tsv(block: RowBlock) -> memoryview:
    """The rows of a block as lines of Criteo's Kaggle file."""
    num_rows, num_fields = block.payloads.shape
    row_bytes = 6 + block.dense.shape[1] * (1 + MAX_NUMBER_BYTES) + num_fields * (1 + _TOKEN_BYTES)
    out = np.empty(num_rows * row_bytes, np.uint8)
    return out[: _write_rows(block.label, block.dense, block.payloads, out)].data
