"""`ShardView`: what a reader knows of one shard."""

from __future__ import annotations

from dataclasses import dataclass, field

from sketch.tiertable import TierTable
from streams.assignments.gap import OpenGap

__all__ = ["ShardView"]


@dataclass(kw_only=True)
class ShardView:
    """A reader's state of one shard.

    Attributes:
        epoch: the newest configuration seen.
        seq: the newest change applied.
        generation: the newest ownership of the shard seen.
        table: the hot keys and their rows.
        num_applied: changes applied.
        num_stale: changes dropped, because they or newer ones had already been applied, or because the process that
            wrote them had lost the shard.
        num_refused: records of the shard's partition that belong to another shard.
        verified_seq: the newest `seq` at which the agent's digest was equal (0: an empty table needs no digest); -1
            once a digest refers to a change that the reader has not received.
        mismatches: digests that differed although no gap was open: a change was lost.
        differs: whether the newest digest that proves something differed; the owner restates what the log lacks.
        complete_from: no change is missing from this offset on. A gap in `seq` means that compaction removed changes
            that later ones supersede; those lie before the partition's end as of that read.
        gap: the newest `seq` of each key and row up to that offset; None if no gap is open.
    """

    epoch: int = 0
    seq: int = 0
    generation: int = 0
    table: TierTable = field(default_factory=TierTable)
    num_applied: int = 0
    num_stale: int = 0
    num_refused: int = 0
    verified_seq: int = 0
    mismatches: int = 0
    differs: int = 0
    complete_from: int = 0
    gap: OpenGap | None = None
