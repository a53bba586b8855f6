"""The figures of a replay for its metrics."""

from __future__ import annotations

from collections.abc import Iterator

from streams.clients.admin import require_partitions
from streams.clients.connector import Connector
from streams.replay.sender import ReplayCounts
from streams.telemetry.figures import Figure
from streams.telemetry.monitor import ProcessMonitor, Watched
from streams.topics import Topics

__all__ = ["ReplayFigures"]


class ReplayFigures:
    """The counts of a replay as of its last batch.

    Attributes:
        counts: None before the first batch.
    """

    def __init__(self) -> None:
        self.counts: ReplayCounts | None = None

    def watch(self, monitor: ProcessMonitor, connector: Connector) -> None:
        """Shows these figures, if the monitor serves any.

        Raises:
            BrokerError: no broker answers.
            TopicError: the clicks topic is missing.
        """
        if monitor.port is None:
            return
        topic = Topics(connector.prefix).clicks
        monitor.attach(
            Watched(
                connector=connector,
                topic=topic,
                num_partitions=require_partitions(connector, topic),
                offsets=dict,
                figures=self.figures,
                is_started=lambda: self.counts is not None,
            )
        )

    def figures(self) -> Iterator[Figure]:
        """The figures; may be called in any thread."""
        if (counts := self.counts) is not None:
            for result in ("sent", "bad", "skipped"):
                yield Figure("replay_rows_total", getattr(counts, result), {"result": result})
            yield Figure("replay_click_records_total", counts.batches)
            yield Figure("replay_read_bytes", counts.bytes_read)
            yield Figure("replay_file_bytes", counts.bytes_total)
