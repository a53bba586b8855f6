"""`OwnedLog`: a partition that one process alone should write to, and what others wrote to it nevertheless.

The broker acknowledges every batch with the offset of its first record. If a process alone writes to a partition, each
batch begins where the last one ended; a hole between two batches was written by another process, such as one that was
stopped (SIGSTOP, a closed laptop) and does not know yet that the group has given its partitions to others.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from streams.errors import FencedError

__all__ = ["OwnedLog"]


class OwnedLog:
    """What the owner of a partition knows of its log.

    Args:
        name: the name of the partition in messages.
        end: the offset after the last record that the owner knows.
        fetch_end: asks the broker for the partition's end.
        lease_s: the time for which the owner may write without asking whether others wrote.
        clock: monotonic time in seconds, which passes while the process is stopped.

    Attributes:
        end: the offset after the last record that the owner knows.
        foreign: [begin, end) of the offsets that others wrote and the owner has not read yet.
        unrepaired_from: the offset of the first record whose damage is not repaired yet; None if there is none.
        is_lost: whether this process does not own the partition any more.
    """

    def __init__(
        self,
        name: str,
        end: int,
        fetch_end: Callable[[], Awaitable[int]],
        *,
        lease_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.end = end
        self.foreign: list[tuple[int, int]] = []
        self.unrepaired_from: int | None = None
        self.is_lost = False
        self._fetch_end = fetch_end
        self._lease_s = lease_s
        self._clock = clock
        self._heard_s = clock()

    @property
    def safe_position(self) -> int:
        """The log before this offset holds what its owners wrote, in order."""
        damaged = [begin for begin, _ in self.foreign]
        if self.unrepaired_from is not None:
            damaged.append(self.unrepaired_from)
        return min(damaged, default=self.end)

    def require_owned(self) -> None:
        """Checks that this process still owns the partition.

        Raises:
            FencedError: it does not.
        """
        if self.is_lost:
            raise FencedError(f"{self.name}: this process does not own it any more")

    async def confirm(self) -> float:
        """Checks that nobody else wrote, if the last look is older than the lease; returns the time of this call.

        Raises:
            FencedError: another process wrote to the partition.
            KafkaError: the broker does not answer.
        """
        now_s = self._clock()
        if now_s - self._heard_s > self._lease_s:
            end = await self._fetch_end()
            if end > self.end:
                raise FencedError(
                    f"{self.name}: got the end {end} after {now_s - self._heard_s:.0f} s, expected {self.end}: "
                    "another process writes to it"
                )
            self._heard_s = now_s
        return now_s

    def note(self, offset: int, num_records: int, sent_s: float) -> None:
        """Registers the acknowledgement of a batch.

        Args:
            offset: the offset of its first record.
            num_records: the number of its records.
            sent_s: when it was sent; what others wrote later is not known yet.
        """
        self.note_end(offset)
        self.end = max(self.end, offset + num_records)
        self._heard_s = max(self._heard_s, sent_s)

    def note_end(self, end: int) -> None:
        """Registers an end of the partition at which no record of the owner is under way."""
        if end > self.end:
            self.foreign.append((self.end, end))
            self.end = end
