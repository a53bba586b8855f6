"""What `hotstream train --dry-run` shows: the run that would begin, from its options and what the broker has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from streams.clients.connector import Connector
from streams.clients.recorded_fields import require_fields
from streams.keys import Field
from trainer.process.run import RunConfig
from trainer.process.topic_changes import TrainerTopics

__all__ = ["plan_run"]


def plan_run(
    kafka: Connector, run: RunConfig, fields: tuple[Field, ...], num_dense: int, *, resume: bool
) -> dict[str, Any]:
    """The figures of the run that would begin; reads, and writes nothing.

    Args:
        kafka: the broker.
        run: the configuration of the run.
        fields: the categorical columns.
        num_dense: the number of dense columns.
        resume: whether the run would resume from a checkpoint.

    Raises:
        BrokerError: no broker answers.
        PlanError: the size is invalid.
        TopicError: a topic is missing, has another number of partitions than expected, or other fields than these.
    """
    topics = TrainerTopics.read(kafka)
    require_fields(kafka, fields)
    model = run.model
    plan = model.plan(len(fields))
    partitions = {name: known.partitions for name, known in topics.identities.items()}
    return {
        "model": f"{model.model}, {len(fields)} fields of dimension {model.dim}, {num_dense} dense columns",
        "device": str(run.device),
        "embedding_bytes": plan.nbytes["total"],
        "unique_rows": plan.capacity_rows,
        "shared_rows": plan.layout.num_shared_rows,
        "row_format": model.row_format,
        "compared_with": "a plain hash table of equal size" if model.compare_hash else None,
        "broker": kafka.bootstrap_servers,
        "reads": {name: partitions[name] for name in (topics.names.clicks, topics.names.assignments)},
        "writes": {topics.names.importance: partitions[topics.names.importance], topics.names.metrics: 1},
        "begins": _begin(run.checkpoint_dir, resume=resume),
    }


def _begin(directory: Path | None, *, resume: bool) -> str:
    """From where the run would begin, and what happens to the checkpoints."""
    if directory is None:
        return "with new weights; no checkpoint is written"
    numbers = (
        sorted(int(path.name) for path in directory.glob("*") if path.name.isdigit()) if directory.is_dir() else []
    )
    if not numbers:
        return f"with new weights; checkpoints go to {directory}"
    if resume:
        return f"from checkpoint {numbers[-1]} in {directory}, if it is intact"
    return f"with new weights; --fresh deletes {len(numbers)} checkpoints in {directory}"
