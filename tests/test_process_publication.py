"""`hotstream train --publish`: a session's rows reach a replica, also after a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trainer_batches import NUM_FIELDS, click_batch

from sketch.hashing import shard_of
from streams.clients.in_memory import InMemoryBroker
from streams.clients.producer import RecordProducer
from streams.errors import TopicError
from streams.keys import Field
from streams.records import Assignment, encode_assignment, encode_clicks
from streams.records.embeddings import RowRecord, decode_embedding
from streams.topics import Topics
from trainer.learning.model_config import ModelConfig
from trainer.learning.trainer import ADAPTIVE
from trainer.process.publication import PublishConfig
from trainer.process.run import RunConfig
from trainer.process.session import Session, SessionConfig
from trainer.serving.export import export
from trainer.serving.predictor import Predictor
from trainer.serving.replica import Replica
from trainer.serving.terms import row_terms

SHARDS, ROWS, CAPACITY = 2, 32, 60
FIELDS = tuple(Field(f"f{number}") for number in range(NUM_FIELDS))
TOPICS = Topics()
PUBLISH = PublishConfig(bytes_per_s=100_000_000)


def make_broker(*, embedding_partitions: int = SHARDS) -> InMemoryBroker:
    specs = TOPICS.specs(click_partitions=1, shards=SHARDS)
    return InMemoryBroker({**{one.name: one.partitions for one in specs}, TOPICS.embeddings: embedding_partitions})


def send_clicks(broker: InMemoryBroker, steps: range) -> None:
    with RecordProducer(broker) as producer:
        for step in steps:
            producer.send(TOPICS.clicks, 0, encode_clicks(click_batch(ROWS, step)), [])


def send_changes(broker: InMemoryBroker, first_seq: int, *, tier: str) -> None:
    """The first keys of each shard become hot, or cold."""
    keys = np.unique(click_batch(ROWS, 0).keys)
    with RecordProducer(broker) as producer:
        for shard in range(SHARDS):
            for index, key in enumerate(keys[shard_of(keys, SHARDS) == shard][:9].tolist()):
                change = Assignment(
                    key=key, tier=tier, shard=shard, epoch=1, seq=first_seq + index, source=(0, 0), event_time_ms=0,
                    **({"row": shard * CAPACITY // SHARDS + index, "score": 1.0} if tier == "hot" else {}),
                )  # fmt: skip
                name, value, headers = encode_assignment(change, FIELDS)
                producer.send(TOPICS.assignments, shard, value, headers, key=name)


def trained(broker: InMemoryBroker, directory: Path, publish: PublishConfig | None = PUBLISH) -> Session:
    model = ModelConfig(capacity_rows=CAPACITY, dim=8, row_format="int8")
    run = RunConfig(model=model, device=torch.device("cpu"), checkpoint_dir=directory, checkpoint_every=2 * ROWS)
    session = Session(
        SessionConfig(
            kafka=broker, run=run, fields=FIELDS, dense_names=("d0", "d1"), idle_timeout_s=0.1, publish=publish
        )
    )
    session.train()
    return session


def assert_equal(session: Session, replica: Replica) -> None:
    replica.catch_up()
    assert session.run.trainer is not None
    keys = np.concatenate([click_batch(ROWS, step).keys for step in range(8)])
    with torch.no_grad():
        vectors = session.run.trainer.embedding(torch.from_numpy(keys.view(np.int64))).numpy()
    np.testing.assert_array_equal(replica.lookup(keys), vectors)
    assert replica.verify() == [True] * SHARDS
    assert replica.state.num_mismatches == 0


def test_a_replica_of_a_session_is_equal_to_it_also_after_a_resume(tmp_path: Path) -> None:
    broker = make_broker()
    send_clicks(broker, range(4))
    send_changes(broker, 1, tier="hot")
    session = trained(broker, tmp_path)
    replica = Replica(broker)
    assert_equal(session, replica)
    assert replica.state.served is not None
    assert replica.state.served.num_hot == 18
    assert replica.as_of()["step"] == 4 * ROWS
    published = session.report()["published"]
    assert published["records"] > 18
    assert published["lag"] == {"rows": 0, "bytes": 0, "unacknowledged_bytes": 0}
    send_clicks(broker, range(4, 8))
    send_changes(broker, 100, tier="cold")
    session = trained(broker, tmp_path)
    assert session.run.resumed_rows == 4 * ROWS
    assert_equal(session, replica)
    assert replica.state.served.num_hot == 0
    assert_equal(session, Replica(broker))


def test_a_replica_starts_from_an_export_and_goes_on_with_later_records(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = make_broker()
    send_clicks(broker, range(4))
    send_changes(broker, 1, tier="hot")
    session = trained(broker, tmp_path / "run")
    published = session.published
    assert published is not None
    assert published.offsets == {shard: len(broker.records(TOPICS.embeddings, shard)) for shard in range(SHARDS)}
    export(session.run, tmp_path / "out", published)
    alone = Predictor.of_export(tmp_path / "out")
    replica = Replica(broker, export=tmp_path / "out")
    assert replica.is_ready
    assert session.run.trainer is not None
    keys, learner = click_batch(ROWS, 1).keys, session.run.trainer.learners[ADAPTIVE]
    with torch.no_grad():
        vectors = session.run.trainer.embedding(torch.from_numpy(keys.view(np.int64)))
        logits = learner.model(torch.from_numpy(click_batch(ROWS, 1).dense), vectors).numpy()
    for one in (replica, alone):
        np.testing.assert_array_equal(one.lookup(keys), vectors.numpy())
        np.testing.assert_array_equal(one.predict(click_batch(ROWS, 1).dense, keys), logits)
        assert one.as_of()["step"] == 4 * ROWS
    assert replica.poll() == 0  # what was published before is not read
    row = next(one for one in broker.records(TOPICS.embeddings, 0) if one.key[:1] == b"u" and one.value)
    term = int(row_terms("u", *_row(row))[0])
    before = replica.state.partitions[0].total
    with RecordProducer(broker) as producer:
        producer.send(TOPICS.embeddings, 0, None, row.headers, key=row.key)
    replica.catch_up()
    assert (replica.state.partitions[0].total - before + term) % (1 << 64) == 0
    send_clicks(broker, range(4, 6))
    session = trained(broker, tmp_path / "run")
    assert_equal(session, replica)
    export(session.run, tmp_path / "unpublished")
    unpublished = Replica(broker, export=tmp_path / "unpublished")
    assert unpublished.is_ready
    assert_equal(session, unpublished)
    for partitions in (SHARDS, 3):  # a topic that was made again
        broker.delete_topic(TOPICS.embeddings)
        broker.add_topic(TOPICS.embeddings, partitions)
        again = Replica(broker, export=tmp_path / "out")
        assert "not the topic of the export, so it is read from its beginning" in caplog.text
        caplog.clear()
        again.catch_up()
        np.testing.assert_array_equal(again.lookup(keys), vectors.numpy())


def _row(record: Any) -> tuple[Any, Any, Any]:
    decoded = decode_embedding(record.key, record.value, record.headers)
    assert isinstance(decoded, RowRecord)
    body = np.frombuffer(decoded.body or b"", np.uint8)[None]
    return np.array([decoded.number]), np.array([decoded.feature], np.uint64), body


def test_a_session_that_does_not_publish_needs_no_topic(tmp_path: Path) -> None:
    broker = make_broker()
    broker.delete_topic(TOPICS.embeddings)
    send_clicks(broker, range(2))
    assert "published" not in trained(broker, tmp_path, None).report()


def test_a_topic_with_other_partitions_than_shards_is_refused(tmp_path: Path) -> None:
    broker = make_broker(embedding_partitions=3)
    send_clicks(broker, range(2))
    with pytest.raises(TopicError, match="3 partitions, expected 2"):
        trained(broker, tmp_path)
