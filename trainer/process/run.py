"""`TrainingRun`: a training run without Kafka, from click records and assignments to importance and checkpoints.

It holds the whole state of a checkpoint, and so resumes from one: the trainer, the offsets of each topic, the applied
history of each shard, the journal and the figures of the report.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from sketch.changes import Changes
from streams.assignments.columns import Fetch
from streams.assignments.history import History, Outcome
from streams.keys import Field
from streams.records import BadRecord, ClickBatch
from trainer.embedding.lookup import Importance
from trainer.errors import CheckpointError, RankError
from trainer.learning.building import build_trainer
from trainer.learning.quality import Windows
from trainer.learning.trainer import ADAPTIVE, HASH, StartedStep, Trainer
from trainer.process.checkpoint import Captured, Checkpoint, Checkpoints, in_order
from trainer.process.click_columns import Columns, compare_columns, fit_columns
from trainer.process.directory_lock import DirectoryLock
from trainer.process.history_tensors import history_arrays, history_tensors
from trainer.process.journal import Journal
from trainer.process.progress import Progress
from trainer.process.run_config import RunConfig
from trainer.process.topic_changes import Resumption, TrainerTopics, find_differences

__all__ = ["RunConfig", "TrainingRun"]

logger = logging.getLogger(__name__)


class TrainingRun:
    """The state of a run; the trainer is built when the first batch shows its columns, or from a checkpoint.

    Args:
        config: the configuration of the run.
        num_shards: partitions of the assignments topic.
        resume: whether to resume from the newest valid checkpoint; otherwise the directory's checkpoints are deleted.
        topics: the topics of the offsets; None if these are not those of Kafka.
        columns: the fields and the number of dense columns to train; None for those of the first batch.

    Attributes:
        resumption: how the run continues from its checkpoint.
        started_ms: when it was opened, in milliseconds since 1970.

    Raises:
        CheckpointError: all checkpoints are damaged, the newest valid one has another configuration, or the directory
            is in use or cannot be written.
        TopicError: the number of shards is not that of the checkpoint.
    """

    _is_sliced = False  # whether each shard has rows of its own

    def __init__(
        self,
        config: RunConfig,
        num_shards: int,
        *,
        resume: bool = True,
        topics: TrainerTopics | None = None,
        columns: Columns | None = None,
    ) -> None:
        self.config = config
        self.topics, self.resumption = topics, Resumption()
        names = [ADAPTIVE, HASH] if config.model.compare_hash else [ADAPTIVE]
        self.progress = Progress(Windows(names, config.window_rows))
        self._num_shards = num_shards
        self.history = History(num_shards)
        self._replaced: History | None = None
        self.trainer: Trainer | None = None
        self.offsets: dict[str, dict[int, int]] = {"clicks": {}, "assignments": {}}
        self.resumed_rows, self.started_ms = 0, time.time_ns() // 1_000_000
        self._columns = columns
        self._shape: Columns | None = None
        self._rows_saved = 0
        self._is_saving = False
        self._checkpoints: Checkpoints | None = None
        self._lock: DirectoryLock | None = None
        self.journal = Journal(None)
        if config.checkpoint_dir is not None:
            self._open(config.checkpoint_dir, resume=resume)

    def _open(self, directory: Path, *, resume: bool) -> None:
        """Locks the directory, and loads its newest checkpoint and journal, or clears it."""
        try:
            self._checkpoints = self._open_checkpoints(directory)
            self._lock = DirectoryLock(directory)
            checkpoint = self._checkpoints.load() if resume else None
            if not resume:
                self._checkpoints.clear()
            self.journal = Journal(directory, self._load(checkpoint) if checkpoint else 0)
            if self.resumption.drops_journal and (dropped := self.journal.drop()):
                logger.warning("%d events of the journal refer to the old topic; they are dropped", dropped)
            if not resume:
                self.journal.clear()
        except OSError as error:
            self.close()
            if isinstance(error, RankError):  # another rank's end, which is no failure of the disk
                raise
            raise CheckpointError(
                f"--checkpoint-dir {directory}: cannot be used ({error}); choose a directory that can be written"
            ) from error
        except BaseException:
            self.close()
            raise

    def _open_checkpoints(self, directory: Path) -> Checkpoints:
        if any(directory.glob("rank-*-of-*")):
            raise CheckpointError(
                f"--checkpoint-dir {directory}: trained with torchrun; go on with `torchrun --nproc-per-node 1`, or "
                "choose another directory"
            )
        return Checkpoints(directory, keep=self.config.keep_checkpoints)

    def close(self) -> None:
        """Closes the journal, and releases the directory to other trainers."""
        self.journal.close()
        if self._lock is not None:
            self._lock.release()

    def _load(self, checkpoint: Checkpoint) -> int:
        state = checkpoint.state
        fields = tuple(Field(*pair) for pair in state["config"]["fields"])
        num_dense = int(state["config"]["num_dense"])
        if self._columns is not None and (reason := compare_columns((fields, num_dense), self._columns)) is not None:
            raise CheckpointError(
                f"{checkpoint.path}: {reason} as in --schema: use the schema that it was trained with, another "
                "--checkpoint-dir, or --fresh to start over"
            )
        mine = self.config.model.describe(fields, num_dense)
        for name, saved in state["config"].items():
            if mine[name] != saved:
                raise CheckpointError(
                    f"{checkpoint.path} has {name} {saved!r}, expected {mine[name]!r} as in this run: use the same "
                    "options, another --checkpoint-dir, or --fresh to start over"
                )
        if self.topics is not None:
            self.resumption = self.topics.resume(state["topics"], state["history"], age_s=checkpoint.age_s)
        self.history = History(len(state["history"]["shards"]))
        self._build(fields, num_dense).load_tensors(checkpoint.tensors)
        torch.set_rng_state(checkpoint.tensors["rng"])
        self.progress.load_state(state["progress"])
        self.history.load(state["history"], history_arrays(checkpoint.tensors))
        for topic, offsets in state["offsets"].items():
            self.offsets[topic] = {int(number): int(offset) for number, offset in offsets.items()}
        self._follow_topics()
        self._rows_saved = self.resumed_rows = self.progress.rows
        logger.info("resumes from %s: %d rows trained", checkpoint.path, self.progress.rows)
        return int(state["event"])

    def _follow_topics(self) -> None:
        """Forgets the offsets of topics that were made again."""
        for note in self.resumption.notes:
            logger.warning("%s", note)
        if self.resumption.clicks_again:
            self.offsets["clicks"] = {}
        if self.resumption.assignments_again:
            self.offsets["assignments"] = {}
            self._replaced, self.history = self.history, History(self._num_shards)
            self._bound_history()
        elif len(self.history.shards) != self._num_shards:
            raise CheckpointError(
                f"the checkpoint has {len(self.history.shards)} shards, expected {self._num_shards} as in this topic: "
                "use another --checkpoint-dir, or --fresh to start over"
            )

    def end_replacement(self) -> None:
        """Makes the model's hot set that of the new history, after the records of a topic that was made again.

        Until then `apply` changes the history alone; so features that are hot in both keep their vectors.
        """
        if self._replaced is None or self.trainer is None:
            return
        changes, self._replaced = find_differences(self._replaced, self.history), None
        self.progress.add_applied(self.trainer.migrate(changes))

    def _bound_history(self) -> None:
        if self.trainer is not None and self._shape is not None:
            rows = self.trainer.embedding.plan.capacity_rows
            self.history.bound(num_rows=rows, num_fields=len(self._shape[0]), is_sliced=self._is_sliced)

    def _build(self, fields: tuple[Field, ...], num_dense: int) -> Trainer:
        self._shape = (fields, num_dense)
        self.trainer = self._make_trainer(fields, num_dense)
        self._bound_history()
        embedding, model = self.trainer.embedding, self.config.model
        logger.info(
            "%s, %d fields of dimension %d on %s: %d unique rows (the agent's --capacity) of %d, embedding %.1f MB",
            model.model, len(fields), model.dim, self.config.device, embedding.plan.capacity_rows,
            embedding.plan.layout.num_rows, embedding.nbytes["total"] / 1e6,
        )  # fmt: skip
        return self.trainer

    def _make_trainer(self, fields: tuple[Field, ...], num_dense: int) -> Trainer:
        return build_trainer(self.config.model, fields, num_dense, self.config.device)

    @property
    def shape(self) -> Columns:
        """The model's fields and its number of dense columns.

        Raises:
            CheckpointError: there is no model yet.
        """
        if self._shape is None:
            raise CheckpointError("no click record was trained yet, so there is no model")
        return self._shape

    @property
    def trained_rows(self) -> int:
        """The rows that the model has seen."""
        return self.progress.rows

    def fit(self, batch: ClickBatch | BadRecord) -> ClickBatch | BadRecord:
        """The batch with the model's columns, or the reason why it cannot be trained (`fit_columns`)."""
        return batch if isinstance(batch, BadRecord) else fit_columns(batch, self._shape or self._columns)

    def train(
        self, batch: ClickBatch, after_lookup: Callable[[], None] | None = None, *, name: str = "a batch"
    ) -> Importance | None:
        """Predicts the batch, counts the predictions, and learns from it; `after_lookup` as in `Trainer.start`.

        A step whose loss or gradients are not finite changes nothing, is counted as refused, and returns None.

        Args:
            batch: the click rows.
            after_lookup: called after the lookup.
            name: the name of the batch in messages.

        Raises:
            DivergedError: several steps in a row were refused.
        """
        report = self.start(batch, after_lookup).finish()
        return report.importance if self.progress.count_step(report, batch, 1, name) else None

    def start(
        self,
        batch: ClickBatch,
        after_lookup: Callable[[], None] | None = None,
        *,
        record_rows: Sequence[int] | None = None,
    ) -> StartedStep:
        """As `Trainer.start`; builds the trainer of the batch's columns if there is none yet. Counts nothing."""
        trainer = self.trainer or self._build(batch.fields, len(batch.dense_names))
        return trainer.start(batch, after_lookup, record_rows=record_rows)

    def apply(self, fetches: Sequence[Fetch]) -> list[Outcome]:
        """Applies the assignment records that count as one batch; returns the outcome of each fetch.

        Raises:
            CheckpointError: there is no model yet.
        """
        if self.trainer is None:
            raise CheckpointError("assignments before the first click record: there is no model to apply them to")
        outcomes = [self.history.take(fetch) for fetch in fetches]
        if self._replaced is not None:
            return outcomes
        report = self.trainer.migrate(Changes.concatenate([outcome.changes for outcome in outcomes]))
        self.progress.add_applied(report, fetches)
        return outcomes

    @property
    def wants_checkpoint(self) -> bool:
        """Whether a checkpoint is due and the last one is completely written."""
        is_due = self.progress.rows - self._rows_saved >= self.config.checkpoint_every
        return self._checkpoints is not None and is_due and not self._is_saving

    def capture(self) -> Captured | None:
        """Copies the state of a checkpoint; None without a directory or a model, or if the disk fails (a warning)."""
        if self._checkpoints is None or self.trainer is None or self._shape is None:
            return None
        self._rows_saved = self.progress.rows
        try:
            self.journal.start_file()
        except OSError as error:
            self._count_failure(error)
            return None
        self._is_saving = True
        state: dict[str, Any] = {
            "event": self.journal.last_event,
            "config": self.config.model.describe(*self._shape),
            "progress": self.progress.to_state(),
            "history": self.history.to_state(),
            "offsets": self.offsets,
            "topics": self.topics.to_state() if self.topics is not None else {},
        }
        tensors = {name: tensor.detach().clone() for name, tensor in self.trainer.unsorted_tensors().items()}
        tensors["rng"] = torch.get_rng_state()
        tensors |= history_tensors(self.history)
        return Captured(self.journal.last_event, tensors, copy.deepcopy(state))

    def write(self, captured: Captured) -> None:
        """Writes a captured state; may be called in any thread. A failure of the disk is logged and counted.

        The broker must have acknowledged the importance of all rows in it before.

        Raises:
            DivergedError: a number is not finite.
        """
        assert self._checkpoints is not None  # noqa: S101  `capture` has checked it
        try:
            self._checkpoints.save(captured.event, in_order(captured.tensors), captured.state)
            self.progress.note_saved()
            self.journal.forget(int(self._checkpoints.paths()[-1].name))
        except OSError as error:
            self._count_failure(error)
        finally:
            self._is_saving = False

    def _count_failure(self, error: OSError) -> None:
        self.progress.failed_checkpoints += 1
        logger.warning(
            "no checkpoint was written (%s); the last one is kept, and the next one is due after %d more rows",
            error, self.config.checkpoint_every,
        )  # fmt: skip

    def checkpoint(self) -> None:
        """Captures and writes a checkpoint, if there is a directory and a model.

        Raises:
            CheckpointError: the disk fails.
            DivergedError: a number is not finite.
        """
        failed = self.progress.failed_checkpoints
        captured = self.capture()
        if captured is not None:
            self.write(captured)
        if self.progress.failed_checkpoints > failed:
            raise CheckpointError(
                f"--checkpoint-dir {self.config.checkpoint_dir}: the checkpoint at the end was not written; the next "
                "start continues from the last one and repeats the rows after it"
            )
