"""What ranks have trained is published, exported, audited, served and compressed as what one process has."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from ranked_run_driver import SHARDS as RUN_SHARDS
from ranked_run_driver import Driver, train
from ranks_driver import RankPool
from test_process_publication import CAPACITY, FIELDS, PUBLISH, ROWS, SHARDS, make_broker, send_changes, send_clicks
from trainer_batches import click_batch

from sketch.hashing import shard_of
from streams.clients.in_memory import InMemoryBroker
from streams.records.embeddings import RowRecord, decode_embedding
from streams.topics import Topics
from trainer.commands.audit import command as audit
from trainer.commands.export import command as export
from trainer.errors import CheckpointError, ReplicaError
from trainer.learning.model_config import ModelConfig
from trainer.process.ranked_session import RankedSession
from trainer.process.run import RunConfig
from trainer.process.session import SessionConfig
from trainer.ranks.group import Ranks
from trainer.serving.checkpointed import export_checkpoint, read_checkpointed
from trainer.serving.compression.compress import Original, compress, write_compressed
from trainer.serving.compression.reads import count_reads
from trainer.serving.export import load_export
from trainer.serving.predictor import Predictor
from trainer.serving.replica import Replica
from trainer.serving.served import ServedModel
from trainer.serving.shape import ServedShape
from trainer.serving.shared_replica import SharedReplica

EMBEDDINGS = Topics().embeddings
KEYS = np.concatenate([click_batch(ROWS, step).keys for step in range(9)])


def trained(broker: InMemoryBroker, directory: Path) -> RankedSession:
    """A single rank's session, with as many slices as there are shards."""
    model = ModelConfig(capacity_rows=CAPACITY, dim=8, row_format="int8")
    run = RunConfig(model=model, device=torch.device("cpu"), checkpoint_dir=directory, checkpoint_every=2 * ROWS)
    config = SessionConfig(
        kafka=broker, run=run, fields=FIELDS, dense_names=("d0", "d1"), idle_timeout_s=0.1, publish=PUBLISH
    )
    session = RankedSession(config, Ranks())
    session.train()
    return session


def vectors_of(session: RankedSession) -> np.ndarray:
    assert session.run.trainer is not None
    with torch.no_grad():
        found: np.ndarray = session.run.trainer.embedding(torch.from_numpy(KEYS.view(np.int64))).numpy()
    return found


def test_a_replica_equals_the_slices_of_all_shards_also_after_a_resume(tmp_path: Path) -> None:
    broker = make_broker()
    send_clicks(broker, range(4))
    send_changes(broker, 1, tier="hot")
    session = trained(broker, tmp_path)
    with Replica(broker, share=f"ranks-{tmp_path.name}") as replica:
        replica.catch_up()
        assert replica.shape.slices == SHARDS
        np.testing.assert_array_equal(replica.lookup(KEYS), vectors_of(session))
        with SharedReplica(f"ranks-{tmp_path.name}") as shared:
            np.testing.assert_array_equal(shared.lookup(KEYS), vectors_of(session))
        assert (replica.num_hot, replica.as_of()["step"]) == (18, 4 * ROWS)
        assert session.report_all()[0]["published"]["lag"] == {"rows": 0, "bytes": 0, "unacknowledged_bytes": 0}
        send_clicks(broker, range(4, 8))
        send_changes(broker, 100, tier="cold")
        session = trained(broker, tmp_path)
        for again in (replica, Replica(broker)):
            again.catch_up()
            np.testing.assert_array_equal(again.lookup(KEYS), vectors_of(session))
            assert again.verify() == [True] * SHARDS
            assert (again.num_hot, again.state.num_mismatches) == (0, 0)


