"""`BadRecordLog`: at most one log line a second about bad records, however many come."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from streams.escapes import escape

__all__ = ["BadRecordLog"]

_INTERVAL_S = 1.0


class BadRecordLog:
    """Logs the first bad record at once, then at most one a second with the number of those between.

    Args:
        logger: the logger of the module that reads the records.
        clock_s: seconds.
    """

    def __init__(self, logger: logging.Logger, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._clock_s = clock_s
        self._next_s = -float("inf")
        self._num_unlogged = 0

    def add(self, record: Any, reason: str) -> None:
        """Notes a bad record.

        Args:
            record: as a Kafka client gives it: `topic`, `partition` and `offset`.
            reason: the reason (what, got, expected).
        """
        now_s = self._clock_s()
        if now_s < self._next_s:
            self._num_unlogged += 1
            return
        more = f" (and {self._num_unlogged} more since the last line)" if self._num_unlogged else ""
        where = f"{record.topic}/{record.partition}, offset {record.offset}"
        self._logger.warning("%s: bad record: %s%s", where, escape(reason), more)
        self._next_s, self._num_unlogged = now_s + _INTERVAL_S, 0
