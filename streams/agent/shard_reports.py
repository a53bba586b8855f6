"""What an agent reports of its shards: metrics, and lines of the log for what a user would otherwise miss."""

from __future__ import annotations

import logging
import math
from typing import Any

from sketch.changes import NO_ROW
from sketch.hotset import REVIEW_EVENTS
from sketch.recall_sample import RecallSample
from streams.agent.shard import REVIEW_MS, Shard
from streams.records import ImportanceBatch, ShardMetrics, Source

__all__ = ["ShardReports"]

logger = logging.getLogger(__name__)


class ShardReports:
    """The reports of an agent process."""

    def __init__(self) -> None:
        self._other_signals: dict[int, int] = {}
        self._quiet: set[int] = set()
        self._samples: dict[int, tuple[Shard, RecallSample]] = {}

    def metrics(self, shard: Shard) -> ShardMetrics:
        """The metrics of a shard."""
        return ShardMetrics(
            epoch=shard.epoch,
            seq=shard.seq,
            hot=shard.table.num_hot,
            max_hot=shard.max_hot,
            counted=shard.num_counted,
            repeated=shard.num_repeated,
            rejected_scores=shard.hot_set.sketch.num_rejected,
            time_outliers=shard.num_time_outliers,
            other_signals=self._other_signals.get(shard.number, 0),
            events=shard.num_events,
            promotions=shard.num_promotions,
            demotions=shard.num_demotions,
            next_offset=shard.next_offset,
            recall=self._recall(shard),
        )

    def note_counted(self, shard: Shard, batch: ImportanceBatch) -> None:
        """Adds a counted record to the sample of which the shard's recall is estimated."""
        known, sample = self._samples.get(shard.number, (None, None))
        if known is not shard or sample is None:
            sample = _make_sample(shard, is_complete=shard.num_events == len(batch.keys))
            self._samples[shard.number] = shard, sample
        moment = None if shard.clock is None else shard.clock.now_ms
        sample.add(batch.keys, batch.scores, float(shard.num_events if moment is None else moment))

    def _recall(self, shard: Shard) -> float | None:
        known, sample = self._samples.get(shard.number, (None, None))
        if known is not shard or sample is None:
            return None
        return sample.estimate(lambda keys: shard.table.lookup(keys) != NO_ROW, num_hot=shard.table.num_hot)

    def note_other_signal(self, shard: Shard, signal: str) -> None:
        """Counts a record whose signal this agent does not count; warns of the first one of a shard."""
        number = shard.number
        self._other_signals[number] = self._other_signals.get(number, 0) + 1
        if self._other_signals[number] == 1:
            logger.warning(
                "shard %d: importance with the signal %s is skipped, as this agent does not count it; start the agents "
                "with --signal %s, or with --signal both, or stop its sender",
                number, signal, signal,
            )  # fmt: skip

    def note_repeated(self, shard: Shard, source: Source) -> None:
        """Tells of a record that was counted before, each time the number of these doubles."""
        number = shard.num_repeated
        if number & (number - 1) == 0:
            logger.info(
                "shard %d: importance of %s[%d] at %d was counted before, so it is skipped; %d such records so far. "
                "After a restart of hotstream train or an agent that is as it should be; a trainer of your own numbers "
                "its steps on, over all its runs (docs/api.md)",
                shard.number, source.topic, source.partition, source.offset, number,
            )  # fmt: skip

    def warn_of_outlier(self, shard: Shard, record: Any) -> None:
        """Warns of an event time that does not count as time, each time the number of these doubles."""
        number = shard.num_time_outliers
        if number & (number - 1) == 0:
            logger.warning(
                "%s/%d, offset %d: the event time is more than a half-life from that of the records before it, so it "
                "does not advance the decay of scores; %d such records so far",
                record.topic, record.partition, record.offset, number,
            )  # fmt: skip

    def note_quiet(self, shard: Shard) -> None:
        """Explains, once, why a shard that has counted events has published no change yet."""
        if shard.num_events and not shard.num_promotions and shard.number not in self._quiet:
            self._quiet.add(shard.number)
            logger.info(
                "shard %d: %d feature events counted and no change yet: the first one comes after %d events of the "
                "shard, or with a record whose event time is %d s or more after the first one's",
                shard.number, shard.num_events, REVIEW_EVENTS, REVIEW_MS // 1000,
            )  # fmt: skip


def _make_sample(shard: Shard, *, is_complete: bool) -> RecallSample:
    hot_set = shard.hot_set
    half_life = hot_set.half_life_ms or hot_set.half_life_events or math.inf
    return RecallSample(hot_set.capacity, half_life=half_life, is_complete=is_complete)