def test_all_rows_of_a_slice_are_in_the_partition_of_its_shard(tmp_path: Path) -> None:
    broker = make_broker()
    send_clicks(broker, range(2))
    send_changes(broker, 1, tier="hot")
    session = trained(broker, tmp_path)
    replica = Replica(broker)
    replica.catch_up()
    assert session.run.trainer is not None
    slices = session.run.trainer.embedding.local.slices
    for shard in range(SHARDS):
        decoded = [decode_embedding(one.key, one.value, one.headers) for one in broker.records(EMBEDDINGS, shard)]
        rows = [one for one in decoded if isinstance(one, RowRecord)]
        assert {one.kind for one in rows} == {"u", "1", "2", "g"}
        assert all(replica.shape.partition_of(one.kind, one.number) == shard for one in rows)
        owners = np.array([one.feature for one in rows if one.feature], np.uint64)
        assert set(shard_of(owners, SHARDS)) == {shard}
        assert len(set(owners)) == slices[shard].num_hot == 9


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two ranks."""
    folder = tmp_path_factory.mktemp("ranks") / "run"
    with RankPool(2) as pool:
        pool.run(2, train, folder, 14)
    return folder


def test_an_export_of_the_checkpoint_of_two_ranks_predicts_as_they_do(run: Path, tmp_path: Path) -> None:
    export_checkpoint(run, tmp_path / "out")
    content = json.loads((tmp_path / "out" / "export.json").read_text())
    assert (content["slices"], content["version"]) == (RUN_SHARDS, 8)
    predictor = Predictor.of_export(tmp_path / "out")
    model, embedding, _ = load_export(tmp_path / "out")
    served = ServedModel(model, embedding).eval()
    batch = click_batch(50, 777)  # that of `Driver.describe`
    keys, dense = torch.from_numpy(batch.keys.view(np.int64).copy()), torch.from_numpy(batch.dense)
    shutil.copytree(run, tmp_path / "run")  # cut for one rank, which resumes
    expected = np.frombuffer(Driver(Ranks(), tmp_path / "run").describe()["logits"], np.float32)
    np.testing.assert_array_equal(predictor.predict(batch.dense, batch.keys), expected)
    with torch.no_grad():
        np.testing.assert_array_equal(model(dense, embedding(keys)).numpy(), expected)
        np.testing.assert_allclose(served(dense, keys).numpy(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(Predictor.of(read_checkpointed(run), "run").lookup(batch.keys),
                                  predictor.lookup(batch.keys))  # fmt: skip


def test_an_export_of_ranks_is_audited_against_their_checkpoint(run: Path, tmp_path: Path) -> None:
    assert CliRunner().invoke(export, [str(run), "--out", str(tmp_path / "out")], catch_exceptions=False).exit_code == 0
    report = tmp_path / "report.json"
    options = [str(tmp_path / "out"), "--against", str(run), "--json", str(report), "--patience", "0"]
    assert CliRunner().invoke(audit, options, catch_exceptions=False).exit_code == 0
    found = json.loads(report.read_text())
    assert (found["num_equal"], found["num_keys"]) == (10_000, 10_000)
    assert found["num_hot"] > 10


def test_a_run_of_ranks_is_compressed(run: Path, tmp_path: Path) -> None:
    original = Original.read(run)
    reads = count_reads(original.exported, KEYS.reshape(-1))
    assert sum(reads.unique) + sum(reads.level_1) == KEYS.size
    write_compressed(tmp_path / "small", original, "saec", compress(original, "saec", 2.0, reads))
    before, after = Predictor.of(original.exported, "before"), Predictor.of_export(tmp_path / "small")
    error = np.abs(after.lookup(KEYS) - before.lookup(KEYS)).mean()
    assert 0 < error < 0.3 * np.abs(before.lookup(KEYS)).mean()
    _, embedding, _ = load_export(tmp_path / "small")
    with torch.no_grad():
        decoded = embedding(torch.from_numpy(KEYS.view(np.int64))).numpy()
    np.testing.assert_array_equal(after.lookup(KEYS), decoded)


def test_the_folder_of_a_single_rank_is_no_run(run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="one rank only; give the folder of the run"):
        read_checkpointed(next(run.glob("rank-0-of-*")))
    (tmp_path / "rank-1-of-2").mkdir()
    with pytest.raises(CheckpointError, match="no step has an intact checkpoint of every rank, got the folders rank-1"):
        read_checkpointed(tmp_path)


def test_slices_without_rows_are_refused(run: Path) -> None:
    shape = read_checkpointed(run).shape
    assert ServedShape.from_json(shape.to_json()) == shape
    with pytest.raises(ReplicaError, match="expected at least one row of each level for each"):
        replace(shape, slices=7)
