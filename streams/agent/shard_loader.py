"""`ShardLoader`: shards as their newest snapshots have them, and what their assignments hold since."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import aclosing
from typing import NamedTuple

from sketch import SnapshotError
from streams.agent.log_tail import LogTail
from streams.agent.shard import Shard
from streams.agent.shard_config import ShardConfig
from streams.agent.snapshot_keeper import SnapshotKeeper
from streams.clients.connector import Connector
from streams.clients.log_ends import LogEnds
from streams.clients.partition_reader import fetch_partitions
from streams.escapes import escape
from streams.records import SnapshotReader
from streams.topics import Topics

__all__ = ["LoadedShard", "ShardLoader"]

logger = logging.getLogger(__name__)


class LoadedShard(NamedTuple):
    """A shard, and where its logs end.

    Attributes:
        shard: as its newest snapshot has it; a new one if there is none, or none that is whole.
        is_new: whether there was no whole snapshot.
        is_reset: whether it counts again from the oldest record, as importance was made again since the snapshot.
        tail: what its assignments hold from `start` on.
        start: the offset before which the log needs no check.
        assignments_end: the end of its assignments, before the tail was read.
        snapshots_end: the end of its snapshots.
    """

    shard: Shard
    is_new: bool
    is_reset: bool
    tail: LogTail
    start: int
    assignments_end: int
    snapshots_end: int


class ShardLoader:
    """Loads shards; changes nothing on the broker.

    Args:
        config: the configuration of the shards.
        connector: the broker.
        snapshots: the snapshots of the shards.
        ends: asks for the ends of partitions.
        topic_ids: the ids of the present topics, by name; the owner may change it.
    """

    def __init__(
        self,
        config: ShardConfig,
        connector: Connector,
        snapshots: SnapshotKeeper,
        ends: LogEnds,
        topic_ids: Mapping[str, str],
    ) -> None:
        self._config = config
        self._connector = connector
        self._snapshots = snapshots
        self._ends = ends
        self._topic_ids = topic_ids
        self._topics = Topics(connector.prefix)

    async def load(self, numbers: list[int]) -> list[LoadedShard]:
        """The shards, in this order.

        Raises:
            KafkaError: the broker does not answer.
        """
        readers = await self._snapshots.load(numbers)
        # In threads: the other shards count meanwhile, and the group hears from this process.
        restored = (asyncio.to_thread(self._restore, number, reader) for number, reader in readers.items())
        shards = dict(zip(readers, await asyncio.gather(*restored), strict=True))
        assignments, snapshots = [
            await self._ends.fetch(topic, numbers) for topic in (self._topics.assignments, self._topics.snapshots)
        ]
        starts = {number: self._start_of_tail(reader, assignments[number]) for number, reader in readers.items()}
        tails = await self._read_tails(starts, {number: reader.generation for number, reader in readers.items()})
        return [
            LoadedShard(
                shard=shards[number],
                is_new=readers[number].data is None,
                is_reset=self._is_reset(readers[number]),
                tail=tails[number],
                start=starts[number],
                assignments_end=assignments[number],
                snapshots_end=snapshots[number],
            )
            for number in numbers
        ]

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
        if self._is_reset(reader):
            logger.warning(
                "shard %d: %s was deleted and made again since the snapshot; counting from its oldest record, into the "
                "present hot set",
                shard.number, self._topics.importance,
            )  # fmt: skip
            shard.next_offset = 0
        return shard

    def _is_reset(self, reader: SnapshotReader) -> bool:
        topic = self._topics.importance
        return not reader.is_of(topic, self._topic_ids.get(topic, ""))

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
