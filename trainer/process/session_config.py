"""`SessionConfig`: what a trainer's process reads, trains and writes, and when it stops."""

from __future__ import annotations

from dataclasses import dataclass, field

from streams.clients.connector import Connector
from streams.keys import Field
from trainer.process.click_steps import BatchSize
from trainer.process.publication import PublishConfig
from trainer.process.run_config import RunConfig

__all__ = ["SessionConfig"]


@dataclass(frozen=True, kw_only=True)
class SessionConfig:
    """The configuration of a session.

    Args:
        kafka: the broker.
        run: the configuration of the run.
        fields: the categorical columns of the clicks; a record with others is dead-lettered (`fit_columns`).
        dense_names: the dense columns.
        resume: whether to resume from the newest valid checkpoint.
        batch: the rows of a step.
        limit_rows: the number of trained rows to stop at, after a whole click record; None for no limit.
        idle_timeout_s: the time without new clicks after which to stop; None for never.
        metrics_interval_s: the time between two records to the metrics topic.
        log_interval_s: the time between two lines in the log.
        topics_interval_s: the time between two comparisons of the topics with those that training began with.
        publish: how to publish the rows for replicas; None for not at all.
    """

    kafka: Connector
    run: RunConfig
    fields: tuple[Field, ...]
    dense_names: tuple[str, ...]
    resume: bool = True
    batch: BatchSize = field(default_factory=BatchSize)
    limit_rows: int | None = None
    idle_timeout_s: float | None = None
    metrics_interval_s: float = 1.0
    log_interval_s: float = 5.0
    topics_interval_s: float = 3.0
    publish: PublishConfig | None = None
