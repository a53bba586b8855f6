"""A trainer that loses a change while it runs: it reads the shard again, and a killed run repeats what corrected it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xxhash
from digests import table_digest
from trainer_batches import NUM_FIELDS, click_batch

from sketch.hashing import shard_of
from streams.clients.in_memory import InMemoryBroker
from streams.clients.producer import RecordProducer
from streams.errors import BrokerError
from streams.keys import Field
from streams.records import Assignment, Digest, encode_assignment, encode_clicks, encode_digest
from streams.topics import Topics
from trainer.learning.model_config import ModelConfig
from trainer.process.run import RunConfig, TrainingRun
from trainer.process.session import Session, SessionConfig

ROWS, STEPS = 32, 8
LOST_AT, KILLED_AT = 5, 7  # steps; the checkpoint is that of step 4
TOPICS = Topics()
FIELDS = tuple(Field(f"f{number}") for number in range(NUM_FIELDS))
KEYS = np.unique(click_batch(ROWS, 0).keys)
MINE = [int(key) for key in KEYS[shard_of(KEYS, 2) == 0][:12]]  # of shard 0


class Site:
    """A broker with clicks, and the agent of shard 0."""

    def __init__(self) -> None:
        specs = TOPICS.specs(click_partitions=1, shards=2)
        self.broker = InMemoryBroker({spec.name: spec.partitions for spec in specs})
        self.rows: dict[int, int] = {}
        self.seq = 0
        with RecordProducer(self.broker) as producer:
            for step in range(STEPS):
                producer.send(TOPICS.clicks, 0, encode_clicks(click_batch(ROWS, step)), [])
        self.publish({key: row for row, key in enumerate(MINE[:8])})

    def publish(self, changes: dict[int, int | None]) -> None:
        """Writes changes, and their digest."""
        with RecordProducer(self.broker) as producer:
            for feature, row in changes.items():
                self.seq += 1
                self.rows.pop(feature, None)
                if row is None:
                    change = Assignment(key=feature, tier="cold", shard=0, epoch=1, seq=self.seq)
                else:
                    self.rows[feature] = row
                    change = Assignment(
                        key=feature, tier="hot", row=row, shard=0, epoch=1, seq=self.seq,
                        score=1.5, source=(0, 0), event_time_ms=0,
                    )  # fmt: skip
                key, value, headers = encode_assignment(change, FIELDS)
                producer.send(TOPICS.assignments, 0, value, headers, key=key)
            digest = table_digest(self.rows, self.rows.values())
            closing = Digest(shard=0, epoch=1, seq=self.seq, hot=len(self.rows), digest=digest)
            key, value, headers = encode_digest(closing)
            producer.send(TOPICS.assignments, 0, value, headers, key=key)

    def lose(self) -> None:
        """The hot set changes, and compaction deletes the tombstones before the trainer has read them.

        A feature becomes cold, one takes its row, and two exchange theirs.
        """
        self.publish({MINE[0]: None, MINE[1]: None, MINE[2]: None, MINE[3]: None})
        self.publish({MINE[8]: 0, MINE[1]: 2, MINE[2]: 1})
        self.broker.compact(TOPICS.assignments, keeps_tombstones=False)

    def session(self, directory: Path | None, limit: int, *, killed: bool = False) -> Session:
        """A trainer up to a step, that loses a change at step 5 of a site that has lost none."""

        def on_progress(run: TrainingRun) -> None:
            step = run.progress.rows // ROWS
            if step == LOST_AT and self.seq == 8:
                assert run.history.num_hot == 8
                self.lose()
            if killed and step == KILLED_AT:
                assert run.history.verified
                self.broker.fail_now()

        model = ModelConfig(capacity_rows=60, dim=8)
        run = RunConfig(
            model=model, device=torch.device("cpu"), checkpoint_dir=directory, checkpoint_every=4 * ROWS
        )  # fmt: skip
        config = SessionConfig(
            kafka=self.broker, run=run, fields=FIELDS, dense_names=("d0", "d1"), idle_timeout_s=0.1,
            limit_rows=limit * ROWS,
        )  # fmt: skip
        return Session(config, on_progress=on_progress)


def train(site: Site, directory: Path | None, limit: int) -> Session:
    session = site.session(directory, limit)
    session.train()
    return session


def kill(site: Site, directory: Path) -> None:
    """Trains until the broker fails at step 7, whose importance it does not acknowledge."""
    with pytest.raises(BrokerError):
        site.session(directory, STEPS, killed=True).train()


def hot_rows(session: Session) -> dict[int, int]:
    assert session.run.trainer is not None
    keys, rows = session.run.trainer.embedding.router.items()
    return dict(zip(keys.tolist(), rows.tolist(), strict=True))


def digest_of(session: Session) -> str:
    """The digest of all weights, and of the history of the hot set."""
    assert session.run.trainer is not None
    digest = xxhash.xxh3_64(repr(session.run.history.to_state()).encode())
    for name, tensor in sorted(session.run.trainer.tensors().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def test_a_trainer_that_lost_a_change_is_corrected_and_a_killed_one_resumes_to_the_same_weights(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site()
    undisturbed = train(site, None, KILLED_AT)
    assert hot_rows(undisturbed) == site.rows
    assert undisturbed.report()["assignments"]["verified"] is True
    assert caplog.text.count("a digest differs, so a change was lost; reading it again") == 1

    site = Site()
    kill(site, tmp_path)
    assert caplog.text.count("reading it again") == 2
    site.publish({MINE[4]: None, MINE[9]: 9})
    log = site.broker.topics[TOPICS.assignments][0]  # reading it again would now give something else
    log.records = [record for record in log.records if record.key != MINE[4].to_bytes(8, "big")]
    assert digest_of(train(site, tmp_path, KILLED_AT)) == digest_of(undisturbed)
    assert caplog.text.count("reading it again") == 2
    resumed = train(site, tmp_path, STEPS)
    assert hot_rows(resumed) == site.rows
    assert caplog.text.count("reading it again") == 3  # a feature was lost again


def test_a_trainer_that_is_killed_before_a_correction_makes_it_after_its_start(tmp_path: Path) -> None:
    site = Site()
    kill(site, tmp_path)
    newest = max(tmp_path.glob("*.journal"))
    lines = newest.read_bytes().splitlines(keepends=True)
    (correction,) = [number for number, line in enumerate(lines) if b'"correct"' in line]
    newest.write_bytes(b"".join(lines[:correction]))
    resumed = train(site, tmp_path, STEPS)
    assert resumed.report()["rows"] == {"trained": STEPS * ROWS, "resumed_from": 4 * ROWS}
    assert hot_rows(resumed) == site.rows
    assert resumed.run.history.verified


def test_a_digest_that_the_log_does_not_explain_is_read_again_once_only(caplog: pytest.LogCaptureFixture) -> None:
    site = Site()
    rows = dict(site.rows)
    site.rows[MINE[11]] = 11  # the log lacks it
    site.publish({MINE[9]: 9})
    site.publish({MINE[10]: 10})
    session = train(site, None, STEPS)
    assert hot_rows(session) == {**rows, MINE[9]: 9, MINE[10]: 10}
    assert session.run.history.verified is False
    assert caplog.text.count("reading it again") == 1
