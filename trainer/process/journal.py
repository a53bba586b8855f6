"""The journal: the order in which a run processed its records, so that it can be repeated exactly.

    {"event": 812, "click": [3, 4711]}          the click record at partition 3, offset 4711 was trained
    {"event": 813, "clicks": [[3, 4712], [0, 99]]}    these click records were trained as one batch
    {"event": 814, "assignments": {"0": 96},    the assignments before these offsets were applied; at their fetch the
     "log_ends": {"0": 120}}                    partitions ended at log_ends (which decides what counts in a gap)
    {"event": 815, "correct": 0,                shard 0 was read again, and these keys, rows (-1: cold) and scores
     "shard": {"seq": 97, ...}, "changes": [[72057594037927937, 5, 1.5]]}    corrected the model

A line is the checksum of its JSON (xxh3, 64 bits, as 16 hexadecimal digits), a space, and the JSON. Each is written,
unbuffered, before its event; a checkpoint names its last event. After a kill the run repeats the events after the
newest valid checkpoint, and so reaches the same weights. The event of an incomplete line had not happened yet.

While the disk is full, lines wait in memory, at most 1 MiB of them: a kill then loses the order of these events, not
the events.
"""

from __future__ import annotations

import json
import logging
import os
from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from sketch.changes import Changes
from trainer.errors import CheckpointError

__all__ = ["Apply", "Correct", "Event", "Journal", "Train", "TrainTogether"]

logger = logging.getLogger(__name__)

_MOST_UNWRITTEN_BYTES = 1 << 20


@dataclass(frozen=True)
class Train:
    """The event of training one click record."""

    partition: int
    offset: int


@dataclass(frozen=True)
class TrainTogether:
    """The event of training several click records as one batch.

    Attributes:
        records: partition and offset of each, in the order of their rows.
    """

    records: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Apply:
    """The event of applying the assignments before these offsets in one batch.

    Attributes:
        ends: the offset after the last applied record, by partition.
        log_ends: the end of each partition at the time of the fetch; empty if nothing was compacted.
    """

    ends: dict[int, int]
    log_ends: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Correct:
    """The event of correcting a shard of which a change had been lost.

    Attributes:
        partition: the shard's partition.
        state: the attributes of its view after it was read again.
        changes: key, row (-1: cold) and score of each correction, in order.
    """

    partition: int
    state: dict[str, int]
    changes: tuple[tuple[int, int, float], ...]

    @classmethod
    def of(cls, partition: int, state: dict[str, int], changes: Changes) -> Correct:
        """The event of these changes."""
        columns = (changes.key.tolist(), changes.row.tolist(), changes.score.tolist())
        return cls(partition, state, tuple(zip(*columns, strict=True)))

    def to_changes(self) -> Changes:
        """The changes as arrays."""
        keys, rows, scores = zip(*self.changes, strict=True) if self.changes else ((), (), ())
        return Changes(np.array(keys, np.uint64), np.array(rows, np.int32), np.array(scores, np.float32))


Event = Train | TrainTogether | Apply | Correct


def _encode(number: int, event: Event) -> bytes:
    line: dict[str, Any]
    if isinstance(event, Train):
        line = {"event": number, "click": [event.partition, event.offset]}
    elif isinstance(event, TrainTogether):
        line = {"event": number, "clicks": event.records}
    elif isinstance(event, Correct):
        line = {"event": number, "correct": event.partition, "shard": event.state, "changes": event.changes}
    else:
        line = {"event": number, "assignments": event.ends, "log_ends": event.log_ends}
    text = json.dumps(line, separators=(",", ":")).encode()
    return b"%s %s\n" % (xxhash.xxh3_64_hexdigest(text).encode(), text)


