"""`Follower`: the changes of the hot set as batches, for a model that follows it.

>>> follower = follow("localhost:9092", capacity=embedding.plan.capacity_rows)    # doctest: +SKIP
>>> embedding.migrate(follower.changes())                                         # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sketch.changes import NO_ROW, Changes
from streams.assignments.reader import AssignmentReader
from streams.assignments.table import HotTable
from streams.clients.agreed_configuration import agreed_capacity
from streams.clients.config import connect
from streams.clients.connector import Connector
from streams.clients.recorded_fields import recorded_fields
from streams.errors import ConfigError
from streams.keys import MAX_FIELDS, Field, Keys
from streams.topics import Topics

__all__ = ["Follower", "follow"]


class Follower:
    """Reads the assignments topic; `changes` returns what a model must apply to have the present hot set.

    Guarantees:
        - The first call returns the whole hot set as it stood when the follower was made, the others what came since,
          in the order of each shard. A model that has applied all of them has the rows of `table`.
        - A feature that the model calls hot (`known`) and the topic does not, is in the first changes as cold, so a
          model that was away for any time has no hot feature too many.

    Args:
        connector: the broker.
        capacity: the unique rows of the model.
        known: the keys that the model has as hot, for a model that was restored from its state.
        timeout_s: how long to wait for the next record while reading the hot set, however large it is.

    Raises:
        BrokerError: no broker answers, or reading takes longer than `timeout_s`.
        ConfigError: the agents have more rows than `capacity`.
        TopicError: the topic is missing.
    """

    def __init__(
        self,
        connector: Connector,
        *,
        capacity: int | None = None,
        known: Keys | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        self._connector = connector
        self._known: Keys | None = np.empty(0, np.uint64) if known is None else np.asarray(known, np.uint64)
        self._reader = AssignmentReader(connector)
        try:
            if capacity is not None:
                self._bound(capacity)
            self._reader.catch_up(timeout_s=timeout_s)
        except BaseException:
            self._reader.close()
            raise

    def _bound(self, capacity: int) -> None:
        theirs = agreed_capacity(self._connector)
        if theirs is not None and theirs > capacity:
            raise ConfigError(
                f"capacity: got a model of {capacity} unique rows, expected at least {theirs} as the agents of "
                f"{self._connector.prefix!r} have: make the embedding with plan_for_capacity({theirs}, ...)"
            )
        self.table.history.bound(num_rows=capacity, num_fields=MAX_FIELDS)

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Disconnects, at the latest when the program ends."""
        self._reader.close()

    @property
    def capacity(self) -> int:
        """The agents' capacity in rows, which the control topic has.

        Raises:
            BrokerError: the broker does not answer, or this user may not read the control topic.
            ConfigError: no agent has started yet.
        """
        capacity = agreed_capacity(self._connector)
        if capacity is None:
            raise ConfigError(
                f"topic {Topics(self._connector.prefix).control}: got no configuration of agents, expected one: start "
                "`hotstream agent --capacity ROWS` before"
            )
        return capacity

    @property
    def fields(self) -> tuple[Field, ...]:
        """The fields of the features, in the order of their numbers: `hotstream.keys(follower.fields, columns)`.

        They are read from the control topic at each access; fields may be added at the end.

        Raises:
            BrokerError: the broker does not answer, or this user may not read the control topic.
            ConfigError: no replay and no agent has recorded fields yet.
        """
        return recorded_fields(self._connector)

    @property
    def table(self) -> HotTable:
        """The hot set, with `items`, `lookup`, `num_hot` and `is_verified`."""
        return self._reader.table

    def changes(self, timeout_ms: int = 0) -> Changes:
        """The changes since the last call, none if nothing has changed; between two training steps.

        Args:
            timeout_ms: how long to wait for the first change.

        Raises:
            BrokerError: the broker refuses.
            TopicError: the topic was deleted, made again or extended; make another follower, with `known`.
        """
        if self._known is not None:
            known, self._known = self._known, None
            return self._from(known)
        return self._reader.poll_changes(timeout_ms)

    def _from(self, known: Keys) -> Changes:
        """The changes from a hot set with these keys, in whatever rows, to the present one."""
        items = [view.table.items() for view in self.table.shards]
        keys = np.concatenate([mine for mine, _ in items])
        rows = np.concatenate([mine for _, mine in items]).astype(np.int32)
        gone = np.setdiff1d(known, keys)
        return Changes(
            np.concatenate([gone, keys]),
            np.concatenate([np.full(len(gone), NO_ROW, np.int32), rows]),
            np.zeros(len(gone) + len(keys), np.float32),
        )


def follow(
    bootstrap_servers: str | Connector,
    *,
    prefix: str = "hotstream",
    properties: Mapping[str, str] | None = None,
    capacity: int | None = None,
    known: Keys | None = None,
) -> Follower:
    """Reads the hot set, and returns the follower of its changes.

    Args:
        bootstrap_servers: `HOST:PORT[,HOST:PORT...]`, or a `Connector` such as an `InMemoryBroker`, which has its own
            prefix.
        prefix: the prefix of the topic names.
        properties: further Kafka client properties (security), under Kafka's own names.
        capacity: the unique rows of the model, which is compared with the agents'.
        known: the keys that a restored model has as hot (`AdaptiveEmbedding.hot_keys()`).

    Raises:
        BrokerError: no broker answers.
        ConfigError: the agents have more rows than `capacity`.
        TopicError: the topic is missing.
    """
    return Follower(connect(bootstrap_servers, prefix, properties), capacity=capacity, known=known)
