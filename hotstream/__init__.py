"""hotstream's public names: feature keys, following the hot set, sending importance, and adaptive embeddings.

docs/api.md describes them. A name is imported on first access, so `import hotstream` loads neither torch nor Kafka's
clients.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sketch.changes import Changes
    from sketch.hotset import HotSet
    from sketch.hotsketch import HotSketch
    from streams.assignments.follower import Follower, follow
    from streams.assignments.subscription import HotFeatureTable, subscribe
    from streams.bulk_keys import KeyBags, format_keys, key_bags, keys, parse_keys
    from streams.clients.config import KafkaConfig
    from streams.clients.in_memory import InMemoryBroker
    from streams.importance_sender import ImportanceSender, importance_sender
    from streams.keys import Field
    from streams.logs.schema import LogSchema, load_schema
    from streams.records import Assignment
    from trainer.embedding.adaptive import AdaptiveEmbedding
    from trainer.embedding.bags import AdaptiveEmbeddingBag
    from trainer.embedding.lookup import Importance
    from trainer.embedding.migration import MigrationReport
    from trainer.embedding.plans import EmbeddingPlan, plan, plan_for_capacity
    from trainer.embedding.stores.rows import RowOptimizer
    from trainer.serving.export import load_export
    from trainer.serving.served import ServedEmbedding, ServedModel

__all__ = [
    "AdaptiveEmbedding",
    "AdaptiveEmbeddingBag",
    "Assignment",
    "Changes",
    "EmbeddingPlan",
    "Field",
    "Follower",
    "HotFeatureTable",
    "HotSet",
    "HotSketch",
    "Importance",
    "ImportanceSender",
    "InMemoryBroker",
    "KafkaConfig",
    "KeyBags",
    "LogSchema",
    "MigrationReport",
    "RowOptimizer",
    "ServedEmbedding",
    "ServedModel",
    "follow",
    "format_keys",
    "importance_sender",
    "key_bags",
    "keys",
    "load_export",
    "load_schema",
    "parse_keys",
    "plan",
    "plan_for_capacity",
    "subscribe",
]

_NAMES_OF = {
    "sketch.changes": ("Changes",),
    "sketch.hotset": ("HotSet",),
    "sketch.hotsketch": ("HotSketch",),
    "streams.assignments.follower": ("Follower", "follow"),
    "streams.assignments.subscription": ("HotFeatureTable", "subscribe"),
    "streams.bulk_keys": ("KeyBags", "format_keys", "key_bags", "keys", "parse_keys"),
    "streams.clients.config": ("KafkaConfig",),
    "streams.clients.in_memory": ("InMemoryBroker",),
    "streams.importance_sender": ("ImportanceSender", "importance_sender"),
    "streams.keys": ("Field",),
    "streams.logs.schema": ("LogSchema", "load_schema"),
    "streams.records": ("Assignment",),
    "trainer.embedding.adaptive": ("AdaptiveEmbedding",),
    "trainer.embedding.bags": ("AdaptiveEmbeddingBag",),
    "trainer.embedding.lookup": ("Importance",),
    "trainer.embedding.migration": ("MigrationReport",),
    "trainer.embedding.plans": ("EmbeddingPlan", "plan", "plan_for_capacity"),
    "trainer.embedding.stores.rows": ("RowOptimizer",),
    "trainer.serving.export": ("load_export",),
    "trainer.serving.served": ("ServedEmbedding", "ServedModel"),
}
_HOMES = {name: module for module, names in _NAMES_OF.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hotstream' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
