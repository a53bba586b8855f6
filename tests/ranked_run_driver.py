"""A rank of a run without a broker: `train(ranks, directory, last_step)` trains made-up clicks and assignments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from ranks_driver import digest_of
from trainer_batches import click_batch

from sketch.hashing import shard_of
from streams.assignments.columns import Fetch
from streams.assignments.row_ranges import rows_of_shard
from streams.records import Assignment
from trainer.learning.model_config import ModelConfig
from trainer.process.click_steps import merge_clicks
from trainer.process.journal import Apply, Event, TrainTogether
from trainer.process.ranked_run import RankedRun
from trainer.process.run import RunConfig
from trainer.ranks.group import Ranks

SHARDS, PARTITIONS, CAPACITY, ROWS = 4, 4, 60, 24
COLUMNS = (click_batch(1, 0).fields, 2)


def config_of(directory: Path) -> RunConfig:
    model = ModelConfig(capacity_rows=CAPACITY, dim=8, row_format="int8")
    return RunConfig(model=model, device=torch.device("cpu"), checkpoint_dir=directory, checkpoint_every=6 * ROWS)


def changes_of(shard: int, seq: int) -> Fetch:
    """The assignment of a shard with this seq."""
    keys = np.unique(click_batch(400, 3).keys)
    own = keys[shard_of(keys, SHARDS) == shard]
    first, count = rows_of_shard(CAPACITY, SHARDS, shard)
    key, row = int(own[seq % len(own)]), first + seq % count
    return Fetch(
        partition=shard,
        records=[Assignment(key=key, tier="hot", row=row, shard=shard, epoch=1, seq=seq, score=1.0)],
        offsets=[seq - 1],
    )


class Driver:
    """One rank: follows an assignment of each of its shards now and then, and has a click record in most steps."""

    def __init__(self, ranks: Ranks, directory: Path) -> None:
        self.ranks, self.run = ranks, RankedRun(config_of(directory), SHARDS, ranks, COLUMNS)
        while (event := self.run.journal.next_scripted()) is not None:
            self._perform(event)

    def train(self, last_step: int) -> None:
        clicks, assignments = self.run.offsets["clicks"], self.run.offsets["assignments"]
        while (step := self.run.steps) < last_step:
            if (step + self.ranks.rank) % 3 == 0:
                shards = [shard for shard in range(SHARDS) if self.ranks.owns(shard)]
                self.record(Apply({shard: assignments.get(shard, 0) + 1 for shard in shards}))
            self.record(TrainTogether(self._next(clicks, step)))

    def _next(self, clicks: dict[int, int], step: int) -> tuple[tuple[int, int], ...]:
        if (step + self.ranks.rank) % 4 == 0 and self.ranks.world > 1:
            return ()
        partition = min((p for p in range(PARTITIONS) if self.ranks.owns(p)), key=lambda p: clicks.get(p, 0))
        return ((partition, clicks.get(partition, 0)),)

    def journal_next(self) -> None:
        """Writes the next step to the journal, as a rank does that is killed before it can make it."""
        self.run.journal.record(TrainTogether(self._next(self.run.offsets["clicks"], self.run.steps)))

    def record(self, event: Event) -> None:
        self.run.journal.record(event)
        self._perform(event)

    def _perform(self, event: Event) -> None:
        run = self.run
        if isinstance(event, Apply):
            for shard, end in event.ends.items():
                run.apply([changes_of(shard, end)])
                run.offsets["assignments"][shard] = end
            return
        assert isinstance(event, TrainTogether)
        batches = [click_batch(ROWS, 1000 * partition + offset) for partition, offset in event.records]
        batch = merge_clicks(batches) if batches else run.nothing()
        report = run.start(batch, record_rows=[ROWS] * len(batches)).finish()
        for partition, offset in event.records:
            run.progress.count_step(report, batch, 1, "a batch")
            run.offsets["clicks"][partition] = offset + 1
        if run.is_due and run.agree_to_save() and (captured := run.capture()) is not None:
            run.write(captured)

    def describe(self) -> dict[str, Any]:
        """What this rank predicts for a fixed batch, what it has, and closes the run."""
        run, batch = self.run, click_batch(50, 777)
        assert run.trainer is not None
        with torch.no_grad():
            vectors = run.trainer.embedding(torch.from_numpy(batch.keys.view(np.int64).copy()))
            logits = run.trainer.learners["adaptive"].model(torch.from_numpy(batch.dense), vectors)
        run.close()
        return {
            "logits": logits.numpy().tobytes(),
            "digest": digest_of(run.trainer.tensors()),
            "steps": run.steps,
            "rows": run.progress.rows,
            "clicks": run.offsets["clicks"],
            "hot": run.trainer.embedding.num_hot,
            "tables": run.history.num_hot,
        }


def train(ranks: Ranks, directory: Path, last_step: int, is_killed: bool = False) -> dict[str, Any]:
    """Trains to a step; writes a checkpoint at the end, or none and, on rank 0, one line too many."""
    driver = Driver(ranks, directory)
    driver.train(last_step)
    if not is_killed:
        driver.run.checkpoint()
    elif ranks.rank == 0:
        driver.journal_next()
    return driver.describe()
