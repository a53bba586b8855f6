"""The Kafka side of hotstream: keys, records, topics, replay, the sketch agent, and subscribing.

Public names load on first use, so that `import streams` is fast and imports neither Faust nor torch.
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

_MODULES = {
    "Assignment": "streams.records",
    "HotFeatureTable": "streams.assignments.subscription",
    "KafkaConfig": "streams.clients.config",
    "format_key": "streams.keys",
    "parse_key": "streams.keys",
    "subscribe": "streams.assignments.subscription",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'streams' has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value
