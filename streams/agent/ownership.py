"""`Ownership`: the shards of this process, and the order of their assignments whatever other processes write.

A group gives each shard to one process. A process that was stopped (SIGSTOP, a closed laptop) or cut off does not know
at first that its shards are others' now; what it still writes comes after newer records, and compaction then keeps it.

    taking over   read what was written since the newest snapshot; claim the shard with the next generation
    writing       after a pause longer than the lease, ask for the end of the log first (`OwnedLog`)
    checking      a hole between two of our batches was written by another process: read it, restate its keys
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping

from streams.agent.repairs import Repairs
from streams.agent.shard import Shard
from streams.agent.shard_config import ShardConfig
from streams.agent.shard_loader import ShardLoader
from streams.agent.snapshot_keeper import SnapshotKeeper
from streams.clients.connector import Connector
from streams.clients.log_ends import LogEnds
from streams.clients.owned_log import OwnedLog
from streams.clients.publisher import Publisher
from streams.errors import FencedError
from streams.topics import Topics

__all__ = ["Ownership"]

logger = logging.getLogger(__name__)

_SHARDS_AT_ONCE = 4  # loaded together: a group that changes again waits for them


class Ownership:
    """Takes shards over, keeps their logs in order, and gives them back.

    Guarantees: two processes that own a shard one after the other write the same changes with the same numbers; a
    record that the former owner writes after it has lost the shard is repaired by the new one, which restates its key.

    Args:
        config: the configuration of the shards.
        connector: the broker.
        publisher: the publisher of the process, which is started.
        snapshot_every: importance records of a shard between two snapshots.
        lease_s: the time without a word from the broker after which others may have taken over the shards.
        topic_ids: the ids of the topics, by name; empty where the broker has none.

    Attributes:
        shards: the shards of this process whose records count, by number.
        turn: held while a record is counted and its changes are queued, and while a state is captured.
        snapshots: the snapshots of the shards.
        ends: asks for the ends of partitions.
    """

    def __init__(
        self,
        config: ShardConfig,
        connector: Connector,
        publisher: Publisher,
        *,
        snapshot_every: int,
        lease_s: float,
        topic_ids: Mapping[str, str],
    ) -> None:
        self._topic_ids = dict(topic_ids)
        self.shards: dict[int, Shard] = {}
        # A snapshot after a record is counted and before its changes are queued would lose them.
        self.turn = asyncio.Lock()
        self.snapshots = SnapshotKeeper(
            connector, publisher, self._safe_position, self._topic_ids, every=snapshot_every
        )
        self._publisher = publisher
        self._lease_s = lease_s
        self._topics = Topics(connector.prefix)
        self.ends = LogEnds(connector)
        self._parked: dict[int, Shard] = {}
        self._pending: set[int] = set()  # of this process, not loaded yet
        self._num_loading = 0
        self._lost: set[int] = set()
        self._logs: dict[tuple[str, int], OwnedLog] = {}
        self._loader = ShardLoader(config, connector, self.snapshots, self.ends, self._topic_ids)
        self._repairs = Repairs(config, connector, publisher, self.ends, self.turn)
        self._changing = asyncio.Lock()  # which shards this process has

    async def start(self) -> None:
        """Connects."""
        await self.ends.start()

    async def stop(self) -> None:
        """Gives all shards back and disconnects."""
        await self.park()
        await self.ends.stop()
        self.shards, self._parked = self._parked, {}

    async def take(self, numbers: set[int]) -> None:
        """Makes these the shards of this process: keeps those that nobody else wrote to; `load` loads the others.

        Raises:
            InvariantError: a broken invariant.
            KafkaError: the broker does not answer.
        """
        async with self._changing:
            async with self.turn:
                held = {**self._parked, **self.shards}
                kept = await self._undisturbed(set(held) & numbers)  # Faust may cancel it
                self._parked = {}
                self._lost.clear()
                for number in set(held) - kept:
                    self._forget(number)
                self.shards = {number: held[number] for number in kept}
            self._pending = numbers - kept

    async def load(self) -> AsyncIterator[set[int]]:
        """Loads the shards that `take` left, some at a time, while the others count; yields their numbers.

        A group that changes again does not wait for all of them: what is not loaded yet, `park` leaves out.
        """
        while self._pending:
            async with self._changing:
                numbers = _some(self._pending)
                await self._load(numbers)
            yield set(numbers)
            if self._pending:
                logger.info("%d shards loaded, %d to go", len(self.shards), len(self._pending))

    async def park(self) -> None:
        """Gives the shards back: their records do not count until `take` returns them.

        The next owner counts again from the newest snapshot, so one is written only where that would take longer. A
        shard that another process has taken over is forgotten.
        """
        async with self._changing, self.turn:
            self._pending.clear()
            self._lost.clear()  # whose they are now is not known
            shards, self.shards = self.shards, {}
            at_once = asyncio.Semaphore(_SHARDS_AT_ONCE)
            are_kept = await asyncio.gather(*(self._is_settled(shard, at_once) for shard in shards.values()))
            for (number, shard), is_kept in zip(shards.items(), are_kept, strict=True):
                if is_kept:
                    self._parked[number] = shard
                else:
                    self._forget(number)

    async def _is_settled(self, shard: Shard, at_once: asyncio.Semaphore) -> bool:
        """Waits until a shard's changes are acknowledged, and its snapshot if due; False if it is another's now."""
        number = shard.number
        try:
            async with at_once:
                await self.snapshots.finish([number])
                await self._publisher.flush(self._topics.assignments, number)
                if self.snapshots.is_due(shard) and await self._undisturbed({number}):
                    await self.snapshots.save(shard)
        except FencedError as error:
            logger.warning("shard %d: %s; its snapshot is not written", number, error)
            return False
        return True

    def suspend(self, number: int, error: FencedError) -> None:
        """Stops counting for a shard that another process writes to; the next `check` loads it again."""
        logger.warning("shard %d: %s; loading it again", number, error)
        if self.shards.pop(number, None) is not None:
            self._lost.add(number)
            self._forget(number)

    async def begin_again(self, topic: str, topic_id: str) -> None:
        """Continues with a topic that was made again: see `follow_changes`."""
        async with self._changing, self.turn:
            self._topic_ids[topic] = topic_id
            for number, shard in {**self._parked, **self.shards}.items():
                self.snapshots.request(number)
                if topic == self._topics.importance:
                    shard.next_offset = 0
                elif topic in (self._topics.assignments, self._topics.snapshots):
                    self._own(topic, number, 0)
                    self._repairs.plan_audit(number, at_once=topic == self._topics.assignments)

    async def check(self) -> set[int]:
        """Repairs what other processes wrote to the shards' partitions.

        Returns:
            The suspended shards, which it has loaded again.
        """
        loaded = set[int]()
        while self._lost:
            async with self._changing:
                numbers = _some(self._lost)
                await self._load(numbers)
                loaded.update(numbers)
        if self.num_loading:
            return loaded  # an audit would keep the shards waiting that are not loaded yet
        async with self._changing:
            for topic in (self._topics.assignments, self._topics.snapshots):
                await self._note_ends(topic)
        for shard in list(self.shards.values()):
            async with self._changing:
                await self._repair_or_suspend(shard)
        return loaded

    @property
    def num_loading(self) -> int:
        """The shards of this process that are not loaded yet."""
        return len(self._pending) + self._num_loading

    # ---- taking over -------------------------------------------------------------------------------------------

    async def _undisturbed(self, numbers: set[int]) -> set[int]:
        """Those of the shards whose assignments hold nothing newer than this process wrote."""
        topic = self._topics.assignments
        kept = {number for number in numbers if await self._is_delivered(number)}
        ends = await self.ends.fetch(topic, kept)
        return {number for number in kept if ends[number] <= self._logs[topic, number].end}

    async def _is_delivered(self, number: int) -> bool:
        """Waits until a shard's changes are acknowledged; False if another process has taken it over."""
        try:
            await self._publisher.flush(self._topics.assignments, number)
        except FencedError as error:
            logger.warning("shard %d: %s; loading it again", number, error)
            return False
        return True

    async def _load(self, numbers: list[int]) -> None:
        """Loads the newest snapshots of shards, or creates the shards, and claims them."""
        if not numbers:
            return  # given back while this call waited for its turn
        self._num_loading = len(numbers)
        try:
            await self._load_some(numbers)
        finally:
            self._num_loading = 0

    async def _load_some(self, numbers: list[int]) -> None:
        all_loaded = await self._loader.load(numbers)
        assignments, snapshots = self._topics.assignments, self._topics.snapshots
        for loaded in all_loaded:
            shard, tail = loaded.shard, loaded.tail
            shard.follow(*tail.newest)
            shard.generation = tail.generation + 1
            shard.suspects = set() if shard.begins_epoch else tail.suspects  # a new epoch ends all that was before
            # Counting begins no epoch, and explains no change that was made of other records.
            if shard.written[0] > shard.epoch or (loaded.is_reset and not shard.is_caught_up):
                self._repairs.outdo(shard)
                self.snapshots.request(shard.number)
            self._own(assignments, shard.number, max(loaded.assignments_end, tail.end))
            self._own(snapshots, shard.number, loaded.snapshots_end)
            if shard.suspects:
                self._logs[assignments, shard.number].unrepaired_from = loaded.start
            is_unknown = loaded.start == 0 and (tail.end > 0 or shard.table.num_hot > 0)
            self._repairs.plan_audit(shard.number, at_once=is_unknown)
            await self._claim(shard)
        for loaded in all_loaded:
            await self._begin(loaded.shard, is_new=loaded.is_new)

    async def _claim(self, shard: Shard) -> None:
        """Queues the claim of a shard, after the snapshot of a new epoch: a crash between them does not begin another.

        Raises:
            KafkaError: the snapshot could not be written.
        """
        try:
            if shard.begins_epoch:
                await self.snapshots.save(shard)
            await self._repairs.send(shard, shard.claim())
        except FencedError as error:
            self._lose(shard, error)

    def _lose(self, shard: Shard, error: FencedError) -> None:
        logger.warning("shard %d: %s; loading it again", shard.number, error)
        self._lost.add(shard.number)

    async def _begin(self, shard: Shard, *, is_new: bool) -> None:
        """Counts for a shard once its claim is acknowledged, unless another process has claimed it since."""
        if shard.number in self._lost:
            return
        try:
            await self._publisher.flush(self._topics.assignments, shard.number)
        except FencedError as error:
            self._lose(shard, error)
            return
        self.shards[shard.number] = shard  # its records are counted from here on
        logger.info(
            "shard %d: epoch %d, seq %d, %d hot rows, generation %d, continues at offset %d%s",
            shard.number, shard.epoch, shard.seq, shard.table.num_hot, shard.generation, shard.next_offset,
            " (no snapshot yet)" if is_new else "",
        )  # fmt: skip

    def _own(self, topic: str, number: int, end: int) -> None:
        async def fetch_end() -> int:
            return (await self.ends.fetch(topic, [number]))[number]

        log = OwnedLog(f"{topic}[{number}]", end, fetch_end, lease_s=self._lease_s)
        self._logs[topic, number] = log
        self._publisher.own(topic, number, log)

    def _forget(self, number: int) -> None:
        self.snapshots.forget(number)
        for topic in (self._topics.assignments, self._topics.snapshots):
            self._publisher.disown(topic, number)
            log = self._logs.pop((topic, number), None)
            if log is not None:
                log.is_lost = True

    # ---- checking ----------------------------------------------------------------------------------------------

    async def _note_ends(self, topic: str) -> None:
        """Registers the ends of partitions that no record of this process is under way to."""
        idle = {
            number: self._logs[topic, number].end for number in self.shards if self._publisher.is_idle(topic, number)
        }
        for number, end in (await self.ends.fetch(topic, idle)).items():
            log = self._logs.get((topic, number))
            if log is not None and log.end == idle[number] and self._publisher.is_idle(topic, number):
                log.note_end(end)

    async def _repair_or_suspend(self, shard: Shard) -> None:
        try:
            await self._repair(shard)
        except FencedError as error:
            async with self.turn:
                self.suspend(shard.number, error)

    async def _repair(self, shard: Shard) -> None:
        if self.shards.get(shard.number) is not shard:
            return  # suspended meanwhile
        snapshots = self._logs[self._topics.snapshots, shard.number]
        if snapshots.foreign:
            snapshots.foreign.clear()
            self.snapshots.request(shard.number)
        epoch = shard.epoch
        await self._repairs.repair(shard, self._logs[self._topics.assignments, shard.number])
        if shard.epoch > epoch:
            self.snapshots.request(shard.number)  # no importance explains the new epoch

    def _safe_position(self, number: int) -> int:
        return self._logs[self._topics.assignments, number].safe_position


def _some(numbers: set[int]) -> list[int]:
    """Takes some numbers out, the smallest."""
    taken = sorted(numbers)[:_SHARDS_AT_ONCE]
    numbers.difference_update(taken)
    return taken
