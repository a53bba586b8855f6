"""Subscriber and trainer read the same record sequences and get the same tables and verdicts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from assignment_sequences import FOREIGN, MINE, SEQUENCES, SHARDS, A, B, C, Sequence, Table, cold, digest, hot
from hypothesis import given, settings
from hypothesis import strategies as st
from trainer_batches import click_batch

from sketch.hashing import shard_of
from streams.assignments.columns import Fetch, Record
from streams.assignments.history import History, Verdict
from streams.assignments.table import HotTable
from streams.records import Assignment, Digest
from trainer.learning.model_config import ModelConfig
from trainer.process.run import RunConfig, TrainingRun

ROWS = 8


# ---- the readers ---------------------------------------------------------------------------------------------------


def fetches_of(records: list[Record], end: int | None, size: int, offsets: list[int] | None = None) -> list[Fetch]:
    """The records, split into fetches of `size`."""
    offsets = offsets or list(range(len(records)))
    starts = range(0, len(records), size)
    return [
        Fetch(partition=0, records=records[start : start + size], offsets=offsets[start : start + size], end_offset=end)
        for start in starts
    ]


@dataclass
class Read:
    """A reader's result of a sequence."""

    table: Table
    verdicts: list[Verdict]
    num_refused: int
    verified: bool | None


def subscriber_reads(fetches: list[Fetch]) -> Read:
    table = HotTable(SHARDS)
    outcomes = [table.take(fetch) for fetch in fetches]
    return Read(
        dict(table.items()),
        [verdict for outcome in outcomes for verdict in outcome.verdicts.values()],
        sum(len(outcome.refused) for outcome in outcomes),
        table.history.verified,
    )


def trainer_of(directory: Path | None = None) -> TrainingRun:
    model = ModelConfig(capacity_rows=ROWS, dim=4)
    return TrainingRun(RunConfig(model=model, device=torch.device("cpu"), checkpoint_dir=directory), SHARDS)


def trainer_reads(fetches: list[Fetch], directory: Path | None = None) -> Read:
    """With a directory, the trainer restarts from its checkpoint before each fetch."""
    run = trainer_of(directory)
    run.train(click_batch(8, 0))
    outcomes = []
    for fetch in fetches:
        if directory is not None:
            run.checkpoint()
            run.close()
            run = trainer_of(directory)
        outcomes += run.apply([fetch])
    run.close()
    assert run.trainer is not None
    tables = [view.table.items() for view in run.history.shards]
    listed = [zip(keys.tolist(), rows.tolist(), strict=True) for keys, rows in tables]
    table = {key: row for shard in listed for key, row in shard}
    keys, rows = run.trainer.embedding.router.items()
    trained = dict(zip(keys.tolist(), rows.tolist(), strict=True))
    assert trained == table  # what the model trains is what it knows
    return Read(
        table,
        [verdict for outcome in outcomes for verdict in outcome.verdicts.values()],
        run.history.shards[0].num_refused,
        run.history.verified,
    )


@pytest.mark.parametrize("sequence", SEQUENCES, ids=lambda sequence: sequence.name)
def test_subscriber_and_trainer_have_the_table_and_the_verdicts_of_the_protocol(
    sequence: Sequence, tmp_path: Path
) -> None:
    expected = Read(sequence.table, sequence.verdicts, sequence.num_refused, sequence.verified)
    whole, single = (fetches_of(sequence.records, sequence.end, size) for size in (99, 1))
    assert subscriber_reads(whole) == expected
    assert subscriber_reads(single) == expected
    assert trainer_reads(whole) == expected
    assert trainer_reads(fetches_of(sequence.records, sequence.end, 2)) == expected
    assert trainer_reads(single, tmp_path) == expected


def test_a_gap_is_open_as_far_as_the_topic_went_when_it_was_read() -> None:
    late = [hot(B, 0, 2), digest(3, {A: 1})]
    for reads in (subscriber_reads, trainer_reads):
        opened = Fetch(partition=0, records=[hot(A, 1, 3)], offsets=[0], end_offset=4)
        inside = Fetch(partition=0, records=late, offsets=[3, 4], end_offset=9)
        behind = Fetch(partition=0, records=late, offsets=[4, 5], end_offset=9)
        assert (reads([opened, inside]).table, reads([opened, inside]).verdicts) == ({A: 1, B: 0}, ["differs"])
        assert (reads([opened, behind]).table, reads([opened, behind]).verdicts) == ({A: 1}, ["equal"])
        both = Fetch(partition=0, records=[cold(C, 4), hot(B, 0, 2)], offsets=[3, 4], end_offset=9)
        assert reads([opened, both]).table == {A: 1}


def test_an_end_that_the_broker_reports_too_early_is_moved_behind_the_fetch() -> None:
    records = [hot(A, 1, 3), hot(B, 0, 2)]
    for reads in (subscriber_reads, trainer_reads):
        assert reads([Fetch(partition=0, records=records, offsets=[7, 8], end_offset=7)]).table == {A: 1, B: 0}


