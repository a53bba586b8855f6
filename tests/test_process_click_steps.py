"""Steps of several click records: their size, the model, one importance record for each click record, and crashes."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch
from trainer_batches import NUM_FIELDS, click_batch

from streams.clients.in_memory import InMemoryBroker
from streams.clients.topic_feed import TopicFeed
from streams.clients.worker import Worker
from streams.errors import BrokerError
from streams.keys import Field
from streams.records import ImportanceBatch, decode_clicks, decode_importance, encode_clicks
from streams.telemetry.bad_record_log import BadRecordLog
from streams.topics import Topics
from trainer.learning.model_config import ModelConfig
from trainer.process.click_steps import BatchSize, ClickSteps, merge_clicks
from trainer.process.journal import Journal, Train, TrainTogether
from trainer.process.outbox import Outbox
from trainer.process.run import RunConfig, TrainingRun, logger
from trainer.process.session import Session, SessionConfig

ROWS, SHARDS, RECORDS, TOGETHER = 16, 2, 10, 3
TOPICS = Topics()
FIELDS = tuple(Field(f"f{number}") for number in range(NUM_FIELDS))
CPU = torch.device("cpu")


def make_broker(rows: list[int]) -> InMemoryBroker:
    """A broker with a click record of each number of rows, 0 for a malformed one, at its time in the order of rows."""
    broker = InMemoryBroker({spec.name: spec.partitions for spec in TOPICS.specs(click_partitions=2, shards=SHARDS)})
    for step, count in enumerate(rows):
        value = encode_clicks(click_batch(count, step)) if count else b"malformed"
        broker.append(broker.generation, TOPICS.clicks, step % 2, [(None, value, [], 1000 + step)])
    return broker


def run_config(directory: Path | None = None) -> RunConfig:
    model = ModelConfig(capacity_rows=60, dim=8)
    return RunConfig(model=model, device=CPU, checkpoint_dir=directory, checkpoint_every=4 * ROWS)


def records_of_steps(
    rows: list[int], size: BatchSize, *, limit: int | None = None, max_records: int = 16
) -> list[list[int]]:
    """The times of the click records of each step, until there is none; the clock stands still."""
    broker, run = make_broker(rows), TrainingRun(run_config(), SHARDS)
    with (
        Worker("decoder") as worker,
        Outbox(broker, TOPICS, SHARDS) as outbox,
        TopicFeed(
            broker,
            TOPICS.clicks,
            2,
            offsets={},
            max_records=max_records,
            decode=lambda record: decode_clicks(record.value, record.headers, fields=FIELDS, dense_names=("d0", "d1")),
            worker=worker,
        ) as clicks,
    ):
        steps = ClickSteps(
            run, clicks, outbox, BadRecordLog(logger), size=size, on_progress=lambda _run: None, clock=lambda: 0.0
        )
        taken = []
        while clicks.fetch() or not steps.is_collecting:
            if records := steps.take(limit):
                taken.append([record.record.timestamp - 1000 for record in records])
            elif not clicks.num_waiting:
                break
    return taken


def test_a_step_takes_whole_records_in_the_order_of_their_times_up_to_its_size() -> None:
    assert records_of_steps([16] * 7, BatchSize()) == [[0], [1], [2], [3], [4], [5], [6]]
    at_once = BatchSize(rows=48, wait_s=0.0)
    assert records_of_steps([16] * 7, at_once) == [[0, 1, 2], [3, 4, 5], [6]]
    assert records_of_steps([40, 16, 90, 8, 0, 8, 16], at_once) == [[0], [1], [2], [3, 4, 5, 6]]
    assert records_of_steps([16] * 7, at_once, limit=20)[0] == [0, 1]


def test_a_feed_with_less_room_than_a_step_needs_gets_more() -> None:
    steps = records_of_steps([16] * 7, BatchSize(rows=48, wait_s=1.0), max_records=2)
    assert [len(records) for records in steps] == [3, 3]


def test_an_incomplete_step_waits_for_more_rows_but_not_for_ever() -> None:
    assert records_of_steps([16] * 7, BatchSize(rows=48, wait_s=1.0)) == [[0, 1, 2], [3, 4, 5]]


def session_of(broker: InMemoryBroker, directory: Path | None, **options: object) -> Session:
    size = BatchSize(rows=TOGETHER * ROWS, wait_s=0.0)
    config = SessionConfig(
        kafka=broker, run=run_config(directory), fields=FIELDS, dense_names=("d0", "d1"), idle_timeout_s=0.0,
        batch=size, **options,  # type: ignore[arg-type]
    )  # fmt: skip
    return Session(config)


def importance_of(broker: InMemoryBroker) -> dict[tuple[int, int, int], set[bytes]]:
    """The different values of the importance records by shard, partition and offset of the click record."""
    found: dict[tuple[int, int, int], set[bytes]] = {}
    for shard in range(SHARDS):
        for record in broker.records(TOPICS.importance, shard):
            batch = decode_importance(record.value, record.headers)
            assert isinstance(batch, ImportanceBatch)
            source = batch.source
            found.setdefault((shard, source.partition, source.offset), set()).add(record.value)
    return found


def tensors_of(session: Session) -> dict[str, torch.Tensor]:
    assert session.run.trainer is not None
    return session.run.trainer.tensors()


def test_the_model_is_that_of_merged_records_and_each_record_has_its_importance() -> None:
    broker = make_broker([ROWS] * RECORDS)
    session = session_of(broker, None)
    session.train()
    run, batches = TrainingRun(run_config(), SHARDS), [click_batch(ROWS, step) for step in range(RECORDS)]
    for start in range(0, RECORDS, TOGETHER):
        run.train(merge_clicks(batches[start : start + TOGETHER]))
    assert run.trainer is not None
    for name, tensor in run.trainer.tensors().items():
        assert torch.equal(tensor, tensors_of(session)[name]), name
    found = importance_of(broker)
    assert set(found) == {(shard, step % 2, step // 2) for shard in range(SHARDS) for step in range(RECORDS)}
    report = session.report()
    assert report["rows"]["trained"] == RECORDS * ROWS
    assert report["click_records"]["trained"] == RECORDS
    assert report["importance"]["records"] == SHARDS * RECORDS


def test_a_crash_at_any_record_resumes_to_the_same_model_and_the_same_importance(tmp_path: Path) -> None:
    undisturbed = make_broker([ROWS] * RECORDS)
    reference = session_of(undisturbed, tmp_path / "reference")
    already = undisturbed.num_sent
    reference.train()
    expected, values = tensors_of(reference), importance_of(undisturbed)
    for point in range(0, undisturbed.num_sent - already, 2):
        broker, directory = make_broker([ROWS] * RECORDS), tmp_path / str(point)
        broker.fail_after(point)
        with suppress(BrokerError):  # a crash may lie behind the end
            session_of(broker, directory).train()
        broker.cancel_fault()
        resumed = session_of(broker, directory)
        resumed.train()
        assert resumed.report()["rows"]["trained"] == RECORDS * ROWS
        for name, tensor in expected.items():
            assert torch.equal(tensor, tensors_of(resumed)[name]), f"{name} after a crash at {point}"
        assert importance_of(broker) == values


def test_the_journal_keeps_the_records_of_a_step_in_their_order(tmp_path: Path) -> None:
    events = [Train(1, 5), TrainTogether(((1, 6), (0, 9), (1, 7))), Train(0, 10)]
    journal = Journal(tmp_path)
    for event in events:
        journal.record(event)
    journal.close()
    again = Journal(tmp_path)
    assert [again.next_scripted() for _ in range(4)] == [*events, None]
    again.close()
