"""Builds a schedule by its name, or says why a method cannot be fed so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from trainer.evaluate.methods.method import Method
from trainer.evaluate.methods.row_tables import RowTables
from trainer.evaluate.schedules.feeding import Feeding
from trainer.evaluate.schedules.hot_first import HotFirst
from trainer.evaluate.schedules.lookahead import Lookahead, why_no_cache
from trainer.evaluate.schedules.schedule import Schedule, why_no_tables
from trainer.evaluate.schedules.skip_stale import SkipStale
from trainer.evaluate.sources.stream import Stream

__all__ = ["build_schedule", "why_not"]


def why_not(feeding: Feeding, method: Method, stream: Stream) -> str | None:
    """Why a method cannot be fed so; None if it can."""
    if feeding.name == "plain":
        return None
    if reason := why_no_tables(feeding.name, method):
        return reason
    if feeding.name == "lookahead" and isinstance(method, RowTables) and (reason := why_no_cache(method)):
        return reason
    if feeding.name != "skip-stale" and stream.has_bags:
        return f"{feeding.name}: fields of this log have several values, or weights"
    return None


def build_schedule(feeding: Feeding, method: Method, words: npt.NDArray[Any], batches: Sequence[slice]) -> Schedule:
    """The schedule of a method for which `why_not` has no reason; (N, F) keys or ids, and the rows of each batch."""
    if feeding.name == "plain" or not isinstance(method, RowTables):
        return Schedule(batches)
    if feeding.name == "lookahead":
        return Lookahead(method, words, batches, feeding.lookahead)
    if feeding.name == "hot-first":
        return HotFirst(method, words, batches, feeding.lookahead, feeding.hot_share)
    return SkipStale(method, batches, feeding.rest_below)
