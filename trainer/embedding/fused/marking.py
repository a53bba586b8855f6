"""The kernel that prepares sorted entries for `segments`: the row and the field of each, and where segments end.

    rows       (M,) int32     a unique row, or a row of level 2; -2 - r for row r of level 1; -1 for none
    entries    (M,) int32     a lookup n, or 4 n + quarter
    marks      (M,) uint8     of the entry's row; shifted left by four, of its key
    fields     (M,) uint8

M is the number of entries, rounded up to whole spans; what is added has no row.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["BEGINS", "ENDS", "IS_PART", "IS_TAIL", "OF_KEY", "mark_kernel", "mark_plain_kernel"]

# A segment begins here; it, or the span, ends here; then also: it is not whole; it began in this span.
BEGINS, ENDS, IS_PART, IS_TAIL = (tl.constexpr(1 << bit) for bit in range(4))
OF_KEY = tl.constexpr(16)
_MASK = tl.constexpr((1 << 63) - 1)


@triton.jit
def _compare(ids, preceding, following, first, at, SPAN: tl.constexpr):
    """The marks of entries `at` with these ids, those of their neighbours and of the entry before their span."""
    is_last = at % SPAN == SPAN - 1
    goes_on, has_begun = ids == following, ids == first
    is_part = goes_on | has_begun
    marks = tl.where(ids != preceding, BEGINS, 0) | tl.where((goes_on == 0) | is_last, ENDS, 0)
    return marks | tl.where(is_part, IS_PART, 0) | tl.where(goes_on & (has_begun == 0) & is_last, IS_TAIL, 0)


@triton.jit
def _rows_of(ids, ID_BITS: tl.constexpr):
    """The rows of ids, as `rows` has them."""
    return tl.where(ids < 0, -2 - ((ids & _MASK) >> ID_BITS), ids).to(tl.int32)


@triton.jit
def _mark_ids(block, ids, order, fields, entries, num_entries, ID_BITS, SPAN: tl.constexpr, BLOCK: tl.constexpr):
    at = block * BLOCK + tl.arange(0, BLOCK)
    is_entry, start = at < num_entries, at // SPAN * SPAN
    own = tl.load(ids + at, is_entry, 0)
    preceding = tl.load(ids + at - 1, is_entry & (at > 0), 0)
    following = tl.load(ids + at + 1, at + 1 < num_entries, 0)
    first = tl.load(ids + start - 1, is_entry & (start > 0), 0)
    # Where there is no neighbour, a row that no entry has.
    row = _rows_of(own, ID_BITS)
    row_before = tl.where(at > 0, _rows_of(preceding, ID_BITS), -1)
    row_after = tl.where(at + 1 < num_entries, _rows_of(following, ID_BITS), -1)
    row_first = tl.where(start > 0, _rows_of(first, ID_BITS), -1)
    mark = _compare(row, row_before, row_after, row_first, at, SPAN)
    # Equal ids have equal rows, so a neighbour of another row gets another id.
    preceding = tl.where(row == row_before, preceding, own ^ 1)
    following = tl.where(row == row_after, following, own ^ 1)
    first = tl.where(row == row_first, first, own ^ 1)
    mark = mark | _compare(own, preceding, following, first, at, SPAN) * OF_KEY
    lookup = tl.load(order + at, is_entry, 0).to(tl.int32)
    tl.store(entries[0] + at, tl.where(is_entry, row, -1))
    tl.store(entries[1] + at, lookup)
    tl.store(entries[2] + at, tl.where(is_entry, mark, 0).to(tl.uint8))
    tl.store(entries[3] + at, tl.load(fields + lookup, is_entry, 0))


@triton.jit
def _mark_rows(
    block,
    ids,
    order,
    fields,
    entries,
    num_entries,
    num_rows,
    SPAN: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_FIELDS: tl.constexpr,
):
    """The same for ids that are rows; fields are those of quarters."""
    at = block * BLOCK + tl.arange(0, BLOCK)
    is_entry, start = at < num_entries, at // SPAN * SPAN
    row = tl.load(ids + at, is_entry, num_rows)
    preceding = tl.load(ids + at - 1, is_entry & (at > 0), -1)
    following = tl.load(ids + at + 1, at + 1 < num_entries, -1)
    first = tl.load(ids + start - 1, is_entry & (start > 0), -1)
    entry = tl.load(order + at, is_entry, 0).to(tl.int32)
    mark = _compare(row, preceding, following, first, at, SPAN)
    tl.store(entries[0] + at, tl.where(row < num_rows, row, -1))
    tl.store(entries[1] + at, entry)
    tl.store(entries[2] + at, tl.where(row < num_rows, mark, 0).to(tl.uint8))
    if HAS_FIELDS:
        tl.store(entries[3] + at, tl.load(fields + (entry >> 2), row < num_rows, 0))


@triton.jit
def mark_kernel(
    ids,
    order,
    quarters,
    quarter_order,
    fields,
    entries,
    quarter_entries,
    num_lookups,
    num_blocks,
    level_2_rows,
    ID_BITS: tl.constexpr,
    SPAN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Fills the four arrays of ids, and those of quarters.

    Args:
        ids: (N,) int64, sorted, as `route_kernel` makes them, with the lookups `order` (N,) int64.
        quarters: (4 N,) int32, the sorted rows of level 2, R for none; `quarter_order` (4 N,) int64.
        fields: (N,) uint8, of the lookups.
        entries: rows, entries, marks and fields, filled; likewise `quarter_entries`.
        num_lookups: N.
        num_blocks: programs for ids; the others are for quarters.
        level_2_rows: R.
    """
    program = tl.program_id(0)
    if program < num_blocks:
        _mark_ids(program, ids, order, fields, entries, num_lookups, ID_BITS, SPAN, BLOCK)
    else:
        _mark_rows(
            *(program - num_blocks, quarters, quarter_order, fields, quarter_entries, 4 * num_lookups, level_2_rows),
            *(SPAN, BLOCK, True),
        )


@triton.jit
def mark_plain_kernel(ids, order, entries, num_entries, num_rows, SPAN: tl.constexpr, BLOCK: tl.constexpr):
    """Fills the first three arrays of one table, for sorted rows `ids` (N,) int32."""
    _mark_rows(tl.program_id(0), ids, order, order, entries, num_entries, num_rows, SPAN, BLOCK, False)
