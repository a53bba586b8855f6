"""`RankedSession`: the process of one of several ranks that `torchrun` has started.

each rank   its assignments --> changes between two steps, in an order of its own (journaled)
            its clicks      --> a record of the next step, or none
all ranks   tell each other who has clicks, and make the step together; or stop together
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from streams.clients.topic_feed import Taken
from streams.records import ClickBatch
from trainer.embedding.lookup import Importance
from trainer.errors import PlanError
from trainer.process.click_steps import ClickSteps
from trainer.process.journal import Apply, Correct
from trainer.process.progress import Progress
from trainer.process.ranked_run import RankedRun
from trainer.process.reports import describe_progress
from trainer.process.run import TrainingRun
from trainer.process.session import IDLE_POLL_MS, Session, logger
from trainer.process.session_config import SessionConfig
from trainer.ranks.group import Ranks
from trainer.serving.published import Published

__all__ = ["RankedSession", "compare_options"]


class _RankedSteps(ClickSteps):
    """The steps of all ranks: this one's click records, or none.

    While one computes, the keys of the next one travel; its records are then decided, but not taken.

    Attributes:
        looks_ahead: whether the next step follows the feed; the journal's steps do not.
    """

    looks_ahead = False
    _next: list[Taken] | None = None  # whose keys travel

    def upcoming(self) -> list[Taken]:
        """The records of the next step, which stay in the feed until `take_upcoming`."""
        return list(islice(self._clicks.in_order(), self.count())) if self._next is None else self._next

    def take_upcoming(self, upcoming: Sequence[Taken]) -> None:
        """Takes the records that `upcoming` has returned, whatever has come since."""
        self._next = None
        for one in upcoming:
            self._clicks.take(one.record.partition)

    def drop(self) -> None:
        """Forgets the next step, as no rank has any records for it, or there is none; a collective."""
        self._next = None
        self._ranked.drop_ahead()

    def _after_lookup(self) -> None:
        super()._after_lookup()
        if self.looks_ahead:
            self._next = self.upcoming()
            fitted = [self._run.fit(one.decoded) for one in self._next]
            self._ranked.send_ahead([one for one in fitted if isinstance(one, ClickBatch)])

    @property
    def _ranked(self) -> RankedRun:
        assert isinstance(self._run, RankedRun)  # noqa: S101  the session made it
        return self._run

    def train(self, taken: Sequence[Taken]) -> None:
        """As `ClickSteps.train`, of all ranks; none of this one's records may be left to train."""
        if records := self._fit_all(taken):
            self._start(records)
            return
        self._ranked.train_nothing(self._after_lookup)


