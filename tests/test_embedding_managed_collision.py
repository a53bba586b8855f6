"""TorchRec's managed collision whose remapping is the hot set, in one process and in two that shard a table."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("torchrec", reason="TorchRec has an environment of its own: `make test-torchrec`")

import torch.distributed as dist
from torchrec.distributed.mc_embeddingbag import ManagedCollisionEmbeddingBagCollectionSharder
from torchrec.distributed.shard import _shard_modules
from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise
from torchrec.distributed.types import ShardingEnv, ShardingPlan
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.modules.mc_embedding_modules import ManagedCollisionEmbeddingBagCollection
from torchrec.modules.mc_modules import ManagedCollisionCollection
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor

import hotstream
from hotstream.torchrec import HotSetCollision, migrate
from sketch.changes import NO_ROW, Changes
from sketch.hashing import mix64_array, shard_of
from streams.clients.in_memory import InMemoryBroker
from streams.clients.producer import RecordProducer
from streams.keys import Field
from streams.records import Assignment, encode_assignment
from streams.topics import Topics
from trainer.embedding.gathers import mix64_tensor
from trainer.errors import CheckpointError, PlanError

SEGMENTS = "_output_segments_tensor"
CAPACITY, SHARED, SHARDS, DIM = 20, 10, 4, 4
FIELDS = (Field("f1"), Field("f2"))
KEYS = np.concatenate([hotstream.keys(FIELDS, {"f1": [f"a{n}"] * 1, "f2": [f"b{n}"]})[0] for n in range(200)])
TABLE = EmbeddingBagConfig(
    name="t", embedding_dim=DIM, num_embeddings=CAPACITY + SHARED, feature_names=["f1", "f2"],
    init_fn=lambda rows: torch.nn.init.constant_(rows, 7.0),
)  # fmt: skip


def hot_rows(seed: int = 0, first: int = 0) -> dict[int, int]:
    """Some keys, each with a row of its shard."""
    rng, rows = np.random.default_rng(seed), {}
    for shard in range(SHARDS):
        mine = KEYS[shard_of(KEYS, SHARDS) == shard]
        owned = range(CAPACITY * shard // SHARDS, CAPACITY * (shard + 1) // SHARDS)
        rows |= dict(zip(mine[first : first + 4].tolist(), rng.permutation(list(owned)).tolist(), strict=False))
    return rows


def changes_to(rows: dict[int, int], cold: tuple[int, ...] = ()) -> Changes:
    keys = np.array([*cold, *rows], np.uint64)
    return Changes(keys, np.array([NO_ROW] * len(cold) + [*rows.values()], np.int32), np.ones(len(keys), np.float32))


def remapped(module: HotSetCollision, keys: np.ndarray) -> np.ndarray:
    features = {"t": JaggedTensor(torch.from_numpy(keys.view(np.int64)), lengths=torch.tensor([len(keys)]))}
    return module(features)["t"].values().numpy()


def collision() -> HotSetCollision:
    return HotSetCollision(CAPACITY, SHARED, num_shards=SHARDS)


# ---- one process -----------------------------------------------------------------------------------------------------


def test_a_hot_key_has_its_unique_row_and_a_cold_one_a_shared_row() -> None:
    module, rows = collision(), hot_rows()
    assert (remapped(module, KEYS) >= CAPACITY).all()
    assert module.migrate(changes_to(rows)) == len(rows)
    found = dict(zip(KEYS.tolist(), remapped(module, KEYS).tolist(), strict=True))
    assert {key: found[key] for key in rows} == rows
    shared = np.array([row for key, row in found.items() if key not in rows])
    assert set(shared.tolist()) == set(range(CAPACITY, CAPACITY + SHARED))
    assert module.open_slots().tolist() == [CAPACITY - len(rows)]
    assert (module.output_size(), module.input_size(), module.buckets()) == (CAPACITY + SHARED, 2**63 - 1, 1)


def test_rows_that_get_another_owner_are_reset_once() -> None:
    module, rows = collision(), hot_rows()
    assert module.evict() is None
    module.migrate(changes_to(rows))
    evicted = module.evict()
    assert evicted is not None
    assert sorted(evicted.tolist()) == sorted(rows.values())
    assert module.evict() is None
    gone, new = next(iter(rows)), int(KEYS[-1])
    module.migrate(changes_to({new: rows[gone]}, cold=(gone,)))
    evicted = module.evict()
    assert evicted is not None
    assert evicted.tolist() == [rows[gone]]
    assert module.migrate(changes_to({}, cold=(new,))) == 0  # nobody owns the row, so nobody reads it
    assert module.evict() is None


def test_ids_are_those_of_the_shards_and_their_hash_is_that_of_numpy() -> None:
    words = np.concatenate([KEYS, np.array([0, 1, 1 << 63, (1 << 64) - 1], np.uint64)])
    mixed = mix64_tensor(torch.from_numpy(words.view(np.int64))).numpy().view(np.uint64)
    np.testing.assert_array_equal(mixed, mix64_array(words))
    ids = collision().preprocess(
        {"t": JaggedTensor(torch.from_numpy(KEYS.view(np.int64)), lengths=torch.tensor([len(KEYS)]))}
    )
    shards = ids["t"].values().numpy() // (2**63 // SHARDS)
    np.testing.assert_array_equal(shards, shard_of(KEYS, SHARDS))


def test_a_loaded_state_resets_only_the_rows_whose_owner_has_changed_meanwhile() -> None:
    module, rows = collision(), hot_rows()
    module.migrate(changes_to(rows))
    again = collision()
    again.load_state_dict(module.state_dict())
    np.testing.assert_array_equal(remapped(again, KEYS), remapped(module, KEYS))
    first, *others = rows
    now = {int(KEYS[-1]): rows[first], **{key: rows[key] for key in others}}
    again.migrate(changes_to(now))  # of a new follower: the whole hot set
    evicted = again.evict()
    assert evicted is not None
    assert evicted.tolist() == [rows[first]]
    half = again.rebuild_with_output_id_range((0, 15), [0, 15, 30])
    with pytest.raises(CheckpointError, match="were sharded over other ranks"):
        half.load_state_dict({**half.state_dict(), SEGMENTS: module.state_dict()[SEGMENTS]})


def test_shards_that_cannot_be_divided_and_a_rank_without_shared_rows_are_refused() -> None:
    with pytest.raises(PlanError, match="got 4, expected a multiple of the 3 ranks"):
        collision().rebuild_with_output_id_range((0, 10), [0, 10, 20, 30])
    with pytest.raises(PlanError, match="shared_rows: got 0"):
        HotSetCollision(CAPACITY, 0, num_shards=SHARDS)


def bags(seed: int) -> KeyedJaggedTensor:
    """Two rows of 0 to 3 keys in each of two features."""
    lengths = torch.tensor([3, 0, 1, 2])
    keys = np.random.default_rng(seed).choice(KEYS, 6, replace=False)
    return KeyedJaggedTensor(["f1", "f2"], torch.from_numpy(keys.view(np.int64)), lengths=lengths)


def architecture(device: str = "cpu") -> ManagedCollisionEmbeddingBagCollection:
    where = torch.device(device)
    collection = ManagedCollisionCollection(
        {"t": HotSetCollision(CAPACITY, SHARED, num_shards=SHARDS, device=where)}, [TABLE]
    )
    return ManagedCollisionEmbeddingBagCollection(
        EmbeddingBagCollection(tables=[TABLE], device=where), collection, return_remapped_features=True
    )


def publish(broker: InMemoryBroker, rows: dict[int, int], first_seq: int) -> None:
    shards = shard_of(np.array(list(rows), np.uint64), SHARDS).tolist()
    with RecordProducer(broker) as producer:
        for seq, ((feature, row), shard) in enumerate(zip(rows.items(), shards, strict=True), first_seq):
            change = Assignment(
                key=feature, tier="hot", row=row, shard=shard, epoch=1, seq=seq,
                score=1.0, source=(0, 0), event_time_ms=0,
            )  # fmt: skip
            key, value, headers = encode_assignment(change, FIELDS)
            producer.send(Topics().assignments, shard, value, headers, key=key)


def test_an_embedding_bag_collection_follows_the_topic_and_trains() -> None:
    specs = Topics().specs(click_partitions=1, shards=SHARDS)
    broker = InMemoryBroker({spec.name: spec.partitions for spec in specs})
    publish(broker, hot_rows(), 1)
    model = architecture()
    with hotstream.follow(broker) as follower:
        assert migrate(model, follower.changes()) == len(hot_rows())
        publish(broker, hot_rows(1, first=2), 100)
        migrate(model, follower.changes(timeout_ms=1000))
        rows = dict(follower.table.items())
    batch = bags(3)
    vectors, features = model(batch)
    assert vectors.values().shape == (2, 2 * DIM)
    for key, row in zip(batch.values().numpy().view(np.uint64).tolist(), features.values().tolist(), strict=True):
        assert row == rows[key] if key in rows else row >= CAPACITY
    vectors.values().sum().backward()
    (weight,) = model.parameters()
    assert weight.grad is not None
    assert set(weight.grad.abs().sum(1).nonzero().view(-1).tolist()) == set(features.values().tolist())


# ---- two processes ---------------------------------------------------------------------------------------------------


def of_rank(row: int, rank: int) -> int:
    """The row of a table of two ranks in which a unique row lies: 10 unique and 5 shared rows a rank."""
    return row - 10 * rank + 15 * rank


def train_sharded(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    try:
        check_sharded(rank)
    finally:
        dist.destroy_process_group()


def shard(model: Any) -> Any:
    sharder = ManagedCollisionEmbeddingBagCollectionSharder()
    apply_optimizer_in_backward(torch.optim.SGD, model.parameters(), {"lr": 0.5})  # fused: TorchRec resets no others
    plan = construct_module_sharding_plan(
        model,
        per_param_sharding={"t": row_wise(compute_kernel="fused")},
        local_size=2,
        world_size=2,
        device_type="cpu",
        sharder=sharder,
    )
    whole = torch.nn.ModuleDict({"mc": copy.deepcopy(model)})
    assert dist.group.WORLD is not None
    return _shard_modules(
        module=whole, plan=ShardingPlan({"mc": plan}), env=ShardingEnv.from_process_group(dist.group.WORLD),
        sharders=[sharder], device=torch.device("cpu"),
    )["mc"]  # fmt: skip


def check_sharded(rank: int) -> None:
    """Both ranks follow the same changes; each looks up its own batch, of whose keys the other rank has some."""
    model, rows = shard(architecture("meta")), hot_rows()
    mine = [row for row in rows.values() if row // 10 == rank]
    assert migrate(model, changes_to(rows)) == len(mine)
    (weight,) = [parameter for name, parameter in model.named_parameters() if name.endswith("weight")]
    weight.data.zero_()
    batch = bags(rank)
    keys = batch.values().numpy().view(np.uint64)
    vectors, features = (part.wait() for part in model(batch))
    ranks = shard_of(keys, 2)
    for key, row, owner in zip(keys.tolist(), features.values().tolist(), ranks.tolist(), strict=True):
        assert row == of_rank(rows[key], owner) if key in rows else 15 * owner + 10 <= row < 15 * owner + 15
    reset = {of_rank(row, rank) - 15 * rank for row in mine}  # by `init_fn`
    assert [row for row, vector in enumerate(weight.tolist()) if vector == [7.0] * DIM] == sorted(reset)
    vectors.values().sum().backward()

    state = model.state_dict()
    (name,) = [name for name in state if name.endswith("_owners")]
    assert tuple(state[name].size()) == (CAPACITY + SHARED,)
    again = shard(architecture("meta"))
    again.load_state_dict(state)
    now = hot_rows(1, first=2)
    expected = sum(rows.get(key) != row for key, row in now.items() if row // 10 == rank)
    assert migrate(again, changes_to(now)) == expected


@pytest.mark.timeout(300)
def test_two_ranks_share_a_table_by_the_shards_of_the_topic(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(train_sharded, (str(tmp_path),), nprocs=2)
