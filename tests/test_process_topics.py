"""A trainer whose topics are deleted, made again or extended, while it is down and while it runs; no record is lost."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trainer_batches import NUM_FIELDS, click_batch

from sketch.hashing import shard_of
from streams.clients.in_memory import InMemoryBroker
from streams.clients.producer import RecordProducer
from streams.errors import BrokerError, TopicError
from streams.keys import Field
from streams.records import (
    Assignment,
    Digest,
    ImportanceBatch,
    decode_importance,
    encode_assignment,
    encode_clicks,
    encode_digest,
)
from streams.topics import Topics
from trainer.errors import CheckpointError
from trainer.learning.model_config import ModelConfig
from trainer.process.run import RunConfig, TrainingRun
from trainer.process.session import Session, SessionConfig

ROWS, SHARDS = 32, 2
TOPICS = Topics()
FIELDS = tuple(Field(f"f{number}") for number in range(NUM_FIELDS))


def make_broker() -> InMemoryBroker:
    specs = TOPICS.specs(click_partitions=1, shards=SHARDS)
    return InMemoryBroker({spec.name: spec.partitions for spec in specs})


def make_again(broker: InMemoryBroker, name: str, partitions: int) -> str:
    """Deletes a topic and makes another of its name; returns the id of the new one."""
    with broker.lock:  # a watch that looks every millisecond would report a deletion
        broker.delete_topic(name)
        broker.add_topic(name, partitions)
        return broker.topic_ids[name].hex


def send_clicks(broker: InMemoryBroker, steps: range, partition: int = 0) -> None:
    with RecordProducer(broker) as producer:
        for step in steps:
            producer.send(TOPICS.clicks, partition, encode_clicks(click_batch(ROWS, step)), [])


def send_assignments(broker: InMemoryBroker, rows: dict[int, int]) -> None:
    """Makes keys hot; `rows` has the row of each key."""
    shards = len(broker.topics[TOPICS.assignments])
    keys = np.array(list(rows), np.uint64)
    with RecordProducer(broker) as producer:
        for seq, (key, shard) in enumerate(zip(keys.tolist(), shard_of(keys, shards).tolist(), strict=True), 1):
            change = Assignment(
                key=key, tier="hot", row=rows[key], shard=shard, epoch=1, seq=seq,
                score=1.0, source=(0, 0), event_time_ms=0,
            )  # fmt: skip
            name, value, headers = encode_assignment(change, FIELDS)
            producer.send(TOPICS.assignments, shard, value, headers, key=name)


def session_of(
    broker: InMemoryBroker,
    directory: Path | None,
    *,
    on_progress: Callable[[TrainingRun], None] = lambda _run: None,
    **options: Any,
) -> Session:
    run = RunConfig(
        model=ModelConfig(capacity_rows=60, dim=8),
        device=torch.device("cpu"),
        checkpoint_dir=directory,
        checkpoint_every=4 * ROWS,
    )
    settings = {"fields": FIELDS, "dense_names": ("d0", "d1"), "idle_timeout_s": 0.1, "topics_interval_s": 0.001}
    return Session(SessionConfig(kafka=broker, run=run, **{**settings, **options}), on_progress=on_progress)


def train(broker: InMemoryBroker, directory: Path | None, **options: Any) -> Session:
    session = session_of(broker, directory, **options)
    session.train()
    return session


def sources_of(broker: InMemoryBroker) -> set[tuple[str | None, int, int]]:
    """Topic id, partition and offset of the click records that have importance."""
    stored = [record for shard in range(SHARDS) for record in broker.records(TOPICS.importance, shard)]
    batches = [decode_importance(record.value, record.headers) for record in stored]
    assert all(isinstance(batch, ImportanceBatch) for batch in batches)
    sources = [batch.source for batch in batches]  # type: ignore[union-attr]
    return {(source.topic_id, source.partition, source.offset) for source in sources}


# ---- while it is down ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [3, 12])
def test_clicks_made_again_are_read_from_their_oldest_record_with_the_model_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, steps: int
) -> None:
    broker = make_broker()
    send_clicks(broker, range(6))
    first = train(broker, tmp_path)
    old = broker.topic_ids[TOPICS.clicks].hex
    new = make_again(broker, TOPICS.clicks, 1)
    send_clicks(broker, range(100, 100 + steps))
    second = train(broker, tmp_path)
    assert second.report()["rows"] == {"trained": (6 + steps) * ROWS, "resumed_from": 6 * ROWS}
    assert first.run.progress.rows == 6 * ROWS
    assert f"was {old}, is {new}" in caplog.text
    assert "training continues with the oldest record of the new topic" in caplog.text
    assert sources_of(broker) == {(old, 0, n) for n in range(6)} | {(new, 0, n) for n in range(steps)}
    caplog.clear()
    assert train(broker, tmp_path).report()["rows"]["trained"] == (6 + steps) * ROWS
    assert "made again" not in caplog.text


def test_journal_events_of_a_clicks_topic_that_is_gone_are_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = make_broker()
    send_clicks(broker, range(7))

    def fail(run: TrainingRun) -> None:
        if run.progress.rows == 6 * ROWS:
            broker.fail_now()

    with pytest.raises(BrokerError):
        train(broker, tmp_path, on_progress=fail)
    make_again(broker, TOPICS.clicks, 1)
    send_clicks(broker, range(100, 105))
    session = train(broker, tmp_path)
    assert session.report()["rows"] == {"trained": (4 + 5) * ROWS, "resumed_from": 4 * ROWS}
    assert "events of the journal refer to the old topic" in caplog.text


def test_partitions_added_to_clicks_are_read_from_their_oldest_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = make_broker()
    send_clicks(broker, range(4))
    train(broker, tmp_path)
    broker.add_partitions(TOPICS.clicks, 3)
    send_clicks(broker, range(4, 9), partition=2)
    assert train(broker, tmp_path).report()["rows"]["trained"] == 9 * ROWS
    assert "has 3 partitions, it had 1: the new ones are read from their oldest record" in caplog.text


def hot_rows(session: Session) -> dict[int, int]:
    assert session.run.trainer is not None
    keys, rows = session.run.trainer.embedding.router.items()
    return dict(zip(keys.tolist(), rows.tolist(), strict=True))


def vectors_of(session: Session, keys: list[int]) -> torch.Tensor:
    assert session.run.trainer is not None
    with torch.no_grad():
        return session.run.trainer.embedding(np.array(keys, np.uint64)[:, None])


def test_assignments_made_again_give_the_new_hot_set_and_what_stays_hot_keeps_its_vector(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = make_broker()
    keys = np.unique(click_batch(ROWS, 0).keys)[:30].tolist()
    send_clicks(broker, range(4))
    train(broker, tmp_path)
    send_assignments(broker, dict(zip(keys[:20], range(20), strict=True)))
    send_clicks(broker, range(4, 6))
    first = train(broker, tmp_path)
    assert hot_rows(first) == dict(zip(keys[:20], range(20), strict=True))

    make_again(broker, TOPICS.assignments, SHARDS)
    rows = dict(zip(keys[10:30], range(10, 30), strict=True))
    send_assignments(broker, rows)
    second = train(broker, tmp_path)
    assert hot_rows(second) == rows
    assert second.run.history.num_hot == len(rows)
    assert second.report()["assignments"]["applied"] == len(rows)
    assert "the history of the hot set begins again" in caplog.text
    before, after = (vectors_of(session, keys[10:20]) for session in (first, second))
    torch.testing.assert_close(before, after, rtol=0, atol=0)
    assert hot_rows(train(broker, tmp_path)) == rows


@pytest.mark.parametrize("why", ["the checkpoint is 30 hours old", "a digest differed before the checkpoint"])
def test_a_trainer_that_may_have_missed_a_tombstone_reads_the_hot_set_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, why: str
) -> None:
    broker = make_broker()
    keys = np.unique(click_batch(ROWS, 0).keys)[:20].tolist()
    send_assignments(broker, dict(zip(keys, range(20), strict=True)))
    send_clicks(broker, range(4))
    if "digest" in why:
        send_wrong_digests(broker)
    first = train(broker, tmp_path)
    assert len(hot_rows(first)) == 20

    for shard in range(SHARDS):  # compaction removed the record of a key that is cold now, and its tombstone
        log = broker.topics[TOPICS.assignments][shard]
        log.records = [record for record in log.records if int.from_bytes(record.key, "big") not in keys[:10]]
    if "old" in why:
        day_before_s = time.time() - 30 * 3600
        for checkpoint in tmp_path.iterdir():
            os.utime(checkpoint, (day_before_s, day_before_s))
    second = train(broker, tmp_path)
    assert hot_rows(second) == dict(zip(keys[10:], range(10, 20), strict=True))
    assert why in caplog.text
    before, after = (vectors_of(session, keys[10:]) for session in (first, second))
    torch.testing.assert_close(before, after, rtol=0, atol=0)


def send_wrong_digests(broker: InMemoryBroker) -> None:
    with RecordProducer(broker) as producer:
        for shard in range(SHARDS):
            newest = max(int(dict(record.headers)["seq"]) for record in broker.records(TOPICS.assignments, shard))
            key, value, headers = encode_digest(Digest(shard=shard, epoch=1, seq=newest, hot=1, digest=1))
            producer.send(TOPICS.assignments, shard, value, headers, key=key)


def test_importance_made_again_is_reported_and_training_continues(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = make_broker()
    send_clicks(broker, range(4))
    train(broker, tmp_path)
    make_again(broker, TOPICS.importance, SHARDS)
    send_clicks(broker, range(4, 6))
    assert train(broker, tmp_path).report()["rows"]["trained"] == 6 * ROWS
    assert {offset for _, _, offset in sources_of(broker)} == {4, 5}
    assert f"topic {TOPICS.importance} was deleted and made again" in caplog.text


def test_another_number_of_shards_is_refused_until_all_their_topics_are_made_again(tmp_path: Path) -> None:
    broker = make_broker()
    send_clicks(broker, range(4))
    train(broker, tmp_path)
    shard_topics = (TOPICS.importance, TOPICS.assignments, TOPICS.snapshots)
    broker.add_partitions(TOPICS.importance, 3)
    with pytest.raises(TopicError, match="expected one number"):
        session_of(broker, tmp_path)
    for name in shard_topics:
        broker.add_partitions(name, 3)
    for _ in range(2):  # the refusal must release the directory
        with pytest.raises(TopicError, match=r"3 partitions, it had 2; .*must not change.*create --shards N"):
            session_of(broker, tmp_path)
    for name in shard_topics:
        make_again(broker, name, 3)
    send_clicks(broker, range(4, 6))
    session = train(broker, tmp_path)
    assert session.report()["rows"]["trained"] == 6 * ROWS
    assert len(session.run.history.shards) == 3


def test_a_checkpoint_of_another_prefix_is_refused(tmp_path: Path) -> None:
    broker = make_broker()
    send_clicks(broker, range(4))
    train(broker, tmp_path)
    broker.prefix = "other"
    for spec in Topics("other").specs(click_partitions=1, shards=SHARDS):
        broker.add_topic(spec.name, spec.partitions)
    with pytest.raises(CheckpointError, match=r"trained from hotstream.*, expected other.*--prefix"):
        session_of(broker, tmp_path)


# ---- while it runs ---------------------------------------------------------------------------------------------------


def change_at(rows: int, change: Callable[[], object]) -> Callable[[TrainingRun], None]:
    """Calls `change` once so many rows are trained."""

    def on_progress(run: TrainingRun) -> None:
        if run.progress.rows == rows:
            change()

    return on_progress


def delete_and_send(broker: InMemoryBroker) -> None:
    make_again(broker, TOPICS.clicks, 1)
    send_clicks(broker, range(100, 103))


@pytest.mark.parametrize(
    ("change", "message", "rows_later"),
    [
        (delete_and_send, r"clicks was deleted and made again .*start the trainer again", 3),
        (lambda broker: make_again(broker, TOPICS.assignments, SHARDS), r"assignments was deleted and made again", 0),
        (lambda broker: make_again(broker, TOPICS.importance, 1), r"importance was deleted and made again", None),
        (
            lambda broker: broker.delete_topic(TOPICS.clicks),
            r"clicks \(id .*was deleted; run `hotstream topics",
            None,
        ),
        (lambda broker: broker.delete_topic(TOPICS.importance), r"importance \(id .*was deleted", None),
        (lambda broker: broker.add_partitions(TOPICS.assignments, 3), r"a feature's shard must not change", None),
    ],
)
def test_a_change_that_cannot_be_followed_ends_a_running_trainer_with_what_to_do(
    tmp_path: Path, change: Callable[[InMemoryBroker], object], message: str, rows_later: int | None
) -> None:
    broker = make_broker()
    send_clicks(broker, range(5))
    session = session_of(
        broker, tmp_path, idle_timeout_s=None, on_progress=change_at(5 * ROWS, lambda: change(broker))
    )  # fmt: skip
    with pytest.raises(TopicError, match=message):
        session.train()
    assert session.run.progress.rows == 5 * ROWS
    if rows_later is not None:
        assert train(broker, tmp_path).report()["rows"]["trained"] == (5 + rows_later) * ROWS


@pytest.mark.parametrize("name", [TOPICS.clicks, TOPICS.assignments])
def test_a_position_beyond_the_end_of_a_topic_made_again_is_explained_before_the_watch_looks(
    tmp_path: Path, name: str
) -> None:
    broker = make_broker()
    send_clicks(broker, range(5))
    send_assignments(broker, dict(zip(np.unique(click_batch(ROWS, 0).keys)[:20].tolist(), range(20), strict=True)))
    change = change_at(5 * ROWS, lambda: make_again(broker, name, len(broker.topics[name])))
    session = session_of(broker, tmp_path, idle_timeout_s=None, on_progress=change, topics_interval_s=1e6)
    with pytest.raises(TopicError, match=rf"{name} was deleted and made again .*start the trainer again"):
        session.train()
    assert train(broker, tmp_path).report()["rows"] == {"trained": 5 * ROWS, "resumed_from": 5 * ROWS}


def test_a_topic_made_again_while_the_trainer_starts_is_explained_too(tmp_path: Path) -> None:
    broker = make_broker()
    send_clicks(broker, range(5))
    train(broker, tmp_path)
    session = session_of(broker, tmp_path, topics_interval_s=1e6)
    make_again(broker, TOPICS.clicks, 1)
    with pytest.raises(TopicError, match=r"clicks was deleted and made again .*start the trainer again"):
        session.train()


def test_an_answer_without_the_id_does_not_hide_that_clicks_were_made_again(tmp_path: Path) -> None:
    broker = make_broker()
    send_clicks(broker, range(5))

    def change() -> None:
        make_again(broker, TOPICS.clicks, 1)
        number = broker.topic_ids.pop(TOPICS.clicks)
        assert session._watch.check() == []  # noqa: SLF001
        broker.topic_ids[TOPICS.clicks] = number

    session = session_of(broker, tmp_path, topics_interval_s=1e6, on_progress=change_at(5 * ROWS, change))
    with pytest.raises(TopicError, match=r"clicks was deleted and made again .*start the trainer again"):
        session.train()


def test_clicks_made_again_with_more_records_than_were_read_are_noticed_by_the_watch_and_then_read_whole(
    tmp_path: Path,
) -> None:
    broker = make_broker()
    send_clicks(broker, range(5))

    def change() -> None:
        make_again(broker, TOPICS.clicks, 1)
        send_clicks(broker, range(100, 109))

    session = session_of(broker, tmp_path, idle_timeout_s=None, on_progress=change_at(5 * ROWS, change))
    with pytest.raises(TopicError, match=r"clicks was deleted and made again .*start the trainer again"):
        session.train()
    assert train(broker, tmp_path).report()["rows"]["trained"] == session.run.progress.rows + 9 * ROWS


def test_partitions_added_to_clicks_and_importance_made_again_are_followed_while_it_runs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = make_broker()
    send_clicks(broker, range(5))

    def extend() -> None:
        broker.add_partitions(TOPICS.clicks, 2)
        send_clicks(broker, range(5, 9), partition=1)
        make_again(broker, TOPICS.importance, SHARDS)

    session = train(broker, tmp_path, idle_timeout_s=None, limit_rows=9 * ROWS, on_progress=change_at(5 * ROWS, extend))
    assert session.report()["offsets"]["clicks"] == {"0": 5, "1": 4}
    assert "the new ones are read from their oldest record" in caplog.text
    assert f"{TOPICS.importance} was deleted and made again" in caplog.text
    caplog.clear()
    assert train(broker, tmp_path).report()["rows"]["trained"] == 9 * ROWS
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


# ---- columns ---------------------------------------------------------------------------------------------------------


def test_a_first_record_of_other_columns_goes_to_the_dead_letters_and_not_those_after_it(tmp_path: Path) -> None:
    broker = make_broker()
    with RecordProducer(broker) as producer:
        producer.send(TOPICS.clicks, 0, encode_clicks(click_batch(ROWS, 0, num_dense=1)), [])
    send_clicks(broker, range(4))
    report = train(broker, tmp_path).report()
    assert (report["click_records"]["trained"], report["click_records"]["bad"]) == (4, 1)
    [letter] = broker.records(TOPICS.dead_letters(TOPICS.clicks))
    reason = dict(letter.headers)["dlq-message"].decode()
    assert reason.startswith("got 4 fields and 1 dense columns, expected 4 and 2;")
    assert "--schema" in reason


def test_the_columns_of_the_checkpoint_are_kept_and_another_schema_is_refused(tmp_path: Path) -> None:
    broker = make_broker()
    send_clicks(broker, range(4))
    train(broker, tmp_path)
    other = (*FIELDS[:-1], Field("f3", "hex32"))
    with pytest.raises(CheckpointError, match=r"field 4: got f3 \(hash\), expected f3 \(hex32\) as in --schema"):
        session_of(broker, tmp_path, fields=other)
    train(broker, tmp_path)


@pytest.mark.parametrize("number", [0, NUM_FIELDS + 1])
def test_an_assignment_of_a_field_that_the_model_lacks_is_refused(tmp_path: Path, number: int) -> None:
    broker = make_broker()
    send_clicks(broker, range(4))
    train(broker, tmp_path)
    key = (number << 56) + 7
    shard = int(shard_of(np.array([key], np.uint64), SHARDS)[0])
    text = f'{{"v":2,"feature":"x:~{7:014x}","tier":"hot","row":1,"score":1.0}}'
    headers = [(name, b"1") for name in ("epoch", "seq")] + [("v", b"2"), ("shard", b"%d" % shard)]
    with RecordProducer(broker) as producer:
        producer.send(TOPICS.assignments, shard, text.encode(), headers, key=key.to_bytes(8, "big"))
    send_clicks(broker, range(4, 6))
    session = train(broker, tmp_path)
    assert session.report()["rows"]["trained"] == 6 * ROWS
    assert hot_rows(session) == {}
    assert len(broker.records(TOPICS.dead_letters(TOPICS.assignments), shard)) == 1