def _decode(line: bytes) -> tuple[int, Event] | None:
    """The number and event of a line; None if the line is incomplete or damaged."""
    checksum, _, text = line.partition(b" ")
    if xxhash.xxh3_64_hexdigest(text).encode() != checksum:
        return None
    try:
        decoded = json.loads(text)
        if "click" in decoded:
            return int(decoded["event"]), Train(*map(int, decoded["click"]))
        if "clicks" in decoded:
            records = tuple((int(partition), int(offset)) for partition, offset in decoded["clicks"])
            return int(decoded["event"]), TrainTogether(records)
        if "correct" in decoded:
            state = {str(name): int(known) for name, known in decoded["shard"].items()}
            changes = tuple((int(key), int(row), float(score)) for key, row, score in decoded["changes"])
            return int(decoded["event"]), Correct(int(decoded["correct"]), state, changes)
        return int(decoded["event"]), Apply(_offsets(decoded["assignments"]), _offsets(decoded["log_ends"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _offsets(listed: dict[str, int]) -> dict[int, int]:
    return {int(partition): int(offset) for partition, offset in listed.items()}


class Journal:
    """The events of a run, numbered from 1; each checkpoint starts a new file.

    Args:
        directory: the directory of the checkpoints; None for no journal.
        last_event: the last event in the checkpoint; 0 without one.

    Attributes:
        last_event: the number of the last event that has begun.
    """

    def __init__(self, directory: Path | None, last_event: int = 0) -> None:
        self._directory = directory
        self._file: int | None = None
        self._unwritten = bytearray()
        self._failure: OSError | None = None
        self.last_event = last_event
        self._script = deque(self._read(last_event))
        self._begin()
        for path in self._paths():
            if int(path.stem) > last_event:
                path.unlink()  # the new file has its events, or they follow a damaged line and happen in another order

    def _paths(self) -> list[Path]:
        return sorted(self._directory.glob("*.journal")) if self._directory else []

    def _read(self, last_event: int) -> list[tuple[int, Event]]:
        """The consecutive events after the checkpoint."""
        found, num_damaged, paths = {}, 0, self._paths()
        earlier = sum(int(path.stem) <= last_event for path in paths)
        for path in paths[max(0, earlier - 1) :]:
            *lines, _incomplete = path.read_bytes().split(b"\n")
            decoded = [_decode(line) for line in lines]
            num_damaged += decoded.count(None)
            found.update({number: event for number, event in filter(None, decoded) if number > last_event})
        events = []
        while last_event + 1 in found:
            last_event += 1
            events.append((last_event, found[last_event]))
        if num_damaged or len(found) > len(events):
            logger.warning(
                "the journal in %s has %d damaged lines; it repeats the events up to %d, and %d later ones follow in "
                "the order of their arrival, so the weights may differ from those of an unharmed run",
                self._directory, num_damaged, last_event, len(found) - len(events),
            )  # fmt: skip
        return events

    def _begin(self) -> None:
        """Starts a file after the last event; it begins with the events still to be repeated."""
        if self._directory is None:
            return
        path = self._directory / f"{self.last_event:012d}.journal"
        temporary = path.with_suffix(".part")
        temporary.write_bytes(b"".join(_encode(number, event) for number, event in self._script))
        temporary.rename(path)
        replaced, self._file = self._file, os.open(path, os.O_WRONLY | os.O_APPEND)
        if replaced is not None:
            os.close(replaced)

    def next_scripted(self) -> Event | None:
        """The next event to repeat; None when the whole journal has been repeated."""
        if not self._script:
            return None
        self.last_event, event = self._script.popleft()
        return event

    @property
    def num_steps(self) -> int:
        """The number of training steps still to be repeated."""
        return sum(isinstance(event, Train | TrainTogether) for _, event in self._script)

    def keep_steps(self, most: int) -> int:
        """Discards what follows these training steps among the events still to be repeated; returns its number."""
        ends = [end for end, (_, event) in enumerate(self._script, 1) if isinstance(event, Train | TrainTogether)]
        if len(ends) <= most:
            return 0
        kept = list(self._script)[: ends[most - 1] if most else 0]
        dropped = len(self._script) - len(kept)
        self._script = deque(kept)
        self._begin()
        return dropped

    def drop(self) -> int:
        """Discards the events still to be repeated; returns their number."""
        dropped = len(self._script)
        self._script.clear()
        self._begin()
        return dropped

    def record(self, event: Event) -> None:
        """Writes an event that is about to happen; if the disk fails, with a later event.

        Raises:
            CheckpointError: more than 1 MiB of events could not be written.
        """
        self.last_event += 1
        if self._file is not None:
            self._unwritten += _encode(self.last_event, event)
            self._write(self._file)
            if len(self._unwritten) > _MOST_UNWRITTEN_BYTES:
                raise CheckpointError(
                    f"{self._directory}: 1 MiB of the journal could not be written ({self._failure}); free space, and "
                    "start the trainer again"
                ) from self._failure

    def _write(self, file: int) -> None:
        """Writes what is unwritten, as far as the disk takes it; warns once if it takes nothing."""
        try:
            written = os.write(file, self._unwritten)
        except OSError as error:
            if self._failure is None:
                logger.warning("%s: the journal cannot be written (%s); its lines wait", self._directory, error)
            self._failure = error
            return
        del self._unwritten[:written]
        if self._failure is not None and not self._unwritten:
            self._failure = None
            logger.warning("%s: the journal is complete again", self._directory)

    def start_file(self) -> None:
        """Starts a new file; call it when a checkpoint is captured.

        Raises:
            OSError: the disk fails; the journal continues in the old file.
        """
        if self._file is not None and self._unwritten:
            self._write(self._file)
            if self._failure is not None:
                raise self._failure
        self._begin()

    def forget(self, oldest_event: int) -> None:
        """Deletes files whose events all precede `oldest_event`, that of the oldest checkpoint; thread-safe."""
        paths = self._paths()
        for path, following in pairwise(paths):
            if int(following.stem) <= oldest_event:
                path.unlink()

    def clear(self) -> None:
        """Deletes all events, for a new run."""
        self._script.clear()
        self.last_event = 0
        self._unwritten.clear()
        for path in self._paths():
            path.unlink()
        self._begin()

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
