"""`hotstream agent`."""

from __future__ import annotations

import logging
import sys
from typing import Any

import click

from streams.cli.options import kafka_options, open_kafka
from streams.clients.admin import require_partitions
from streams.topics import Topics

__all__ = ["command"]

_SWITCH_INTERVAL_S = 0.0002
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def _parse_half_life(text: str | None) -> dict[str, Any]:
    """What `ShardConfig` calls it."""
    if text is None:
        return {}
    unit = _SECONDS.get(text[-1:])
    try:
        return {"half_life_events": float(text)} if unit is None else {"half_life_s": float(text[:-1]) * unit}
    except ValueError:
        raise click.BadParameter(
            f"got {text!r}, expected a number of events, or a time such as 90s, 30m, 6h or 2d",
            param_hint="--half-life",
        ) from None


@click.command(short_help="Run a sketch agent: importance in, assignment changes out.")
@click.option(
    "--capacity", type=click.IntRange(1), required=True, metavar="ROWS", help="Hot features over all shards, at most."
)
@click.option(
    "--signal",
    type=click.Choice(["gradient", "frequency", "both"]),
    default="gradient",
    show_default=True,
    help="What importance is: the trainer's gradient norms, or how often a feature occurs (then this agent counts the "
    "clicks itself, and no trainer is needed), or the sum of both.",
)
@click.option("--schema", default="criteo-kaggle", show_default=True, help="How single clicks in JSON are read.")
@click.option(
    "--warm-ratio",
    type=float,
    default=0.0,
    show_default=True,
    help="Warm features published for each hot one; the trainer uses none.",
)
@click.option(
    "--buckets-per-row",
    type=float,
    default=1.0,
    show_default=True,
    help="Sketch buckets (64 bytes, 7 slots) for each hot row; more memory here is better recall.",
)
@click.option(
    "--half-life",
    metavar="EVENTS|TIME",
    help="After how many feature events, or how much event time (90s, 30m, 6h, 2d), a score counts half; with a time "
    "all shards fade alike.  [default: 1000 x capacity events]",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--group", default="hotstream-agent", show_default=True, help="Agents of one group share the shards.")
@click.option(
    "--snapshot-every",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    metavar="RECORDS",
    help="A shard's importance records between two snapshots.",
)
@click.option(
    "--session-timeout",
    type=float,
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="After how long the shards of a silent agent go to the others.",
)
@kafka_options
def command(
    capacity: int,
    signal: str,
    schema: str,
    warm_ratio: float,
    buckets_per_row: float,
    half_life: str | None,
    seed: int,
    group: str,
    snapshot_every: int,
    session_timeout: float,
    **kafka: Any,
) -> None:
    """Run a sketch agent until it is stopped.

    It counts the importance topic, keeps the top features of the stream as the hot set, and publishes every change of
    it to the assignments topic. Start as many as you like with the same options: they share the shards (partitions).
    Killed at any moment, it goes on from its last snapshot, makes the same changes with the same numbers, and writes
    those that the topic lacks.

    The only thing to choose is --capacity, the rows that the model has for hot features: there is no threshold.
    """
    from faust import Worker  # noqa: PLC0415 - a second to import, and not for --help

    from streams.agent.app import create_app  # noqa: PLC0415
    from streams.agent.shard import ShardConfig, compile_kernels  # noqa: PLC0415
    from streams.agent.worker import AgentConfig  # noqa: PLC0415
    from streams.logs.schema import load_schema  # noqa: PLC0415

    compile_kernels()
    # Faust reads in a thread of its own: whoever has let go of the interpreter's lock waits so long to have it back.
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    with open_kafka(**kafka) as config:
        num_shards = require_partitions(config, Topics(config.prefix).importance)
        agent = AgentConfig(
            kafka=config,
            shards=ShardConfig(
                capacity=capacity,
                num_shards=num_shards,
                warm_ratio=warm_ratio,
                buckets_per_row=buckets_per_row,
                **_parse_half_life(half_life),
                seed=seed,
            ),
            signals=frozenset({"gradient", "frequency"} if signal == "both" else {signal}),
            schema=load_schema(schema),
            group=group,
            snapshot_every=snapshot_every,
            session_timeout_s=session_timeout,
        )
        for noisy in ("faust", "streams.agent.own_offsets"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        logging.getLogger("mode").setLevel(logging.WARNING)
        Worker(create_app(agent), override_logging=False, redirect_stdouts=False, quiet=True).execute_from_commandline()
