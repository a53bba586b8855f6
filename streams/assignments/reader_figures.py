"""The figures of a process that follows the assignments, for its metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from streams.assignments.reader import AssignmentReader
from streams.clients.connector import Connector
from streams.telemetry.figures import Figure
from streams.telemetry.latency import LatencyHistogram
from streams.telemetry.monitor import ProcessMonitor, Watched
from streams.topics import Topics

__all__ = ["ReaderFigures"]


class ReaderFigures:
    """The figures as of the last `note`, which the thread of the reader calls.

    Args:
        reader: the reader.
        tiers: the changes that were read, by tier; the caller counts them.
        delay: the time from a click record until its change was read; the caller counts it.
    """

    def __init__(self, reader: AssignmentReader, tiers: Counter[str], delay: LatencyHistogram) -> None:
        self._reader, self._tiers, self._delay = reader, tiers, delay
        self._positions: dict[int, int] = {}
        self._num_behind = 0

    def note(self) -> None:
        """Notes how far the reader is."""
        self._positions, self._num_behind = self._reader.positions(), self._reader.num_behind

    def watch(self, monitor: ProcessMonitor, connector: Connector) -> None:
        """Shows these figures, if the monitor serves any."""
        monitor.attach(
            Watched(
                connector=connector,
                topic=Topics(connector.prefix).assignments,
                num_partitions=len(self._reader.table.shards),
                offsets=lambda: self._positions,
                figures=self.figures,
                is_started=lambda: bool(self._positions),
            )
        )

    def figures(self) -> Iterator[Figure]:
        """The figures; may be called in any thread."""
        reader, history = self._reader, self._reader.table.history
        for tier in ("hot", "cold"):
            yield Figure("watch_changes_total", self._tiers[tier], {"tier": tier})
        yield Figure("watch_bad_records_total", reader.num_bad)
        yield Figure("watch_hot_features", history.num_hot)
        yield Figure("watch_lag_records", self._num_behind)
        yield Figure("watch_table_verified", history.verified if reader.is_whole else None)
        yield Figure("watch_change_delay_seconds", self._delay)
