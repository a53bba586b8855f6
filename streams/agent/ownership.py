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
from collections.abc import Mapping
from contextlib import aclosing

from sketch import SnapshotError
from streams.agent.log_tail import LogTail
from streams.agent.repairs import Repairs
from streams.agent.shard import Shard
from streams.agent.shard_config import ShardConfig
from streams.agent.snapshot_keeper import SnapshotKeeper
from streams.clients.connector import Connector
from streams.clients.log_ends import LogEnds
from streams.clients.owned_log import OwnedLog
from streams.clients.partition_reader import fetch_partitions
from streams.clients.publisher import Publisher
from streams.errors import FencedError
from streams.escapes import escape
from streams.records import SnapshotReader
from streams.topics import Topics

__all__ = ["Ownership"]

logger = logging.getLogger(__name__)

_SHARDS_AT_ONCE = 8  # loaded together; bounds the memory for their snapshots


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
        self._config = config
        self._connector = connector
        self._publisher = publisher
        self._lease_s = lease_s
        self._topics = Topics(connector.prefix)
        self.ends = LogEnds(connector)
        self._parked: dict[int, Shard] = {}
        self._lost: set[int] = set()
        self._logs: dict[tuple[str, int], OwnedLog] = {}
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
        """Makes these the shards of this process: keeps those that nobody else wrote to, and loads the others.

        Raises:
            InvariantError: a broken invariant.
            KafkaError: the broker does not answer.
        """
        async with self._changing:
            async with self.turn:
                held = {**self._parked, **self.shards}
                self.shards, self._parked = {}, {}
                self._lost.clear()
                kept = await self._undisturbed(set(held) & numbers)
                for number in set(held) - kept:
                    self._forget(number)
                self.shards = {number: held[number] for number in kept}
            await self._load_all(sorted(numbers - kept))

    async def park(self) -> None:
        """Writes the snapshots of the shards, whose records do not count until `take` returns them.

        A shard that another process has taken over is forgotten.
        """
        async with self._changing, self.turn:
            self._lost.clear()  # whose they are now is not known
            for number, shard in self.shards.items():
                if await self._is_saved(shard):
                    self._parked[number] = shard
            for number in set(self.shards) - set(self._parked):
                self._forget(number)
            self.shards = {}

    async def _is_saved(self, shard: Shard) -> bool:
        """Writes a shard's snapshot if records were counted since the last one; False if the shard is another's now."""
        number = shard.number
        try:
            await self.snapshots.finish([number])
            if self.snapshots.is_newer(number) and await self._undisturbed({number}):
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
            for number, shard in self.shards.items():
                self.snapshots.request(number)
                if topic == self._topics.importance:
                    shard.next_offset = 0
                elif topic in (self._topics.assignments, self._topics.snapshots):
                    self._own(topic, number, 0)
                    self._repairs.plan_audit(number, at_once=topic == self._topics.assignments)

    async def check(self) -> None:
        """Repairs what other processes wrote to the shards' partitions, and loads suspended shards again."""
        async with self._changing:
            lost, self._lost = self._lost, set()
            await self._load_all(sorted(lost))
            for topic in (self._topics.assignments, self._topics.snapshots):
                await self._note_ends(topic)
            for shard in list(self.shards.values()):
                await self._repair_or_suspend(shard)

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

    async def _load_all(self, numbers: list[int]) -> None:
        for start in range(0, len(numbers), _SHARDS_AT_ONCE):
            await self._load(numbers[start : start + _SHARDS_AT_ONCE])
            if start + _SHARDS_AT_ONCE < len(numbers):
                logger.info("%d of %d shards loaded", start + _SHARDS_AT_ONCE, len(numbers))

    async def _load(self, numbers: list[int]) -> None:
        """Loads the newest snapshots of shards, or creates the shards, and claims them."""
        readers = await self.snapshots.load(numbers)
        shards = {number: self._restore(number, reader) for number, reader in readers.items()}
        assignments, snapshots = self._topics.assignments, self._topics.snapshots
        ends = {topic: await self.ends.fetch(topic, numbers) for topic in (assignments, snapshots)}
        starts = {n: self._start_of_tail(reader, ends[assignments][n]) for n, reader in readers.items()}
        generations = {number: reader.generation for number, reader in readers.items()}
        tails = await self._read_tails(starts, generations)
        for number, shard in shards.items():
            tail = tails[number]
            shard.follow(*tail.newest)
            shard.generation = tail.generation + 1
            shard.suspects = set() if shard.begins_epoch else tail.suspects  # a new epoch ends all that was before
            self._own(assignments, number, max(ends[assignments][number], tail.end))
            self._own(snapshots, number, ends[snapshots][number])
            if shard.suspects:
                self._logs[assignments, number].unrepaired_from = starts[number]
            is_unknown = starts[number] == 0 and (tail.end > 0 or shard.table.num_hot > 0)
            self._repairs.plan_audit(number, at_once=is_unknown)
            await self._claim(shard)
        for number, shard in shards.items():
            await self._begin(shard, is_new=readers[number].data is None)

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

    def _restore(self, number: int, reader: SnapshotReader) -> Shard:
        """The shard of a snapshot; a new one, which begins a new epoch, if there is none or it is malformed."""
        if reader.data is None and not reader.num_manifests:
            return Shard(number, self._config)
        reason = f"all are damaged: {reader.problems[:3]}"
        try:
            if reader.data is not None:
                shard = Shard.from_bytes(reader.data, self._config)
                if shard.number == number:
                    return self._continued(shard, reader)
                reason = f"it is of shard {shard.number}"
        except SnapshotError as error:
            reason = str(error)
        logger.error(
            "shard %d: the snapshot in %s is refused (%s): another program wrote it, or another version; counting "
            "again from the oldest importance record, in a new epoch",
            number, self._topics.snapshots, escape(reason),
        )  # fmt: skip
        return Shard(number, self._config)

    def _continued(self, shard: Shard, reader: SnapshotReader) -> Shard:
        """The shard of a snapshot; it counts from the oldest record if importance was made again since."""
        topic = self._topics.importance
        if not reader.is_of(topic, self._topic_ids.get(topic, "")):
            logger.warning(
                "shard %d: %s was deleted and made again since the snapshot; counting from its oldest record, into the "
                "present hot set",
                shard.number, topic,
            )  # fmt: skip
            shard.next_offset = 0
        return shard

    def _start_of_tail(self, reader: SnapshotReader, end: int) -> int:
        """The offset from which to read a shard's assignments; 0 if they were made again since the snapshot."""
        topic = self._topics.assignments
        is_same = reader.is_of(topic, self._topic_ids.get(topic, "")) and reader.log_end <= end
        return reader.log_end if is_same else 0

    async def _read_tails(self, starts: dict[int, int], generations: dict[int, int]) -> dict[int, LogTail]:
        """What the shards' assignments hold from these offsets on, which begin in these generations."""
        num_shards = self._config.num_shards
        tails = {number: LogTail(number, num_shards, generation=generations[number]) for number in starts}
        async with aclosing(fetch_partitions(self._connector, self._topics.assignments, starts)) as fetches:
            async for number, records in fetches:
                tails[number].read(records)
        return tails

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
        await self._repairs.repair(shard, self._logs[self._topics.assignments, shard.number])

    def _safe_position(self, number: int) -> int:
        return self._logs[self._topics.assignments, number].safe_position
