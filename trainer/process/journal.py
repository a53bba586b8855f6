"""The journal: in which order a run took click records and assignment records, so that it can be repeated exactly.

    {"event": 812, "click": [3, 4711]}          the click record at partition 3, offset 4711 was trained
    {"event": 813, "assignments": {"0": 96},    the assignments before these offsets were applied, which were fetched
     "log_ends": {"0": 120}}                    when the partitions ended here (which decides what counts in a gap)

Each line is written, unbuffered, before the event happens; a checkpoint names the last event that is in it. After a
kill the events behind the newest good checkpoint are repeated from the journal, and so end in the same weights; what
a kill cut off in mid-line had not happened yet.
"""

from __future__ import annotations

import json
import os
from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

__all__ = ["Apply", "Journal", "Train"]


@dataclass(frozen=True)
class Train:
    """One click record is trained."""

    partition: int
    offset: int


@dataclass(frozen=True)
class Apply:
    """The assignments before these offsets, by partition, are applied in one batch.

    Attributes:
        ends: the offset behind the last record of each partition.
        log_ends: where each partition ended when they were fetched; without it nothing was compacted away.
    """

    ends: dict[int, int]
    log_ends: dict[int, int] = field(default_factory=dict)


def _encode(number: int, event: Train | Apply) -> bytes:
    if isinstance(event, Train):
        line = {"event": number, "click": [event.partition, event.offset]}
    else:
        line = {"event": number, "assignments": event.ends, "log_ends": event.log_ends}
    return json.dumps(line, separators=(",", ":")).encode() + b"\n"


def _decode(line: bytes) -> tuple[int, Train | Apply] | None:
    """The event of a line; None if the line was cut off."""
    try:
        said = json.loads(line)
        if "click" in said:
            return int(said["event"]), Train(*map(int, said["click"]))
        return int(said["event"]), Apply(_offsets(said["assignments"]), _offsets(said["log_ends"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _offsets(listed: dict[str, int]) -> dict[int, int]:
    return {int(partition): int(offset) for partition, offset in listed.items()}


class Journal:
    """The events of a run, numbered from 1, in files of one checkpoint's length.

    Args:
        directory: where the checkpoints are; None to keep no journal.
        last_event: the last one that the checkpoint holds, 0 without one.

    Attributes:
        last_event: the number of the last event that has happened or is being done.
    """

    def __init__(self, directory: Path | None, last_event: int = 0) -> None:
        self._directory = directory
        self._file: int | None = None
        self.last_event = last_event
        self._script = deque(self._read(last_event))
        self._begin()

    def _paths(self) -> list[Path]:
        return sorted(self._directory.glob("*.journal")) if self._directory else []

    def _read(self, last_event: int) -> list[tuple[int, Train | Apply]]:
        """The events after the checkpoint, without a gap."""
        found = {}
        for path in self._paths():
            decoded = [_decode(line) for line in path.read_bytes().split(b"\n")]
            found.update({number: event for number, event in filter(None, decoded) if number > last_event})
        events = []
        while last_event + 1 in found:
            last_event += 1
            events.append((last_event, found[last_event]))
        return events

    def _begin(self) -> None:
        """Starts a file after the last event, which begins with what is still to be repeated."""
        if self._directory is None:
            return
        if self._file is not None:
            os.close(self._file)
        path = self._directory / f"{self.last_event:012d}.journal"
        temporary = path.with_suffix(".part")
        temporary.write_bytes(b"".join(_encode(number, event) for number, event in self._script))
        temporary.rename(path)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND)

    def next_scripted(self) -> Train | Apply | None:
        """The event that must come next, None when all of the journal has been repeated."""
        if not self._script:
            return None
        self.last_event, event = self._script.popleft()
        return event

    def record(self, event: Train | Apply) -> None:
        """Notes an event that is about to happen."""
        self.last_event += 1
        if self._file is not None:
            os.write(self._file, _encode(self.last_event, event))

    def start_file(self) -> None:
        """Goes on in a new file: a checkpoint of this moment is about to be written."""
        self._begin()

    def forget(self, oldest_event: int) -> None:
        """Deletes the files that end before `oldest_event`, the oldest checkpoint's; from any thread."""
        paths = self._paths()
        for path, following in pairwise(paths):
            if int(following.stem) <= oldest_event:
                path.unlink()

    def clear(self) -> None:
        """Forgets everything: the run starts afresh."""
        self._script.clear()
        self.last_event = 0
        for path in self._paths():
            path.unlink()
        self._begin()

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
