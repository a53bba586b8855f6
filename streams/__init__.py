"""The Kafka side of hotstream: keys, records, topics, replay, the sketch agent, and subscribing.

The public names are loaded when they are first used, so `import streams` is quick and brings neither Faust nor torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streams.assignments.subscription import HotFeatureTable, subscribe
    from streams.clients.config import KafkaConfig
    from streams.keys import format_key, parse_key
    from streams.records import Assignment

__all__ = ["Assignment", "HotFeatureTable", "KafkaConfig", "format_key", "parse_key", "subscribe"]

_HOMES = {
    "Assignment": "streams.records",
    "HotFeatureTable": "streams.assignments.subscription",
    "KafkaConfig": "streams.clients.config",
    "format_key": "streams.keys",
    "parse_key": "streams.keys",
    "subscribe": "streams.assignments.subscription",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'streams' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