def test_a_fetch_names_all_offsets_or_none() -> None:
    with pytest.raises(ValueError, match="got 1 for 2 records"):
        Fetch(partition=0, records=[hot(A, 0, 1), hot(B, 1, 2)], offsets=[4])
    with pytest.raises(ValueError, match="got 0 for 1 records"):
        Fetch(partition=0, records=[hot(A, 0, 1)], end_offset=3)


def test_records_of_a_missing_partition_are_refused() -> None:
    outcome = History(SHARDS).take(Fetch(partition=SHARDS, records=[hot(A, 0, 1, shard=SHARDS)]))
    assert list(outcome.refused) == [0]
    assert not outcome.counts.any()


def test_rows_and_fields_that_the_readers_model_lacks_are_refused_and_the_others_count() -> None:
    history = History(SHARDS)
    history.bound(num_rows=2, num_fields=int(A >> 56))
    far = next(key for key in range(9 << 56, (9 << 56) + 100) if shard_of(np.array([key], np.uint64), SHARDS)[0] == 0)
    outcome = history.take(
        Fetch(partition=0, records=[hot(A, 1, 1), hot(B, 2, 2), hot(far, 0, 3), cold(far, 4), cold(A, 5)])
    )
    assert outcome.counts.tolist() == [True, False, False, False, True]
    assert sorted(outcome.refused) == [1, 2, 3]
    assert "got row 2 and field" in outcome.refused[1]
    assert "and field 9, expected rows 0 to 1 and" in outcome.refused[2]
    assert history.shards[0].num_refused == 3


def test_a_reader_from_now_on_compares_no_digest() -> None:
    table = HotTable(SHARDS, is_whole=False)
    outcome = table.take(Fetch(partition=0, records=[hot(A, 0, 9), digest(9, {A: 0, B: 1})]))
    assert outcome.verdicts == {1: "unproven"}
    assert table.history.verified is None


def test_the_most_hot_features_are_counted_after_every_change_of_a_batch() -> None:
    history = History(SHARDS)
    history.take(Fetch(partition=0, records=[hot(A, 0, 1), hot(B, 1, 2), cold(A, 3), cold(B, 4)]))
    history.take(Fetch(partition=1, records=[hot(FOREIGN, 2, 1, shard=1)]))
    assert (history.max_hot, history.num_hot) == (2, 1)


# ---- any history ---------------------------------------------------------------------------------------------------


class Oracle:
    """The rules of docs/protocol.md, applied to one record at a time, with dicts."""

    def __init__(self) -> None:
        self.epoch = self.seq = self.complete_from = 0
        self.table: Table = {}
        self.gap: dict[tuple[str, int], int] | None = None
        self.floor = 0
        self.verdicts: list[Verdict] = []

    def read(self, record: Record, offset: int, end: int | None) -> None:
        if isinstance(record, Digest):
            self.verdicts.append(self.compare(record, offset, end))
        elif self.counts(record, offset, end):
            self.apply(record)

    def compare(self, record: Digest, offset: int, end: int | None) -> Verdict:
        if record.epoch > self.epoch:
            self.table.clear()
            self.gap = None if self.gap is None else {}
            self.epoch, self.seq = record.epoch, 0 if record.hot else record.seq
        if self.gap is not None and offset >= self.complete_from:
            self.gap = None
        if end is not None and record.epoch == self.epoch and record.seq > self.seq:
            if self.gap is None:
                self.gap, self.floor = {}, self.seq
            self.complete_from, self.seq = max(end, offset + 1), record.seq
        if (record.epoch, record.seq) != (self.epoch, self.seq):
            return "ahead" if (record.epoch, record.seq) > (self.epoch, self.seq) else "stale"
        if digest(record.seq, self.table, epoch=record.epoch) == record:
            return "equal"
        return "differs" if offset + 1 >= self.complete_from else "unproven"

    def counts(self, record: Assignment, offset: int, end: int | None) -> bool:
        version, newest = (record.epoch, record.seq), (self.epoch, self.seq)
        if self.gap is not None and offset >= self.complete_from:
            self.gap = None
        if version <= newest:
            if self.gap is None or record.epoch != self.epoch:
                return False
            return all(record.seq > self.gap.get(name, self.floor) for name in self.names(record))
        if record.seq != self.seq + 1 and end is not None:
            self.complete_from = max(end, offset + 1)
            if self.gap is None:
                self.gap, self.floor = {}, self.seq
        if record.epoch > self.epoch:
            self.table.clear()
            self.gap = None if self.gap is None else {}
        self.epoch, self.seq = version
        return True

    def names(self, record: Assignment) -> list[tuple[str, int]]:
        return [("key", record.key)] + ([] if record.row is None else [("row", record.row)])

    def apply(self, record: Assignment) -> None:
        if self.gap is not None:
            self.gap.update(dict.fromkeys(self.names(record), record.seq))
        self.table.pop(record.key, None)
        if record.row is not None:
            self.table = {key: row for key, row in self.table.items() if row != record.row}
            self.table[record.key] = record.row