class RankedSession(Session):
    """As `Session`, for the shards and click partitions of one rank; all ranks step, checkpoint and stop together.

    A rank without clicks waits only while no rank has any. `limit_rows` counts the rows of all ranks.

    Args:
        config: the configuration, the same for every rank.
        ranks: this rank and the others.
        should_stop: called between steps; if one rank is asked to stop, all do.
        on_progress: called after every step of this rank's click records.

    Raises:
        PlanError: ranks do not support an option, have different ones, or there are fewer partitions than ranks.
        RankError: another rank has ended.
    """

    _steps_class = _RankedSteps
    _steps: _RankedSteps
    run: RankedRun

    def __init__(
        self,
        config: SessionConfig,
        ranks: Ranks,
        *,
        should_stop: Callable[[], bool] = lambda: False,
        on_progress: Callable[[TrainingRun], None] = lambda _run: None,
    ) -> None:
        self._ranks = ranks
        compare_options(config, ranks)
        super().__init__(config, should_stop=should_stop, on_progress=on_progress)

    def _open_run(self) -> TrainingRun:
        config, names = self._config, self._topics.names
        for topic in (names.clicks, names.assignments):
            if (found := self._partitions[topic]) < self._ranks.world:
                raise PlanError(
                    f"{topic}: {found} partitions for {self._ranks.world} ranks, expected at least one for each: start "
                    "fewer ranks, or make the topics with more partitions"
                )
        columns = config.fields, len(config.dense_names)
        shards = self._partitions[names.assignments]
        return RankedRun(config.run, shards, self._ranks, columns, resume=config.resume, topics=self._topics)

    def _is_mine(self, partition: int) -> bool:
        return self._ranks.owns(partition)

    def _repeat(self) -> None:
        """Repeats the journal, which has the same steps on all ranks; a request to stop waits for its end."""
        repeated = 0
        while (event := self.run.journal.next_scripted()) is not None:
            repeated += 1
            if isinstance(event, Apply | Correct):
                self._changes.repeat(event)
            else:
                self._steps.repeat(event)
                self._between_steps()
        if repeated:
            logger.info("repeated %d events of the journal; %d rows trained", repeated, self.run.progress.rows)

    def _follow(self) -> None:
        """Applies changes as they arrive, and trains clicks with the other ranks."""
        self._steps.looks_ahead = self._ranks.world > 1
        self._follow_together()
        self._steps.drop()

    def _follow_together(self) -> None:
        came_s, is_idle = time.monotonic(), False
        while not self._has_reached_limit:
            self._follow_changes()
            can_train = self._clicks.num_waiting and not self._steps.is_collecting
            self._clicks.fetch(IDLE_POLL_MS if is_idle and not can_train else 0)
            upcoming = self._steps.upcoming()
            mine = [bool(upcoming), self._is_stopped, not upcoming and self._has_ended(came_s)]
            have_clicks, are_stopped, have_ended = zip(*self._ranks.gather(mine), strict=True)
            if any(are_stopped):
                return
            is_idle = not any(have_clicks)
            if not is_idle:
                started_s = time.perf_counter()
                self._steps.take_upcoming(upcoming)
                self._steps.begin(upcoming)
                self._pacer.note_step(time.perf_counter() - started_s)
                came_s = time.monotonic()
            else:
                self._steps.drop()
                self._outbox.release()
                if all(have_ended):
                    return
            self._between_steps()

    @property
    def _has_reached_limit(self) -> bool:
        limit = self._config.limit_rows
        return limit is not None and self.run.rows_in_all >= limit

    def _between_steps(self) -> None:
        self._writer.check()
        self._take_changes(self._watch.take())
        if self.run.is_due and self.run.agree_to_save():
            self._checkpoint()
        self._publication.publish()
        self._report_progress()

    def _note_trained(self, importance: Importance) -> None:
        """Nothing: the owners of the rows note what they learn (`RankedEmbedding.on_learned`)."""

    def _report_progress(self, *, force: bool = False) -> None:
        """Each rank writes lines to the log; only rank 0 sends metrics, which are those of its own rows."""
        metrics = self.reports.take_due(self._clicks, force=force)
        if metrics is not None and self._ranks.rank == 0:
            self._outbox.send_metrics(metrics)

    def report_all(self) -> tuple[dict[str, Any], Progress]:
        """The figures of the final report, and the progress, over all ranks; a collective."""
        mine, total = self.report(), self.run.progress_in_all()
        every = self._ranks.gather_objects(mine)
        self.published = self._join_published()
        content = {
            **mine,
            **describe_progress(total),
            "rows": {"trained": total.rows, "resumed_from": sum(one["rows"]["resumed_from"] for one in every)},
            "assignments": _add_verdicts([one["assignments"] for one in every]),
            "hot_rows": sum(one["hot_rows"] for one in every),
            "applied_seq": {shard: seq for one in every for shard, seq in one["applied_seq"].items()},
            "offsets": {
                topic: {number: offset for one in every for number, offset in one["offsets"][topic].items()}
                for topic in mine["offsets"]
            },
            **_add_published([one["published"] for one in every if "published" in one]),
            "ranks": [{"rows": one["rows"]["trained"], "steps": self.run.steps} for one in every],
        }
        return content, total

    def _join_published(self) -> Published | None:
        """What all ranks have published, each to the partitions of its shards; None if one has not."""
        mine = self.published
        offsets = self._ranks.gather_objects(None if mine is None else list(mine.offsets.items()))
        if mine is None or any(one is None for one in offsets):
            return None
        return replace(mine, offsets={number: end for one in offsets for number, end in one or ()})

    def leave(self) -> None:
        """Closes the connections to the other ranks."""
        self._ranks.leave()


def compare_options(config: SessionConfig, ranks: Ranks) -> None:
    """Checks that all ranks have the same options; a collective.

    Raises:
        PlanError: two ranks differ in an option.
    """
    run = config.run
    options = {
        **vars(run.model),
        "checkpoint_every": run.checkpoint_every,
        "keep_checkpoints": run.keep_checkpoints,
        "checkpoints": run.checkpoint_dir is not None,
        "resume": config.resume,
        "limit_rows": config.limit_rows,
        "batch": config.batch,
        "fields": config.fields,
        "dense_names": config.dense_names,
        "publish": config.publish,
    }
    first, *others = ranks.gather_objects({name: str(value) for name, value in options.items()})
    for rank, other in enumerate(others, 1):
        for name, expected in first.items():
            if other[name] != expected:
                raise PlanError(
                    f"{name}: rank {rank} has {other[name]}, rank 0 has {expected}; start all ranks with the same "
                    "options"
                )


def _add_published(every: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all ranks have published; nothing without --publish."""
    if not every:
        return {}
    lag = {name: sum(one["lag"][name] for one in every) for name in every[0]["lag"]}
    return {"published": {**{name: sum(one[name] for one in every) for name in ("bytes", "records")}, "lag": lag}}


def _add_verdicts(every: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The counts of all ranks' assignments, and whether every table equals its agent's."""
    verdicts = {one["verified"] for one in every}
    verified = False if False in verdicts else None if None in verdicts else True
    counts = {name: sum(one[name] for one in every) for name in every[0] if name != "verified"}
    return {"verified": verified, **counts}
