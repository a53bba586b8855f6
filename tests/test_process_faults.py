"""A trainer's session whose model diverges, whose disk fails, or whose topics change, on an in-memory broker."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from trainer_batches import NUM_FIELDS, click_batch

from streams.clients.in_memory import InMemoryBroker
from streams.clients.producer import RecordProducer
from streams.errors import TopicError
from streams.keys import Field
from streams.records import TrainerMetrics, decode_metrics, encode_clicks, encode_fields
from streams.topics import Topics
from trainer.errors import CheckpointError, DivergedError
from trainer.learning.learner import DenseOptimizer
from trainer.learning.model_config import ModelConfig
from trainer.process.checkpoint import Checkpoints
from trainer.process.run import RunConfig, TrainingRun
from trainer.process.session import Session, SessionConfig

ROWS = 32
FIELDS = tuple(Field(f"f{number}") for number in range(NUM_FIELDS))


def make_broker() -> InMemoryBroker:
    return InMemoryBroker({spec.name: spec.partitions for spec in Topics().specs(click_partitions=1, shards=2)})


def send_clicks(broker: InMemoryBroker, steps: range) -> None:
    with RecordProducer(broker) as producer:
        for step in steps:
            producer.send(Topics().clicks, 0, encode_clicks(click_batch(ROWS, step)), [])


def session_of(
    broker: InMemoryBroker,
    directory: Path,
    *,
    dense_rate: float = 0.01,
    on_progress: Callable[[TrainingRun], None] = lambda _run: None,
) -> Session:
    optimizer = DenseOptimizer(name="sgd", learning_rate=dense_rate)
    run = RunConfig(
        model=ModelConfig(capacity_rows=60, dim=8, dense_optimizer=optimizer),
        device=torch.device("cpu"),
        checkpoint_dir=directory,
        checkpoint_every=2 * ROWS,
    )
    config = SessionConfig(kafka=broker, run=run, fields=FIELDS, dense_names=("d0", "d1"), idle_timeout_s=0.1)
    return Session(config, on_progress=on_progress)


def test_a_diverged_session_ends_with_an_error_and_its_report_has_no_auc_of_nan(tmp_path: Path) -> None:
    broker = make_broker()
    send_clicks(broker, range(20))
    session = session_of(broker, tmp_path, dense_rate=1e6)
    with pytest.raises(DivergedError, match=r"clicks\[0\], offset"):
        session.train()
    report = session.report()
    assert report["refused"] == {"steps": 3, "rows": 3 * ROWS}
    assert report["rows"]["trained"] == report["click_records"]["trained"] * ROWS < 20 * ROWS
    assert Checkpoints(tmp_path).paths() == []
    sent = sum(len(broker.records(Topics().importance, shard)) for shard in range(2))
    assert sent <= 2 * report["click_records"]["trained"]


def test_clicks_that_cannot_be_trained_are_counted_in_report_metrics_and_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = make_broker()
    send_clicks(broker, range(2))
    longer = replace(click_batch(ROWS, 2), fields=(*FIELDS[:3], Field("another")))
    with RecordProducer(broker) as producer:
        for batch in (longer, longer, replace(click_batch(ROWS, 3), label=None)):
            producer.send(Topics().clicks, 0, encode_clicks(batch), [])
    session = session_of(broker, tmp_path)
    with caplog.at_level(logging.INFO):
        session.train()
    records = session.report()["click_records"]
    assert (records["trained"], records["bad"], session.run.progress.refused_share) == (2, 3, 3 / 5)
    assert records["reasons"][0].startswith(
        "2 x got 4 fields and 2 dense columns, expected 4 and 2; field 4: got another"
    )
    assert records["reasons"][1].startswith("1 x the rows have no labels, expected 0 or 1 in each")
    last = decode_metrics(broker.records(Topics().metrics, 0)[-1].value)
    assert isinstance(last, TrainerMetrics)
    assert last.bad == 3
    assert "3 click records refused" in caplog.text


def test_a_session_of_another_schema_than_the_recorded_one_is_refused(tmp_path: Path) -> None:
    broker = make_broker()
    key, value, headers = encode_fields((Field("site"), *FIELDS[1:]))
    with RecordProducer(broker) as producer:
        producer.send(Topics().control, 0, value, headers, key=key)
    with pytest.raises(TopicError, match=r"--schema: field 1: got f0 \(hash\), expected site \(hash\)"):
        session_of(broker, tmp_path)


def test_a_session_whose_disk_fails_trains_on_and_reports_it_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker, directory = make_broker(), tmp_path / "run"
    send_clicks(broker, range(8))

    def lose_disk(run: TrainingRun) -> None:
        if run.progress.rows == 2 * ROWS:
            shutil.rmtree(directory)

    session = session_of(broker, directory, on_progress=lose_disk)
    with pytest.raises(CheckpointError, match=r"the checkpoint at the end was not written"):
        session.train()
    report = session.report()
    assert report["rows"]["trained"] == 8 * ROWS
    assert report["failed_checkpoints"] == 5, "after 2, 4, 6 and 8 batches, and at the end"
    assert caplog.text.count("no checkpoint was written") == 5
    again = session_of(broker, directory)
    again.train()
    assert len(Checkpoints(directory).paths()) > 1
