"""`hotstream topics create|describe`."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console
from rich.table import Table

from streams.cli.options import kafka_options, open_kafka
from streams.cli.reports import Report, json_option
from streams.clients.admin import TopicState, create_topics, describe_topics
from streams.topics import Topics, TopicSpec

__all__ = ["command"]


@click.group(short_help="Create or describe hotstream's topics.")
def command() -> None:
    """Create or describe hotstream's topics, with explicit partitions and cleanup policies."""


def _finish(name: str, states: list[TopicState], json_path: str | None) -> None:
    ok = not any(state.problems for state in states)
    table = Table("topic", "partitions", "cleanup", "state", box=None)
    for state in states:
        verdict = "; ".join(state.problems) or ("created" if state.created else "ok")
        table.add_row(state.spec.name, str(state.partitions or "-"), state.spec.cleanup, verdict)
    Console(stderr=json_path == "-").print(table)
    topics = [
        {
            "topic": state.spec.name,
            "partitions": state.partitions,
            "cleanup": state.spec.cleanup,
            "created": state.created,
            "problems": list(state.problems),
        }
        for state in states
    ]
    Report(f"topics {name}").finish(json_path, ok=ok, topics=topics)
    if not ok:
        raise click.exceptions.Exit(1)


_partitions = click.option(
    "--partitions",
    type=click.IntRange(1, 10_000),
    default=4,
    show_default=True,
    help="Number of partitions of `clicks`.",
)
_shards = click.option(
    "--shards",
    type=click.IntRange(1, 10_000),
    default=2,
    show_default=True,
    help="Number of partitions of `importance`, `assignments` and `sketch-snapshots`; fixed once they exist.",
)


_embeddings = click.option(
    "--embeddings", is_flag=True, help="Also `embeddings`, which `hotstream train --publish` writes."
)


def _specs(prefix: str, partitions: int, shards: int, *, embeddings: bool) -> list[TopicSpec]:
    topics = Topics(prefix)
    specs = topics.specs(click_partitions=partitions, shards=shards)
    return [*specs, topics.embeddings_spec(shards=shards)] if embeddings else specs


@command.command()
@_partitions
@_shards
@_embeddings
@click.option(
    "--replication-factor",
    type=int,
    default=-1,
    metavar="REPLICAS",
    help="Replicas of each partition.  [default: the broker's default]",
)
@kafka_options
@json_option
def create(
    partitions: int, shards: int, embeddings: bool, replication_factor: int, json_path: str | None, **kafka: Any
) -> None:
    """Create missing topics. Existing topics are not changed; exit 1 if one has other settings than required."""
    with open_kafka(**kafka) as config:
        specs = _specs(config.prefix, partitions, shards, embeddings=embeddings)
        _finish("create", create_topics(config, specs, replication_factor=replication_factor), json_path)


@command.command()
@_partitions
@_shards
@_embeddings
@kafka_options
@json_option
def describe(partitions: int, shards: int, embeddings: bool, json_path: str | None, **kafka: Any) -> None:
    """Compare the topics with their required settings; exit 1 if one is missing or differs."""
    with open_kafka(**kafka) as config:
        specs = _specs(config.prefix, partitions, shards, embeddings=embeddings)
        _finish("describe", describe_topics(config, specs), json_path)
