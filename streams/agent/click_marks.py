"""`ClickMarks`: which click records a shard has counted, so that each counts once however often it is sent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sketch import SnapshotError
from sketch.snapshot_checks import integer_of
from streams.records import Source

__all__ = ["ClickMarks"]


class ClickMarks:
    """The last click offset counted of each signal, clicks topic and partition.

    A topic is known by its id, as offsets of a topic that was made again are another topic's; by its name where the
    writer knows no id. Memory: one entry for each.

    Args:
        entries: (signal, topic id or name, partition, offset), as `to_state` returns them.

    Raises:
        SnapshotError: an entry is malformed.
    """

    def __init__(self, entries: Iterable[Any] = ()) -> None:
        self._offsets = dict(_parse(*entry) for entry in entries)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ClickMarks) and self._offsets == other._offsets

    __hash__ = None  # type: ignore[assignment]

    def to_state(self) -> list[list[Any]]:
        """The entries, for JSON."""
        return [[*mark, offset] for mark, offset in sorted(self._offsets.items())]

    def is_counted(self, source: Source) -> bool:
        """Whether a click record was counted before; marks it.

        The first record with the id of a topic continues the mark of its name, once: its writer was upgraded.
        """
        mark = (source.signal, source.topic_id or source.topic, source.partition)
        before = self._offsets.get(mark)
        if before is None and source.topic_id is not None:
            before = self._offsets.pop((source.signal, source.topic, source.partition), None)
        if before is not None and source.offset <= before:
            self._offsets[mark] = before
            return True
        self._offsets[mark] = source.offset
        return False


def _parse(signal: object, topic: object, partition: object, offset: object) -> tuple[tuple[str, str, int], int]:
    numbers = {"partition": partition, "offset": offset}
    if not isinstance(signal, str) or not isinstance(topic, str):
        raise SnapshotError(f"shard snapshot: got {str((signal, topic))[:90]}, expected a signal and a topic")
    return (signal, topic, integer_of(numbers, "partition")), integer_of(numbers, "offset")
