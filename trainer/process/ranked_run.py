"""`RankedRun`: the part of one rank in a training run of several; all ranks make the same steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from streams.keys import Field
from streams.records import ClickBatch
from trainer.learning.trainer import StartedStep
from trainer.process.checkpoint import Captured, Checkpoint
from trainer.process.click_columns import Columns
from trainer.process.click_steps import merge_clicks
from trainer.process.common_checkpoints import CommonCheckpoints, rank_directory
from trainer.process.progress import Progress
from trainer.process.run import TrainingRun
from trainer.process.run_config import RunConfig
from trainer.process.topic_changes import TrainerTopics
from trainer.ranks.group import Ranks
from trainer.ranks.trainer import RankedTrainer, build_ranked_trainer

__all__ = ["RankedRun"]


class RankedRun(TrainingRun):
    """The run of one rank: its shards, its click partitions, its own journal and checkpoints, and the dense part.

    Guarantees:
        - All ranks resume after the same step: from the newest checkpoint that each of them has, and with the steps
          that the journals of all have. A step that one journal lacks was never completed, so nobody saw its results.
        - With another number of ranks than before, every shard keeps its state bit for bit.

    Making one is a collective, as are `start`, and everything that resumes.

    Args:
        config: the configuration; each rank has a directory of its own in `checkpoint_dir`.
        num_shards: partitions of the assignments topic.
        ranks: this rank and the others.
        columns: the fields and the number of dense columns to train.
        resume: whether to resume.
        topics: the topics of the offsets; None if these are not those of Kafka.

    Attributes:
        steps: the steps of all ranks so far, refused ones included.
        rows_in_all: the rows of all ranks in these steps.

    Raises:
        CheckpointError: as `TrainingRun`; or no checkpoint is one of every rank.
        PlanError: ranks do not support an option.
        RankError: another rank has ended.
    """

    _is_sliced = True

    def __init__(
        self,
        config: RunConfig,
        num_shards: int,
        ranks: Ranks,
        columns: Columns,
        *,
        resume: bool = True,
        topics: TrainerTopics | None = None,
    ) -> None:
        self.ranks, self.steps, self.rows_in_all = ranks, 0, 0
        self._saved_in_all = 0
        self._shards = num_shards
        self._common: CommonCheckpoints | None = None
        if config.checkpoint_dir is not None:
            config = replace(config, checkpoint_dir=rank_directory(config.checkpoint_dir, ranks))
        super().__init__(config, num_shards, resume=resume, topics=topics, columns=columns)
        self.started_ms = ranks.gather([self.started_ms])[0][0]  # rank 0's
        is_new = self.trainer is None
        if is_new:
            self._build(*columns)
        self._agree_on_journals()
        if self._common is not None and (is_new or self._common.replaced):
            self.checkpoint()  # so that a first checkpoint that only some ranks have is no puzzle
            self._common.end_replacement()

    def _agree_on_journals(self) -> None:
        """Drops the steps that not every rank's journal has: none of them was completed."""
        self.journal.keep_steps(min(steps for (steps,) in self.ranks.gather([self.journal.num_steps])))

    def _open_checkpoints(self, directory: Path) -> CommonCheckpoints:
        self._common = CommonCheckpoints(directory, self.ranks, keep=self.config.keep_checkpoints)
        return self._common

    def _make_trainer(self, fields: tuple[Field, ...], num_dense: int) -> RankedTrainer:
        model, device = self.config.model, self.config.device
        return build_ranked_trainer(model, len(fields), num_dense, self._shards, self.ranks, device)

    def _load(self, checkpoint: Checkpoint) -> int:
        event, known = super()._load(checkpoint), checkpoint.state["ranks"]
        self.steps, self.rows_in_all = int(known["steps"]), int(known["rows"])
        self._saved_in_all = self.rows_in_all
        return event

    def start(
        self,
        batch: ClickBatch,
        after_lookup: Callable[[], None] | None = None,
        *,
        record_rows: Sequence[int] | None = None,
    ) -> StartedStep:
        """As `TrainingRun.start`, of all ranks; a rank without clicks starts `nothing()`."""
        started = super().start(batch, after_lookup, record_rows=record_rows)
        assert isinstance(self.trainer, RankedTrainer)  # noqa: S101  `_make_trainer` made it
        self.steps += 1
        self.rows_in_all += self.trainer.rows_in_all
        return started

    @property
    def trained_rows(self) -> int:
        """As `TrainingRun.trained_rows`; those of all ranks."""
        return self.rows_in_all

    def send_ahead(self, batches: Sequence[ClickBatch]) -> None:
        """Lets the keys of the next step's click records travel while this one computes; none: `nothing()`'s."""
        assert isinstance(self.trainer, RankedTrainer)  # noqa: S101  `_make_trainer` made it
        self.trainer.send_ahead(merge_clicks(batches) if batches else self.nothing())

    def drop_ahead(self) -> None:
        """Takes back what `send_ahead` has sent; a collective."""
        assert isinstance(self.trainer, RankedTrainer)  # noqa: S101  `_make_trainer` made it
        self.trainer.drop_ahead()

    def nothing(self) -> ClickBatch:
        """A batch of no rows, with the columns of the model."""
        fields, num_dense = self.shape
        return ClickBatch(
            label=np.empty(0, np.int8),
            dense=np.empty((0, num_dense), np.float32),
            keys=np.empty((0, len(fields)), np.uint64),
            event_time_ms=np.empty(0, np.int64),
            fields=fields,
            dense_names=tuple(f"d{number}" for number in range(num_dense)),
        )

    def train_nothing(self, after_lookup: Callable[[], None] | None = None) -> None:
        """The step of a rank without click records that can be trained; a refused one is counted.

        Raises:
            DivergedError: several steps in a row were refused.
        """
        rows_before = self.rows_in_all
        report = self.start(self.nothing(), after_lookup).finish()
        if report.diverged:
            self.progress.count_refusal(report, "a step of other ranks' click records")
        elif self.rows_in_all > rows_before:
            self.progress.refused_in_a_row = 0

    def progress_in_all(self) -> Progress:
        """The progress of all ranks together, with the reasons of refused click records; a collective."""
        mine = self.progress
        total: Progress | None = None
        for state, reasons, before in self.ranks.gather_objects(
            (mine.to_state(), dict(mine.reasons), mine.records_before)
        ):
            part = Progress.of_state(state)
            part.reasons.update(reasons)
            part.records_before = before
            if total is None:
                total = part
            else:
                total.add_up(part)
        assert total is not None  # noqa: S101  there is at least this rank
        return total

    @property
    def is_due(self) -> bool:
        """Whether a checkpoint is due, on all ranks alike."""
        is_due = self.rows_in_all - self._saved_in_all >= self.config.checkpoint_every
        return self._common is not None and is_due

    def agree_to_save(self) -> bool:
        """Whether every rank's last checkpoint is completely written, or has failed; a collective.

        If so, the ranks also tell each other what they have, so that none deletes what the others still need.
        """
        if not all(can_save for (can_save,) in self.ranks.gather([not self._is_saving])):
            return False
        if self._common is not None:
            self._common.agree()
        return True

    def capture(self) -> Captured | None:
        """As `TrainingRun.capture`; every rank captures after the same step."""
        self._saved_in_all = self.rows_in_all
        captured = super().capture()
        if captured is None:
            return None
        known = {"rank": self.ranks.rank, "world": self.ranks.world, "steps": self.steps, "rows": self.rows_in_all}
        return replace(captured, state={**captured.state, "ranks": known})