@st.composite
def histories(draw: st.DrawFn) -> list[Record]:
    """Any valid history of an agent: changes, digests and new epochs."""
    records: list[Record] = []
    oracle, epoch = Oracle(), 1
    for seq in range(1, draw(st.integers(2, 40))):
        epoch += draw(st.integers(0, 11)) == 11
        tier, key = draw(st.sampled_from(["cold", "hot"])), draw(st.sampled_from(MINE[:6]))
        row = draw(st.integers(0, 4)) if tier == "hot" else None
        change = Assignment(key=key, tier=tier, row=row, shard=0, epoch=epoch, seq=seq)  # type: ignore[arg-type]
        records.append(change)
        oracle.read(change, 0, None)
        if draw(st.booleans()):
            records.append(digest(seq, dict(oracle.table), epoch=epoch))
    return records


@st.composite
def logs(draw: st.DrawFn) -> tuple[list[Record], list[int], int | None]:
    """Any possible log of a history, with records lost, copied and compacted: records, offsets and reported end."""
    records = draw(histories())
    for _ in range(draw(st.integers(0, 2))):  # another agent writes a part once more
        begin = draw(st.integers(0, len(records) - 1))
        copy = records[begin : begin + draw(st.integers(1, 10))]
        at = draw(st.integers(begin, len(records)))
        records = [*records[:at], *copy, *records[at:]]
    lost = draw(st.sets(st.integers(0, len(records) - 1), max_size=len(records) // 2))
    offsets = [offset for offset in range(len(records)) if offset not in lost]
    end = draw(st.none() | st.integers(0, len(records) + 5))
    return [records[offset] for offset in offsets], offsets, end


def oracle_reads(fetches: list[Fetch]) -> tuple[Table, list[Verdict]]:
    oracle = Oracle()
    for fetch in fetches:
        for record, offset in zip(fetch.records, fetch.offsets, strict=True):
            oracle.read(record, offset, fetch.log_end)
    return oracle.table, oracle.verdicts


@settings(max_examples=300)
@given(logs(), st.integers(1, 60))
def test_any_log_is_read_as_one_record_at_a_time(log: tuple[list[Record], list[int], int | None], size: int) -> None:
    records, offsets, end = log
    fetches = fetches_of(records, end, size, offsets)
    read = subscriber_reads(fetches)
    assert (read.table, read.verdicts) == oracle_reads(fetches)


@settings(max_examples=40)
@given(logs(), st.integers(1, 60), st.integers(1, 60))
def test_any_log_gives_subscriber_and_trainer_the_same_table_and_verdicts(
    log: tuple[list[Record], list[int], int | None], size: int, other_size: int
) -> None:
    records, offsets, end = log
    end = (
        None if end is None else max(end, len(records) + 80)
    )  # an end behind every fetch, so that the cut is no matter
    assert subscriber_reads(fetches_of(records, end, size, offsets)) == trainer_reads(
        fetches_of(records, end, other_size, offsets)
    )


@settings(max_examples=100)
@given(logs(), st.integers(1, 60), st.integers(0, 60))
def test_a_saved_and_loaded_history_continues_unchanged(
    log: tuple[list[Record], list[int], int | None], size: int, saved_at: int
) -> None:
    records, offsets, end = log
    history = History(SHARDS)
    whole = History(SHARDS)
    for number, fetch in enumerate(fetches_of(records, end, size, offsets)):
        if number == saved_at % 5:
            state, arrays, history = history.to_state(), history.to_arrays(), History(SHARDS)
            history.load(state, arrays)
        got, expected = history.take(fetch), whole.take(fetch)
        assert (got.counts.tolist(), got.verdicts) == (expected.counts.tolist(), expected.verdicts)
    assert history.to_state() == whole.to_state()
    assert [view.table.digest for view in history.shards] == [view.table.digest for view in whole.shards]


def test_a_state_of_other_shards_is_refused() -> None:
    with pytest.raises(ValueError, match="2 shards, expected 3"):
        History(3).load(History(SHARDS).to_state(), History(SHARDS).to_arrays())


def test_a_changed_record_of_a_sequence_is_seen() -> None:
    """The comparison can fail: a wrong row gives another table and another verdict."""
    sequence = SEQUENCES[0]
    wrong = [*sequence.records[:3], replace(sequence.records[3], row=2), sequence.records[4]]
    read = trainer_reads(fetches_of(wrong, None, 99))
    assert read == subscriber_reads(fetches_of(wrong, None, 99))
    assert (read.table, read.verdicts[-1], read.verified) == ({A: 0, B: 2}, "differs", False)
