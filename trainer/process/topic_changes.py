"""What a trainer does when its topics are not those of its checkpoint, or change while it runs.

| change | at the start | while it runs |
|---|---|---|
| clicks made again | reads the new topic from its oldest record | ends; the next start goes on |
| partitions added to clicks | reads them from their oldest record | the same |
| assignments made again | the history begins again | ends; the next start goes on |
| a change of assignments was lost | the history begins again | reads the shard again |
| tombstones may be gone | the history begins again | the next digest shows it |
| importance made again | goes on | goes on |
| partitions added to importance or assignments | refuses: a feature's shard must not change | ends |
| one of them deleted | refuses | ends |

The model is always kept. Events of the journal after the checkpoint are dropped if clicks or assignments were made
again, because they refer to offsets of the old topic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sketch.changes import NO_ROW, Changes
from streams.assignments.history import History
from streams.clients.connector import Connector
from streams.clients.topic_identity import TopicChange, TopicIdentity, compare_topics, require_topics
from streams.errors import TopicError
from streams.topics import TOMBSTONES_KEPT_S, Topics
from trainer.errors import CheckpointError

__all__ = ["Resumption", "TrainerTopics", "find_differences"]

_KEEPS_MODEL = "start the trainer again; it continues from its last checkpoint, with its model"


@dataclass(frozen=True, kw_only=True)
class Resumption:
    """How a run continues from its checkpoint.

    Args:
        clicks_again: whether the offsets of clicks are those of a topic that was deleted.
        assignments_again: the same for assignments.
        notes: a line for each change.
    """

    clicks_again: bool = False
    assignments_again: bool = False
    notes: tuple[str, ...] = ()

    @property
    def drops_journal(self) -> bool:
        """Whether events of the journal refer to a topic that was deleted."""
        return self.clicks_again or self.assignments_again


class TrainerTopics:
    """The topics of a trainer, and the consequences of their changes.

    Args:
        names: the topic names.
        identities: clicks, importance and assignments as they are now, by full name.
    """

    def __init__(self, names: Topics, identities: Mapping[str, TopicIdentity]) -> None:
        self.names = names
        self.identities = dict(identities)

    @classmethod
    def read(cls, connector: Connector) -> TrainerTopics:
        """The present topics under the connector's prefix.

        Raises:
            BrokerError: no broker answers, or this user may not describe one.
            TopicError: one is missing, or partitions of topics do not match.
        """
        names = Topics(connector.prefix)
        return cls(names, require_topics(connector, [names.clicks, names.importance, names.assignments]))

    def to_state(self) -> dict[str, Any]:
        """The identities for `resume`, for JSON."""
        return {name: asdict(identity) for name, identity in self.identities.items()}

    def resume(
        self, saved: Mapping[str, Any], history: Mapping[str, Any] | None = None, *, age_s: float = 0.0
    ) -> Resumption:
        """How a run continues from its checkpoint.

        Args:
            saved: the identities in the checkpoint, as `to_state` returned them.
            history: the history of the hot set in it, as `History.to_state` returned it.
            age_s: the age of the checkpoint.

        Raises:
            CheckpointError: the run was trained from topics of other names.
            TopicError: the number of shards has changed.
        """
        if set(saved) != set(self.identities):
            raise CheckpointError(
                f"the checkpoint was trained from {', '.join(saved)}, expected {', '.join(self.identities)}: use its "
                "--prefix, another --checkpoint-dir, or --fresh to start over"
            )
        changes = compare_topics({name: TopicIdentity(**known) for name, known in saved.items()}, self.identities)
        again = {change.topic for change in changes if change.kind == "made again"}
        if refused := [self.describe_end(change) for change in changes if self._changes_shards(change)]:
            raise TopicError(refused[0])
        notes = [f"{change}: {self._describe_start(change)}" for change in changes]
        reads_again = self.names.assignments in again
        if not reads_again and (reason := _find_loss(history, age_s)) is not None:
            reads_again = True
            notes.append(f"{self.names.assignments}: {reason}; it is read again from its beginning, the model is kept")
        return Resumption(clicks_again=self.names.clicks in again, assignments_again=reads_again, notes=tuple(notes))

    def _changes_shards(self, change: TopicChange) -> bool:
        return change.kind == "partitions added" and change.topic != self.names.clicks

    def is_followed(self, change: TopicChange) -> bool:
        """Whether a running trainer goes on in spite of a change."""
        if change.topic == self.names.importance:
            return change.now is not None and change.now.partitions == change.before.partitions
        return change.topic == self.names.clicks and change.kind == "partitions added"

    def takes_importance(self, change: TopicChange) -> bool:
        """Whether records can still be sent to importance after a change."""
        return change.topic != self.names.importance

    def _describe_start(self, change: TopicChange) -> str:
        """What a trainer does that starts after a change."""
        if change.topic == self.names.importance:
            return "importance that the agents had not counted is lost; training continues"
        if change.topic == self.names.assignments:
            return (
                "the history of the hot set begins again; the model is kept, but features that the new topic does not "
                "have are cold from now on"
            )
        if change.kind == "partitions added":
            return "the new ones are read from their oldest record"
        return (
            "training continues with the oldest record of the new topic; the model is kept, without the rows of the "
            "old topic that were trained after the checkpoint"
        )

    def describe_followed(self, change: TopicChange) -> str:
        """The line that a running trainer logs when it goes on."""
        return f"{change}: {self._describe_start(change)}"

    def describe_end(self, change: TopicChange) -> str:
        """The error of a trainer that ends because of a change: what happened, and what to do."""
        if self._changes_shards(change):
            return (
                f"{change}; expected the same number, because a feature's shard must not change: stop all processes, "
                f"delete {self.names.importance}, {self.names.assignments} and {self.names.snapshots}, run "
                f"`{self.names.create_command} --shards N`, and start again; the trainer keeps its model"
            )
        if change.kind == "deleted":
            return f"{change}; run `{self.names.create_command}`, and {_KEEPS_MODEL}"
        return f"{change}; {_KEEPS_MODEL}, at the beginning of the new topic"


def _find_loss(history: Mapping[str, Any] | None, age_s: float) -> str | None:
    """The reason why changes after a checkpoint may be lost; None if they are all still in the topic."""
    if age_s > TOMBSTONES_KEPT_S:
        return (
            f"the checkpoint is {age_s / 3600:.0f} hours old, and tombstones are kept for {TOMBSTONES_KEPT_S // 3600}"
        )
    if history is not None and any(shard["differs"] for shard in history["shards"]):
        return "a digest differed before the checkpoint, so a change was lost"
    return None


def find_differences(before: History, after: History) -> Changes:
    """The changes that make the tables of `before` those of `after`; features that are hot in both are included."""
    old = np.concatenate([view.table.unsorted_items()[0] for view in before.shards])
    items = [view.table.unsorted_items() for view in after.shards]
    new, rows = np.concatenate([keys for keys, _ in items]), np.concatenate([rows for _, rows in items])
    gone = np.setdiff1d(old, new)
    return Changes(
        np.concatenate([gone, new]),
        np.concatenate([np.full(len(gone), NO_ROW, np.int32), rows.astype(np.int32)]),
        np.zeros(len(gone) + len(new), np.float32),
    )
