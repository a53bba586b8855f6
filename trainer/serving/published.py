"""`Published`: what a run had published when its model was exported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Published"]


@dataclass(frozen=True, kw_only=True)
class Published:
    """The state of the topic `embeddings` that an export is consistent with.

    Args:
        shape: the shape that was published, as `ServedShape.to_json`.
        topic_id: the id of the topic; None if the broker has none.
        offsets: the offset after the last record of each partition: what comes before it is not newer than the export.
    """

    shape: Mapping[str, Any]
    topic_id: str | None
    offsets: Mapping[int, int]
