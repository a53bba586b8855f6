"""A step of several ranks is the step of one on all their click records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from ranks_driver import RankPool, digest_of
from torch._subclasses.fake_tensor import FakeTensorMode
from trainer_batches import NUM_FIELDS, click_batch

from sketch.changes import NO_ROW, Changes
from sketch.hashing import shard_of
from streams.assignments.row_ranges import rows_of_shard
from streams.errors import InvariantError
from streams.keys import FIELD_SHIFT
from streams.records import ClickBatch, MoreValues
from trainer.errors import CapacityError, PlanError
from trainer.learning.building import build_trainer
from trainer.learning.model_config import ModelConfig
from trainer.learning.trainer import ADAPTIVE, StepReport
from trainer.process.click_steps import merge_clicks
from trainer.ranks.embedding import RankedEmbedding
from trainer.ranks.group import Ranks
from trainer.ranks.sharded import ShardedEmbedding
from trainer.ranks.trainer import RankedTrainer, build_ranked_trainer

SHARDS, CAPACITY, STEPS = 4, 60, 100
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in the same order; and several threads wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pool() -> Iterator[RankPool]:
    with RankPool() as opened:
        yield opened


def config_of(**options: Any) -> ModelConfig:
    return ModelConfig(capacity_rows=CAPACITY, dim=8, **options)


def trainer_of(ranks: Ranks, num_shards: int = SHARDS, **options: Any) -> RankedTrainer:
    """A trainer whose model is smooth: at the kink of a ReLU the last bit of a sum decides between two gradients."""
    trainer = build_ranked_trainer(config_of(**options), NUM_FIELDS, 2, num_shards, ranks, CPU)
    for part in trainer.learners[ADAPTIVE].model.modules():
        if isinstance(part, torch.nn.Sequential):
            for index, one in enumerate(part):
                if isinstance(one, torch.nn.ReLU):
                    part[index] = torch.nn.SiLU()
    return trainer


def records_of(step: int, *, has_lists: bool = False) -> list[ClickBatch]:
    """The click records of a step: two, of different sizes; now and then the second rank has none, or the first."""
    sizes = {3: [24, 0], 5: [0, 40]}.get(step % 8, [24, 40])
    records = [click_batch(size, 2 * step + number) for number, size in enumerate(sizes)]
    return [with_lists(one) for one in records] if has_lists else records


def with_lists(batch: ClickBatch) -> ClickBatch:
    """Every third row has a second value in field 1."""
    has_more = np.arange(batch.num_rows) % 3 == 0
    keys = (np.uint64(1) << FIELD_SHIFT) | (np.flatnonzero(has_more).astype(np.uint64) + np.uint64(600))
    more = MoreValues(offsets=np.append(0, np.cumsum(has_more)), keys=keys)
    return replace(batch, more=more if len(keys) else None)


def changes_of(step: int, num_shards: int = SHARDS) -> Changes:
    """Promotions of six keys to rows of their shards, and a demotion."""
    keys = np.unique(click_batch(24, 2 * step).keys)[:6]
    shards = shard_of(keys, num_shards)
    rows = [rows_of_shard(CAPACITY, num_shards, shard) for shard in shards.tolist()]
    row = np.array([first + (7 * step + number) % count for number, (first, count) in enumerate(rows)], np.int32)
    row[0] = NO_ROW
    return Changes(keys, row, np.ones(6, np.float32))


def changes_of_rank(changes: Changes, ranks: Ranks) -> Changes:
    is_own = shard_of(changes.key, SHARDS) % ranks.world == ranks.rank
    return Changes(changes.key[is_own], changes.row[is_own], changes.score[is_own])


def train(
    ranks: Ranks, options: dict[str, Any], has_lists: bool, steps: int = STEPS, looks_ahead: bool = False
) -> dict[str, Any]:
    """Trains the steps as one rank; a single rank trains both click records as one batch."""
    trainer = trainer_of(ranks, **options)
    losses, scores = [], []

    def send_ahead(step: int) -> None:
        if looks_ahead:
            trainer.send_ahead(records_of(step + 1, has_lists=has_lists)[ranks.rank])

    for step in range(steps):
        records = records_of(step, has_lists=has_lists)
        if ranks.world == 1:
            own = [one for one in records if one.num_rows]
            report = trainer.step(merge_clicks(own), record_rows=[one.num_rows for one in own])
        else:
            report = trainer.step(records[ranks.rank], lambda step=step: send_ahead(step))
        losses.append(report.loss[ADAPTIVE])
        scores.append(importance_of(report))
        trainer.migrate(changes_of_rank(changes_of(step), ranks))
    trainer.drop_ahead()
    model = trainer.learners[ADAPTIVE].model
    return {
        "losses": losses,
        "scores": scores,
        "dense": digest_of(dict(model.state_dict())),
        "rows": digest_of(trainer.embedding.tensors()),
        "hot": trainer.embedding.num_hot,
        "shards": sorted({name.partition(".")[0] for name in trainer.embedding.tensors()}),
    }


def importance_of(report: StepReport) -> list[dict[int, float]]:
    """The scores of each click record that has any rows."""
    found = [
        dict(zip(one.keys.tolist(), one.scores.tolist(), strict=True)) for one in report.importances if len(one.keys)
    ]
    assert found or report.rows == 0
    return found


@pytest.mark.parametrize(("options", "has_lists"), [({}, False), ({"model": "wdl", "row_optimizer": "sgd"}, True)])
def test_two_ranks_have_the_losses_and_the_importance_of_one_on_the_merged_batch(pool, options, has_lists):
    (alone,) = pool.run(1, train, options, has_lists)
    first, second = pool.run(2, train, options, has_lists)
    assert first["losses"] == second["losses"]
    assert np.abs(np.array(first["losses"]) - np.array(alone["losses"])).max() < 1e-5
    assert alone["losses"][-1] < alone["losses"][0] - 0.05
    assert first["dense"] == second["dense"]
    assert first["hot"] + second["hot"] == alone["hot"] > 10
    assert (first["shards"], second["shards"]) == (["0", "2"], ["1", "3"])
    for whole, *parts in zip(alone["scores"], first["scores"], second["scores"], strict=True):
        together = [record for part in parts for record in part]
        assert [set(record) for record in together] == [set(record) for record in whole]
        for mine, theirs in zip(together, whole, strict=True):
            assert mine == pytest.approx(theirs, rel=1e-2, abs=1e-4)


def test_keys_that_are_sent_ahead_change_no_bit(pool):
    in_turn, ahead = (
        pool.run(2, train, {"row_format": "int8"}, True, 30, looks_ahead) for looks_ahead in (False, True)
    )
    assert ahead == in_turn
    assert in_turn[0]["rows"] != in_turn[1]["rows"]


def refuse_others_keys(ranks: Ranks) -> str:
    """The error of a step whose keys are not those that were sent ahead."""
    trainer = trainer_of(ranks)
    trainer.step(click_batch(8, 0), lambda: trainer.send_ahead(click_batch(8, 1)))
    with pytest.raises(InvariantError) as caught:
        trainer.step(click_batch(8, 2))
    return str(caught.value)


def test_keys_of_another_step_are_refused(pool):
    assert pool.run(2, refuse_others_keys) == ["a step of 8 rows: the keys of another one, of 8, were sent ahead"] * 2


def test_one_shard_of_one_rank_is_bit_for_bit_what_an_embedding_without_shards_is():
    ranked = build_ranked_trainer(config_of(), NUM_FIELDS, 2, 1, Ranks(), CPU)
    plain = build_trainer(config_of(), click_batch(1, 0).fields, 2, CPU)
    for step in range(20):
        batch, changes = click_batch(48, step), changes_of(step, 1)
        assert ranked.step(batch).loss == plain.step(batch).loss
        assert vars(ranked.migrate(changes)) == vars(plain.migrate(changes))
    mine = {name.partition(".")[2]: tensor for name, tensor in ranked.embedding.tensors().items()}
    assert digest_of(mine) == digest_of(plain.embedding.tensors())


def test_the_slices_of_all_shards_are_the_plan():
    whole = config_of().plan(NUM_FIELDS)
    slices = ShardedEmbedding(whole, SHARDS, range(SHARDS)).slices.values()
    assert sum(part.plan.capacity_rows for part in slices) == CAPACITY
    assert sum(part.plan.layout.level_2_rows for part in slices) == whole.layout.level_2_rows
    firsts = [part.shared.level_2.values[0] for part in slices]
    assert not any(torch.equal(one, other) for one, other in pairwise(firsts))


def diverge(ranks: Ranks) -> tuple[bool, bool, str, str]:
    """One step of which rank 1 has a batch whose loss is not finite, and one that is."""
    trainer = trainer_of(ranks)
    batch = click_batch(16, ranks.rank)
    trainer.step(batch)
    before = digest_of(trainer.tensors())
    weight = np.full(16, np.inf if ranks.rank else 1.0, np.float32)
    bad = trainer.step(replace(batch, weight=weight))
    after = digest_of(trainer.tensors())
    return bool(bad.diverged), bool(trainer.step(batch).diverged), before, after


def test_a_step_that_is_not_finite_on_one_rank_is_refused_on_all(pool):
    for refused, refused_later, before, after in pool.run(2, diverge):
        assert refused
        assert not refused_later
        assert before == after


def test_a_row_of_another_shard_is_refused():
    embedding = RankedEmbedding(config_of().plan(NUM_FIELDS), SHARDS, Ranks())
    key = np.array([(1 << 56) | 5], np.uint64)
    beyond = (int(shard_of(key, SHARDS)[0]) + 1) % SHARDS * (CAPACITY // SHARDS)
    with pytest.raises(CapacityError, match="another capacity"):
        embedding.migrate(Changes(key, np.array([beyond], np.int32), np.ones(1, np.float32)))


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"compare_hash": True}, "--compare hash"), ({"capacity_rows": 3}, "expected at least one a shard")],
)
def test_what_ranks_do_not_support_is_refused(options, reason):
    with pytest.raises(PlanError, match=reason):
        build_ranked_trainer(
            ModelConfig(**{"capacity_rows": CAPACITY, "dim": 8, **options}), NUM_FIELDS, 2, SHARDS, Ranks(), CPU
        )


def test_tensors_of_a_gpu_are_exchanged_by_its_group_and_others_by_the_hosts() -> None:
    """Which group takes a tensor is decided by its device alone; no GPU is needed to ask."""
    ranks = Ranks(0, 2, host_group="gloo", device_group="nccl")
    with FakeTensorMode():
        assert ranks.group_of(torch.empty(2, device="cuda")) == "nccl"
        assert ranks.group_of(torch.empty(2)) == "gloo"
