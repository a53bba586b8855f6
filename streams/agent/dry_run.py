"""What `hotstream agent --dry-run` shows: the agent that would begin, from its options and what the broker has."""

from __future__ import annotations

from typing import Any

from streams.agent.worker import AgentConfig
from streams.clients.connector import Connector
from streams.topics import Topics

__all__ = ["plan_agent"]


def plan_agent(kafka: Connector, agent: AgentConfig, agreement: str) -> dict[str, Any]:
    """The figures of the agent that would begin; reads and writes nothing.

    Args:
        kafka: the broker.
        agent: the configuration.
        agreement: how it stands to the configuration of the other agents.
    """
    topics, shards = Topics(kafka.prefix), agent.shards
    hot_set = shards.make_hot_set(0)
    counts_clicks = "frequency" in agent.signals
    half_life = f"{hot_set.half_life_events or 0:,.0f} feature events of a shard"
    if hot_set.half_life_ms is not None:
        half_life = f"{hot_set.half_life_ms / 1000:,.0f} s of event time"
    return {
        "capacity": shards.capacity,
        "shards": shards.num_shards,
        "bytes": hot_set.nbytes * shards.num_shards,
        "half_life": half_life,
        "signals": ", ".join(sorted(agent.signals)),
        "group": agent.group,
        "broker": kafka.bootstrap_servers,
        "reads": ", ".join([*([topics.clicks] if counts_clicks else []), topics.importance, topics.control]),
        "writes": ", ".join([
            *([topics.importance] if counts_clicks else []),
            topics.assignments, topics.snapshots, topics.metrics, topics.control,
        ]),
        "snapshots": f"every {agent.snapshot_every} importance records of a shard",
        "configuration": agreement,
    }  # fmt: skip
