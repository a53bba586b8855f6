"""Following the assignments topic, as an iterator of changes or as a table.

>>> for change in subscribe("localhost:9092"):               # doctest: +SKIP
...     print(change.feature, change.tier, change.row)

>>> hot = HotFeatureTable("localhost:9092")                  # doctest: +SKIP
>>> rows = hot.lookup(keys)                                  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from streams.assignments.reader import AssignmentReader
from streams.assignments.table import HotTable
from streams.clients.config import connect
from streams.clients.connector import Connector
from streams.clients.recorded_fields import recorded_fields
from streams.errors import ConfigError
from streams.keys import Field, Keys
from streams.records import Assignment

__all__ = ["HotFeatureTable", "subscribe"]


def subscribe(
    bootstrap_servers: str | Connector,
    *,
    prefix: str = "hotstream",
    properties: Mapping[str, str] | None = None,
    from_beginning: bool = True,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Assignment]:
    """Iterates over the changes of the hot set, without an end.

    Yields the changes of one shard in order, each once. With `from_beginning` the first ones rebuild the present hot
    set; on a compacted topic these are about one change for each feature.

    Args:
        bootstrap_servers: `HOST:PORT[,HOST:PORT...]`, or a `Connector` such as an `InMemoryBroker`, which has its own
            prefix.
        prefix: the prefix of the topic names.
        properties: further Kafka client properties (security), under Kafka's own names.
        from_beginning: whether to begin with the present hot set, or with the next change.
        should_stop: called about ten times a second; the iteration ends when it returns True.

    Raises:
        BrokerError: no broker answers within 10 s.
        TopicError: the topic is missing, or it was deleted, made again or extended later.
    """
    connector = connect(bootstrap_servers, prefix, properties)
    with AssignmentReader(connector, from_beginning=from_beginning) as reader:
        while not should_stop():
            for record, _ in reader.poll():
                if isinstance(record, Assignment):
                    yield record


class HotFeatureTable:
    """A materialised view of the hot set: the constructor reads the whole topic, and `refresh` the changes since.

    Serving code calls `refresh` between requests, or in a thread with a lock around `refresh` and `lookup`.

    Args:
        bootstrap_servers: `HOST:PORT[,HOST:PORT...]`, or a `Connector` such as an `InMemoryBroker`, which has its own
            prefix.
        prefix: the prefix of the topic names.
        properties: further Kafka client properties (security), under Kafka's own names.
        timeout_s: how long to wait for the next record while reading the hot set, however large it is.

    Raises:
        BrokerError: no broker answers, or no record comes for `timeout_s`.
        TopicError: the topic is missing.
    """

    def __init__(
        self,
        bootstrap_servers: str | Connector,
        *,
        prefix: str = "hotstream",
        properties: Mapping[str, str] | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        self._connector = connect(bootstrap_servers, prefix, properties)
        self._timeout_s = timeout_s
        self._reader = AssignmentReader(self._connector)
        try:
            self._reader.catch_up(timeout_s=timeout_s)
        except BaseException:
            self._reader.close()
            raise

    def close(self) -> None:
        """Disconnects, at the latest when the program ends; the table stays readable."""
        self._reader.close()

    def __enter__(self) -> HotFeatureTable:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def table(self) -> HotTable:
        """The table, with `items`, `num_hot`, `is_verified` and the shards' `seq`."""
        return self._reader.table

    @property
    def fields(self) -> tuple[Field, ...]:
        """The fields of the features, in the order of their numbers: `hotstream.keys(table.fields, columns)`.

        They are read from the control topic at each access; fields may be added at the end.

        Raises:
            BrokerError: the broker does not answer, or this user may not read the control topic.
            ConfigError: no replay and no agent has recorded fields yet.
        """
        return recorded_fields(self._connector)

    def refresh(self) -> int:
        """Reads up to the present end of the topic; returns the number of changes.

        Raises:
            BrokerError: the broker does not answer, or no record comes for `timeout_s`.
            TopicError: the topic was deleted, made again or extended; open another table.
        """
        before = sum(view.num_applied for view in self.table.shards)
        self._reader.catch_up(timeout_s=self._timeout_s)
        return sum(view.num_applied for view in self.table.shards) - before

    def lookup(self, keys: Keys) -> npt.NDArray[np.int32]:
        """The unique rows (-1 of a cold key) of keys of any shape, in their shape."""
        return self.table.lookup(keys)

    def offsets(self) -> dict[int, int]:
        """The offset of the next record of each partition; `as_of` takes these."""
        return self._reader.positions()

    def as_of(self, offsets: Mapping[int, int]) -> HotTable:
        """The hot set as it stood when the partitions ended at `offsets`.

        Exact for offsets that compaction has not reached yet.

        Raises:
            ConfigError: `offsets` lacks a partition.
            BrokerError: no record comes for `timeout_s` before these offsets.
        """
        missing = set(self.offsets()) - set(offsets)
        if missing:
            raise ConfigError(
                f"as_of: no offset of partition {min(missing)}, expected one for each, as from `offsets()`"
            )
        with AssignmentReader(self._connector, until=offsets) as reader:
            reader.catch_up(timeout_s=self._timeout_s, until=offsets)
            return reader.table
