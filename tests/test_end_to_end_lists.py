"""A log with lists from file to hot set, in memory: what occurs only as a second value is counted, trained and hot."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from agent_driver import adopt, inputs

from streams import HotFeatureTable
from streams.agent.shard_config import ShardConfig
from streams.agent.worker import AgentConfig, AgentWorker
from streams.bulk_keys import key_bags, keys
from streams.clients.admin import create_topics
from streams.clients.in_memory import InMemoryBroker
from streams.keys import Field, make_key
from streams.logs.inference import infer_schema
from streams.logs.locations import LocalFile
from streams.logs.reader import read_log
from streams.logs.sample import take_sample
from streams.logs.schema import LogSchema, load_schema
from streams.records import ClickBatch, ImportanceBatch, decode_clicks, decode_importance
from streams.replay.batch_writer import MAX_CLICKS_BYTES
from streams.replay.plan import ReplayPlan
from streams.replay.sender import replay_logs
from streams.topics import Topics
from trainer.embedding.value_bags import Bags, sum_values
from trainer.errors import BagError
from trainer.learning.model_config import ModelConfig
from trainer.process.publication import PublishConfig
from trainer.process.run import RunConfig, TrainingRun
from trainer.process.session import Session, SessionConfig
from trainer.serving.predictor import sum_bags
from trainer.serving.replica import Replica
from trainer.serving.served import ServedModel

SHARDS, ROWS, BATCH_ROWS, CAPACITY = 2, 400, 50, 24
TOPICS = Topics()
FREQUENT = [f"often{n}" for n in range(4)]  # only behind other values
NUMBERS = {"site": 1, "tags": 2}


def log_rows() -> tuple[list[str], list[list[str]]]:
    rng = np.random.default_rng(0)
    tags = [[f"rare{n}", *rng.choice(FREQUENT, rng.integers(1, 4), replace=False)] for n in range(ROWS)]
    tags[7] = []
    return [f"s{n % 9}" for n in range(ROWS)], tags


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LogSchema]:
    """A log, and the schema that is inferred from it."""
    folder = tmp_path_factory.mktemp("lists")
    sites, tags = log_rows()
    times = np.arange(ROWS) * 1000 + 1_700_000_000_000
    columns = {"click": [n % 2 for n in range(ROWS)], "site": sites, "tags": tags, "ts": times}
    pq.write_table(pa.table(columns), folder / "log.parquet")
    text = infer_schema(take_sample(LocalFile(folder / "log.parquet")))
    assert '{ name = "tags", list = true }' in text
    (folder / "log.toml").write_text(text)
    return folder / "log.parquet", load_schema(str(folder / "log.toml"))


@pytest.fixture
def broker(schema: tuple[Path, LogSchema]) -> InMemoryBroker:
    """A broker that has the log."""
    return replayed(*schema)


def replayed(path: Path, log_schema: LogSchema, rows: int = ROWS) -> InMemoryBroker:
    """A broker that has the rows of a log."""
    broker = InMemoryBroker()
    create_topics(broker, TOPICS.specs(click_partitions=1, shards=SHARDS))
    broker.add_topic(TOPICS.embeddings, SHARDS)
    counts = replay_logs(broker, ReplayPlan(paths=(path,), schema=log_schema, batch_rows=BATCH_ROWS))
    assert (counts.sent, counts.bad) == (rows, 0)
    return broker


def occurrences() -> Counter[int]:
    """How often each key occurs in the log."""
    counted: Counter[int] = Counter()
    for site, tags in zip(*log_rows(), strict=True):
        counted[make_key(1, "hash", site)] += 1
        counted.update(make_key(2, "hash", tag) for tag in tags or [""])
    return counted


def sums_of(broker: InMemoryBroker, signal: str) -> dict[int, float]:
    """The sum of the scores of each key in the importance topic."""
    sums: Counter[int] = Counter()
    for shard in range(SHARDS):
        for record in broker.records(TOPICS.importance, shard):
            batch = decode_importance(record.value, record.headers)
            if isinstance(batch, ImportanceBatch) and batch.source.signal == signal:
                sums.update(dict(zip(batch.keys.tolist(), batch.scores.astype(float).tolist(), strict=True)))
    return dict(sums)


def run_agent(broker: InMemoryBroker, log_schema: LogSchema, signal: str) -> None:
    """Counts the clicks, if that is the signal, then all importance."""
    shards = ShardConfig(capacity=CAPACITY, num_shards=SHARDS)

    async def live() -> None:
        worker = AgentWorker(AgentConfig(shards=shards, schema=log_schema, signals=frozenset({signal})), broker)
        await adopt(worker, set(range(SHARDS)))
        if signal == "frequency":
            for record in inputs(broker, TOPICS.clicks, {0: 0}):
                await worker.count_clicks(record)
            await worker.deliver()
        for record in inputs(broker, TOPICS.importance, worker.own_offsets()):
            await worker.count_importance(record)
        await worker.stop()

    asyncio.run(live())


MODEL = ModelConfig(capacity_rows=CAPACITY, dim=4)
RUN = RunConfig(model=MODEL, device=torch.device("cpu"))
SECOND_ONLY = {make_key(2, "hash", tag) for tag in FREQUENT}


def train(
    broker: InMemoryBroker, log_schema: LogSchema, publish: PublishConfig | None = None, rows: int = ROWS
) -> Session:
    config = SessionConfig(
        kafka=broker, run=RUN, fields=log_schema.categorical, dense_names=(), idle_timeout_s=0.1, publish=publish
    )
    session = Session(config)
    session.train()
    assert session.run.progress.rows == rows
    assert not session.run.progress.reasons
    return session


def test_a_frequency_agent_counts_every_value(broker: InMemoryBroker, schema: tuple[Path, LogSchema]) -> None:
    run_agent(broker, schema[1], "frequency")
    assert sums_of(broker, "frequency") == dict(occurrences())
    with HotFeatureTable(broker) as table:
        hot = {key for key, _ in table.table.items()}
    assert hot >= SECOND_ONLY


def test_a_trainer_sends_the_importance_of_every_value_and_follows(
    broker: InMemoryBroker, schema: tuple[Path, LogSchema]
) -> None:
    train(broker, schema[1])
    reference, expected = TrainingRun(RUN, SHARDS), Counter[int]()
    for record in broker.records(TOPICS.clicks):
        batch = decode_clicks(record.value, record.headers)
        assert isinstance(batch, ClickBatch)
        importance = reference.train(batch)
        assert importance is not None
        expected.update(dict(zip(importance.keys.tolist(), importance.scores.astype(float).tolist(), strict=True)))
    sums = sums_of(broker, "gradient")
    assert sums.keys() == occurrences().keys()
    assert sums == pytest.approx(dict(expected))
    run_agent(broker, schema[1], "gradient")
    following = train(broker, schema[1], PublishConfig(bytes_per_s=100_000_000)).run.trainer
    assert following is not None
    assert set(following.embedding.hot_keys().tolist()) >= SECOND_ONLY
    sites, tags = log_rows()
    dense, bags = np.empty((ROWS, 0), np.float32), key_bags(schema[1], {"site": sites, "tags": tags})
    replica = Replica(broker)
    replica.catch_up()
    learner = following.learners["adaptive"]
    served = ServedModel(learner.model, following.embedding)
    words, offsets = (torch.from_numpy(one) for one in (bags[0].view(np.int64), bags[1]))
    with torch.no_grad():
        vectors = sum_values(following.embedding, bags_of(schema[0], schema[1]))
        expected_logits = learner.model(torch.from_numpy(dense), vectors).numpy()
        np.testing.assert_allclose(
            served(torch.from_numpy(dense), words, offsets), expected_logits, rtol=1e-4, atol=1e-5
        )
    summed = sum_bags(replica.lookup(bags[0]), bags[1], 2)
    np.testing.assert_allclose(summed, vectors, rtol=1e-4, atol=1e-6)
    first = keys((Field("site"), Field("tags")), {"site": sites, "tags": sites})
    plain = replica.predict(dense, first)  # by the newest dense part, which is older than the rows
    np.testing.assert_array_equal(replica.predict(dense, first.reshape(-1), np.arange(2 * ROWS)), plain)
    assert (replica.predict(dense, *bags) != plain).any()
    with pytest.raises(BagError, match="a bag of one or more keys for each row"):
        replica.predict(dense, bags[0], bags[1][1:])


def test_weights_reach_importance_and_what_is_served(tmp_path: Path) -> None:
    sites, tags = log_rows()
    rng = np.random.default_rng(5)
    columns = {"site": sites, "tags": tags, "w": [rng.uniform(0, 2, len(listed)).tolist() for listed in tags]}
    pq.write_table(pa.table({"click": [n % 2 for n in range(ROWS)], **columns}), tmp_path / "log")
    fields = (Field("site"), Field("tags"))
    weighted = LogSchema(name="s", label="click", categorical=fields, lists=("tags",), weights=(("tags", "w"),))
    broker = replayed(tmp_path / "log", weighted)
    trained = train(broker, weighted, PublishConfig(bytes_per_s=100_000_000)).run.trainer
    assert trained is not None
    plain = replayed(tmp_path / "log", replace(weighted, weights=()))
    train(plain, weighted)
    sums, unweighted = sums_of(broker, "gradient"), sums_of(plain, "gradient")
    assert sums.keys() == unweighted.keys() == occurrences().keys()
    rare = [make_key(2, "hash", listed[0]) for listed in tags[:BATCH_ROWS] if listed]  # of the first step, once each
    factors = [weights[0] for weights in columns["w"][:BATCH_ROWS] if weights]
    ratios = [sums[key] / unweighted[key] / factor for key, factor in zip(rare, factors, strict=True)]
    assert 0.9 < np.median(ratios) < 1.1  # the weight, but for the other logits of the weighted sums
    bags, dense = key_bags(weighted, columns), np.empty((ROWS, 0), np.float32)
    replica, served = Replica(broker), ServedModel(trained.learners["adaptive"].model, trained.embedding)
    replica.catch_up()
    assert bags.weights is not None
    words, offsets, weights = (torch.from_numpy(one) for one in (bags.keys.view(np.int64), *bags[1:]))
    summed = sum_values(trained.embedding, bags_of(tmp_path / "log", weighted))
    with torch.no_grad():
        expected = trained.learners["adaptive"].model(torch.from_numpy(dense), summed).numpy()
        np.testing.assert_allclose(
            served(torch.from_numpy(dense), words, offsets, weights), expected, rtol=1e-4, atol=1e-5
        )
        ones = served(torch.from_numpy(dense), words, offsets).numpy()
    assert not np.allclose(ones, expected)
    factored = replica.lookup(bags.keys) * bags.weights[:, None]
    np.testing.assert_allclose(sum_bags(factored, bags.offsets, 2), summed.detach(), rtol=1e-4, atol=1e-6)
    logits = replica.predict(dense, *bags)
    np.testing.assert_array_equal(logits, replica.predict_vectors(dense, sum_bags(factored, bags.offsets, 2)))
    for wrong in ((bags.keys, bags.offsets, bags.weights[1:]), (bags.keys, None, bags.weights)):
        with pytest.raises(BagError, match="one for each key, and offsets"):
            replica.predict(dense, *wrong)


def bags_of(path: Path, log_schema: LogSchema) -> Bags:
    (block,) = read_log(path, log_schema, ROWS)
    batch = block.parse().batch
    assert batch.more is not None
    return Bags.of(batch.keys, batch.more, torch.device("cpu"), key_weights=batch.key_weights)


def test_a_batch_whose_lists_are_too_long_for_a_record_becomes_several(tmp_path: Path) -> None:
    rows, values = 8, [f"v{n}" for n in range(1024)]
    names = [f"f{n}" for n in range(160)]
    pq.write_table(pa.table({"y": [0] * rows, **{name: [values] * rows for name in names}}), tmp_path / "log")
    schema = LogSchema(name="s", label="y", categorical=tuple(map(Field, names)), lists=tuple(names))
    broker = InMemoryBroker()
    create_topics(broker, TOPICS.specs(click_partitions=1, shards=SHARDS))
    plan = ReplayPlan(paths=(tmp_path / "log",), schema=schema, batch_rows=rows)
    counts = replay_logs(broker, plan)
    records = broker.records(TOPICS.clicks)
    assert (counts.sent, counts.batches) == (rows, 1)
    assert len(records) == 2
    assert all(len(record.value or b"") <= MAX_CLICKS_BYTES for record in records)
    batches = [decode_clicks(record.value, record.headers) for record in records]
    assert [batch.num_rows for batch in batches if isinstance(batch, ClickBatch)] == [4, 4]
    named = [dict(record.headers) for record in records]
    assert [(one["first-row"], one["last-row"]) for one in named] == [(b"1", b"4"), (b"5", b"8")]
