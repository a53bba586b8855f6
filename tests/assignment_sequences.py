"""Logs of one shard, by the rules of docs/protocol.md, with what a reader must make of them; also test vectors."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from digests import table_digest

from sketch.hashing import shard_of
from streams.assignments.columns import Record
from streams.assignments.history import Verdict
from streams.records import Assignment, Claim, Digest

__all__ = [
    "FOREIGN", "MINE", "SEQUENCES", "SHARDS", "A", "B", "C", "D", "Sequence", "Table", "claim", "cold", "digest", "hot",
    "restated",
]  # fmt: skip

SHARDS = 2
_CANDIDATES = np.uint64(1 << 56) | np.arange(1, 60, dtype=np.uint64)
MINE = _CANDIDATES[shard_of(_CANDIDATES, SHARDS) == 0].tolist()
A, B, C, D = MINE[:4]
FOREIGN = int(_CANDIDATES[shard_of(_CANDIDATES, SHARDS) == 1][0])
Table = dict[int, int]  # key -> its row


def hot(key: int, row: int, seq: int, *, epoch: int = 1, shard: int = 0, generation: int = 0) -> Assignment:
    return Assignment(key=key, tier="hot", row=row, shard=shard, epoch=epoch, seq=seq, score=1.0, generation=generation)


def cold(key: int, seq: int, *, epoch: int = 1, generation: int = 0) -> Assignment:
    return Assignment(key=key, tier="cold", shard=0, epoch=epoch, seq=seq, generation=generation)


def claim(seq: int, generation: int) -> Claim:
    return Claim(shard=0, epoch=1, seq=seq, generation=generation)


def restated(change: Assignment) -> Assignment:
    return replace(change, is_restated=True)


def digest(seq: int, table: Table, *, epoch: int = 1, shard: int = 0) -> Digest:
    """The agent's digest of a table, computed from its definition."""
    value = table_digest(table, table.values())
    return Digest(shard=shard, epoch=epoch, seq=seq, hot=len(table), digest=value)


@dataclass(frozen=True, kw_only=True)
class Sequence:
    """Records at offsets 0, 1, ... of partition 0, and the result that docs/protocol.md requires."""

    name: str
    records: list[Record]
    end: int | None = None  # of the partition, as every fetch names it
    table: Table
    verdicts: list[Verdict] = field(default_factory=list)
    num_refused: int = 0
    verified: bool | None


