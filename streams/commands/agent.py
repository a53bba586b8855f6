"""`hotstream agent`."""

from __future__ import annotations

import sys
from typing import Any

import click

from streams.cli.log_lines import log_options
from streams.cli.metrics_options import metrics_options
from streams.cli.options import kafka_options, open_kafka
from streams.cli.reports import Report, dry_run_option, json_option
from streams.cli.stop_request import StopRequest
from streams.clients.admin import create_topics, require_partitions
from streams.telemetry.monitor import Watched, open_monitor
from streams.topics import Topics

__all__ = ["command"]

_SWITCH_INTERVAL_S = 0.0002
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def _parse_half_life(text: str | None) -> dict[str, Any]:
    """The half-life as an argument of `ShardConfig`."""
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


@click.command(short_help="Run a sketch agent: reads importance, publishes assignments.")
@click.option(
    "--capacity",
    type=click.IntRange(1),
    required=True,
    metavar="FEATURES",
    help="Maximum number of hot features, all shards together.",
)
@click.option(
    "--signal",
    type=click.Choice(["gradient", "frequency", "both"]),
    default="gradient",
    show_default=True,
    help="Importance of a feature: its gradient norm from the trainer; its frequency (the agent then counts the clicks "
    "itself and needs no trainer); or the sum of both.",
)
@click.option(
    "--schema", default="criteo-kaggle", show_default=True, help="Log schema of clicks that arrive as JSON objects."
)
@click.option(
    "--buckets-per-row",
    type=float,
    default=1.0,
    show_default=True,
    metavar="BUCKETS",
    help="Sketch buckets (64 bytes, 7 slots) per hot feature; more buckets give a better recall.",
)
@click.option(
    "--half-life",
    metavar="EVENTS|TIME",
    help="Half-life of a score, in feature events or in event time (90s, 30m, 6h, 2d); with event time the scores of "
    "all shards decay alike.  [default: 1000 x capacity events]",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the sketch, the same for all agents.")
@click.option(
    "--group", default="hotstream-agent", show_default=True, help="Consumer group; its agents share the shards."
)
@click.option(
    "--snapshot-every",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    metavar="RECORDS",
    help="Importance records of a shard between two snapshots.",
)
@click.option(
    "--new-epoch",
    is_flag=True,
    help="Replace the configuration of the running agents by this one: they end, and every shard begins again with an "
    "empty table. Without it an agent with another configuration does not start.",
)
@click.option(
    "--shadow",
    metavar="NAME",
    help="Try another configuration: read the same importance, publish to topics of its own (PREFIX.shadow.NAME...), "
    "and touch nothing else. `hotstream compare NAME` shows the difference.",
)
@click.option(
    "--session-timeout",
    type=float,
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="Time without a heartbeat after which other agents take over an agent's shards.",
)
@click.option(
    "--group-instance-id",
    metavar="NAME",
    help="A name of its own for each agent (Kafka's static membership): one that comes back under it within "
    "--session-timeout keeps its shards, and the others do not notice. The shards of one that does not come back wait "
    "so long, also after SIGTERM.",
)
@dry_run_option
@kafka_options
@metrics_options
@log_options
@json_option
def command(
    capacity: int,
    signal: str,
    schema: str,
    buckets_per_row: float,
    half_life: str | None,
    seed: int,
    group: str,
    snapshot_every: int,
    new_epoch: bool,
    shadow: str | None,
    session_timeout: float,
    group_instance_id: str | None,
    dry_run: bool,
    metrics_port: int | None,
    metrics_host: str,
    json_path: str | None,
    **kafka: Any,
) -> None:
    """Run a sketch agent until it is stopped.

    The agent counts the importance topic, keeps the most important features of the stream as the hot set, and publishes
    every change of the hot set to the assignments topic. Agents with the same options share the shards (partitions).
    An agent that was killed resumes from its last snapshot, repeats the same changes with the same sequence numbers,
    and publishes those that the topic lacks.

    The only required choice is --capacity, the number of unique rows of the model; there is no threshold to tune.
    """
    from streams.agent.agreement import Agreement  # noqa: PLC0415
    from streams.agent.app import run_agent  # noqa: PLC0415 - a second to import, and not for --help
    from streams.agent.dry_run import plan_agent  # noqa: PLC0415
    from streams.agent.figures import agent_figures  # noqa: PLC0415
    from streams.agent.progress import AgentProgress  # noqa: PLC0415
    from streams.agent.shard_config import ShardConfig  # noqa: PLC0415
    from streams.agent.warm_up import compile_kernels  # noqa: PLC0415
    from streams.agent.worker import AgentConfig, AgentWorker  # noqa: PLC0415
    from streams.logs.schema import load_schema  # noqa: PLC0415

    # Faust fetches in a thread of its own; a thread that released the interpreter lock waits this long to regain it.
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    roles = ["agent"] if signal == "gradient" else ["agent", "frequency"]
    if shadow is not None:
        roles, group = ["shadow"], f"{group}.shadow.{shadow}"
        kafka["prefix"] = Topics(kafka["prefix"]).shadow(shadow).prefix
    report, request = Report("agent"), StopRequest()
    with (
        open_kafka(roles=roles, group=group, should_stop=lambda: request.is_made, **kafka) as config,
        open_monitor("agent", port=metrics_port, host=metrics_host) as monitor,
    ):
        topics = Topics(config.prefix)
        num_shards = require_partitions(config, topics.importance)
        if not dry_run:
            compile_kernels()
        if topics.is_shadow and not dry_run:
            create_topics(config, topics.specs(shards=num_shards))
        agent = AgentConfig(
            shards=ShardConfig(
                capacity=capacity,
                num_shards=num_shards,
                buckets_per_row=buckets_per_row,
                **_parse_half_life(half_life),
                seed=seed,
            ),
            signals=frozenset({"gradient", "frequency"} if signal == "both" else {signal}),
            schema=load_schema(schema),
            group=group,
            snapshot_every=snapshot_every,
            session_timeout_s=session_timeout,
            group_instance_id=group_instance_id,
        )
        agreement = Agreement(config, agent.shards, group=group, signals=agent.signals)
        if dry_run:
            report.show_plan(json_path, plan_agent(config, agent, agreement.preview(begins_epoch=new_epoch)))
            return
        agreement.join(begins_epoch=new_epoch)
        progress = AgentProgress(AgentWorker(agent, config))
        monitor.attach(
            Watched(
                connector=config,
                topic=topics.importance,
                num_partitions=num_shards,
                offsets=progress.offsets,
                figures=lambda: agent_figures(progress),
                is_started=lambda: progress.is_started,
            )
        )

        def finish(ok: bool) -> None:
            report.finish(json_path, ok=ok, **progress.report())

        run_agent(progress, config, request, on_end=finish)
