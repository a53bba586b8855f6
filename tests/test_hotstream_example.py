"""README's example of a model of one's own runs as it stands, on topics in memory."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

import hotstream
from streams.agent.agreement import Agreement
from streams.agent.shard import Shard
from streams.agent.shard_config import ShardConfig
from streams.clients.admin import create_topics
from streams.clients.in_memory import InMemoryBroker
from streams.records import ImportanceBatch, decode_importance
from streams.topics import Topics

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ShardConfig(capacity=20, num_shards=1)
STEPS, ROWS = 12, 64


def batches_of(broker: InMemoryBroker, shard: Shard):
    """Rows, while an agent counts the importance that was sent and publishes its changes."""
    from streams.clients.producer import RecordProducer  # noqa: PLC0415

    counted = 0
    for step in range(STEPS):
        tokens = np.random.default_rng(step).zipf(1.5, (26, ROWS)) % 500
        columns = {f"C{number}": pa.array(column.astype(np.uint32)) for number, column in enumerate(tokens, 1)}
        yield columns, torch.from_numpy((tokens[0] % 2).astype(np.float32))
        with RecordProducer(broker) as producer:
            for record in broker.records(Topics().importance)[counted:]:
                batch = decode_importance(record.value, record.headers)
                assert isinstance(batch, ImportanceBatch)
                for key, value, headers in shard.count(record.offset, batch):
                    producer.send(Topics().assignments, 0, value, headers, key=key)
                counted += 1


def test_the_readmes_model_follows_the_hot_set_and_feeds_the_agent():
    (code,) = re.findall(r"```python\n(import hotstream, torch\n.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len([line for line in code.splitlines() if line]) <= 15
    broker = InMemoryBroker()
    create_topics(broker, Topics().specs())
    Agreement(broker, CONFIG, group="agents", signals=["gradient"]).join()
    named = {"batches": batches_of(broker, Shard(0, CONFIG)), "broker": broker}
    exec(code.replace('"localhost:9092"', "broker"), named)  # noqa: S102
    assert len(broker.records(Topics().importance)) == STEPS
    embedding, follower = named["embedding"], named["follower"]
    assert isinstance(embedding, hotstream.AdaptiveEmbedding)
    assert embedding.num_hot == CONFIG.capacity
    embedding.migrate(follower.changes())
    assert dict(follower.table.items()) == dict(zip(*(part.tolist() for part in embedding.router.items()), strict=True))