SEQUENCES = [
    Sequence(
        name="changes and digests in order",
        records=[hot(A, 0, 1), hot(B, 3, 2), digest(2, {A: 0, B: 3}), hot(B, 1, 3), digest(3, {A: 0, B: 1})],
        table={A: 0, B: 1}, verdicts=["equal", "equal"], verified=True,
    ),
    Sequence(
        name="a late copy in a gap is news of its key",
        records=[hot(A, 1, 3), hot(B, 0, 2), digest(3, {A: 1, B: 0})], end=5,
        table={A: 1, B: 0}, verdicts=["equal"], verified=True,
    ),
    Sequence(
        name="a late copy in a gap is old news of its key",
        records=[hot(A, 1, 4), cold(A, 2), hot(B, 2, 3), digest(4, {A: 1, B: 2})], end=5,
        table={A: 1, B: 2}, verdicts=["equal"], verified=True,
    ),
    Sequence(
        name="a late copy in a gap names a row that has a newer owner",
        records=[hot(A, 1, 4), hot(B, 1, 2), digest(4, {A: 1})], end=5,
        table={A: 1}, verdicts=["equal"], verified=True,
    ),
    Sequence(
        name="of two late copies in one gap the newer wins in either order",
        records=[hot(A, 1, 9), hot(B, 2, 4), hot(C, 2, 3), hot(D, 3, 5), hot(C, 3, 6), digest(9, {A: 1, B: 2, C: 3})],
        end=9, table={A: 1, B: 2, C: 3}, verdicts=["equal"], verified=True,
    ),
    Sequence(
        name="a late record where nothing is compacted is stale",
        records=[hot(A, 1, 3), hot(B, 0, 2), digest(3, {A: 1})],
        table={A: 1}, verdicts=["equal"], verified=True,
    ),
    Sequence(
        name="a late record from before the gap is stale",
        records=[hot(A, 1, 1), hot(B, 2, 2), hot(C, 3, 5), hot(D, 4, 2), digest(5, {A: 1, B: 2, C: 3})], end=9,
        table={A: 1, B: 2, C: 3}, verdicts=["equal"], verified=True,
    ),
    Sequence(
        name="everything twice",
        records=[hot(A, 0, 1), hot(B, 1, 2), digest(2, {A: 0, B: 1})] * 2,
        table={A: 0, B: 1}, verdicts=["equal", "equal"], verified=True,
    ),
    Sequence(
        name="a lost change is proved at the end of the gap, not inside it",
        records=[hot(A, 0, 1), hot(C, 2, 3), digest(3, {A: 0, B: 1, C: 2}), digest(3, {A: 0, B: 1, C: 2})], end=4,
        table={A: 0, C: 2}, verdicts=["unproven", "differs"], verified=False,
    ),
    Sequence(
        name="a lost change where nothing is compacted is proved at once",
        records=[hot(A, 0, 1), hot(C, 2, 3), digest(3, {A: 0, B: 1, C: 2})],
        table={A: 0, C: 2}, verdicts=["differs"], verified=False,
    ),
    Sequence(
        name="digests of other moments than the table's",
        records=[hot(A, 0, 1), hot(B, 1, 2), digest(1, {A: 0}), digest(5, {C: 0})],
        table={A: 0, B: 1}, verdicts=["stale", "ahead"], verified=None,
    ),
    Sequence(
        name="the last changes were tombstones that are deleted, and a new reader's table is whole",
        records=[hot(A, 0, 1), hot(B, 1, 4), digest(6, {A: 0, B: 1})], end=3,
        table={A: 0, B: 1}, verdicts=["equal"], verified=True,
    ),
    Sequence(
        name="a tombstone was deleted while the reader was away, and the last digest proves it",
        records=[hot(A, 0, 1), hot(B, 1, 2), digest(2, {A: 0, B: 1}), digest(3, {A: 0})], end=4,
        table={A: 0, B: 1}, verdicts=["equal", "differs"], verified=False,
    ),
    Sequence(
        name="changes behind a newer digest count in its gap, each if it is news",
        records=[
            hot(A, 0, 1), digest(6, {C: 2}), hot(B, 1, 4), hot(A, 1, 3), hot(C, 2, 7), digest(7, {A: 0, B: 1, C: 2}),
        ],
        end=6, table={A: 0, B: 1, C: 2}, verdicts=["unproven", "equal"], verified=True,
    ),
    Sequence(
        name="a new epoch makes the shard cold, and the old one's records are stale",
        records=[
            hot(A, 0, 1), hot(B, 1, 2), digest(2, {A: 0, B: 1}), hot(C, 0, 3, epoch=2), hot(A, 1, 4),
            digest(4, {A: 1, C: 0}), digest(3, {C: 0}, epoch=2),
        ],
        table={C: 0}, verdicts=["equal", "stale", "equal"], verified=True,
    ),
    Sequence(
        name="a new epoch is announced by the digest of an empty table, and goes on without a gap",
        records=[
            hot(A, 0, 1), hot(B, 1, 2), digest(2, {A: 0, B: 1}), digest(2, {}, epoch=2), hot(C, 0, 3, epoch=2),
            digest(3, {C: 0, D: 1}, epoch=2),
        ],
        end=9, table={C: 0}, verdicts=["equal", "equal", "differs"], verified=False,
    ),
    Sequence(
        name="a new epoch is announced, and nothing comes after it",
        records=[hot(A, 0, 1), digest(1, {A: 0}), digest(1, {}, epoch=2), hot(B, 1, 2)],
        table={}, verdicts=["equal", "equal"], verified=True,
    ),
    Sequence(
        name="a digest of a newer epoch whose changes are not there makes the shard cold",
        records=[hot(A, 0, 1), digest(3, {B: 0}, epoch=2)], end=9,
        table={}, verdicts=["unproven"], verified=None,
    ),
    Sequence(
        name="a new epoch in a gap: late copies of the new one count, of the old one not",
        records=[
            hot(A, 0, 3), hot(C, 1, 7, epoch=2), hot(B, 2, 2), hot(B, 3, 6, epoch=2), digest(7, {C: 1, B: 3}, epoch=2),
        ],
        end=9, table={C: 1, B: 3}, verdicts=["equal"], verified=True,
    ),
    Sequence(
        name="records of another shard are refused",
        records=[
            hot(A, 0, 1), hot(FOREIGN, 1, 2), hot(B, 2, 3, shard=1), hot(FOREIGN, 3, 1, shard=1), cold(FOREIGN, 2),
            digest(1, {}, shard=1), hot(C, 2, 2), digest(2, {A: 0, C: 2}),
        ],
        table={A: 0, C: 2}, verdicts=["equal"], num_refused=5, verified=True,
    ),
    Sequence(
        name="what a former owner writes after the claim of the next one is dropped",
        records=[
            claim(0, 1), hot(A, 0, 1, generation=1), replace(digest(1, {A: 0}), generation=1),
            claim(1, 2), hot(B, 1, 2, generation=1),
            hot(C, 1, 2, generation=2), replace(digest(2, {A: 0, C: 1}), generation=2), hot(D, 2, 9),
        ],
        table={A: 0, C: 1}, verdicts=["equal", "equal"], verified=True,
    ),
    Sequence(
        name="restated features count at the shard's version if they change the table",
        records=[
            hot(A, 0, 1), hot(C, 2, 3), digest(3, {A: 0, B: 1, C: 2}), restated(hot(B, 1, 3)), restated(hot(A, 0, 3)),
            restated(cold(D, 3)), digest(3, {A: 0, B: 1, C: 2}), hot(D, 3, 4), digest(4, {A: 0, B: 1, C: 2, D: 3}),
        ],
        table={A: 0, B: 1, C: 2, D: 3}, verdicts=["differs", "equal", "equal"], verified=True,
    ),
    Sequence(
        name="tombstones of keys that nobody knows",
        records=[cold(A, 1), digest(1, {}), hot(B, 0, 2), cold(C, 3), digest(3, {B: 0})],
        table={B: 0}, verdicts=["equal", "equal"], verified=True,
    ),
    Sequence(
        name="a row is taken over without its owner's demotion",
        records=[hot(A, 0, 1), hot(B, 0, 2), digest(2, {B: 0}), cold(A, 3), hot(A, 5, 4), digest(4, {B: 0, A: 5})],
        table={B: 0, A: 5}, verdicts=["equal", "equal"], verified=True,
    ),
    Sequence(
        name="a key moves to another row, cools and comes back",
        records=[hot(A, 0, 1), hot(A, 3, 2), cold(A, 3), hot(B, 3, 4), hot(A, 0, 5), digest(5, {A: 0, B: 3})],
        table={A: 0, B: 3}, verdicts=["equal"], verified=True,
    ),
]  # fmt: skip
