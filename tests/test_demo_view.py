"""The report of the demo as text: a log that is too short for a change of the hot set is not a run without words."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from trainer.demo.view import print_report


def report_of(promotions: int) -> dict[str, Any]:
    quantiles = {"p50": None, "p99": None}
    return {
        "rows": {"replayed": 9, "in_topic": 9, "trained": 9},
        "lines": {"read": 9, "bad": 0, "reasons": []},
        "importance": {"records": 2, "counted": 2},
        "hot": {"capacity": 5, "max": 0, "final": 0, "recall": 0.0},
        "changes": {"promotions": promotions, "demotions": 0},
        "latency_ms": {"event_to_assignment": quantiles},
        "auc": {"adaptive": None},
        "embedding_bytes": {"adaptive": 1, "hash": 1},
        "checks": {},
    }


@pytest.mark.parametrize(("promotions", "is_explained"), [(0, True), (3, False)])
def test_a_run_without_a_change_says_why(promotions: int, is_explained: bool) -> None:
    text = io.StringIO()
    print_report(Console(file=text, width=300), report_of(promotions))
    assert f"{promotions} promotions, 0 demotions" in text.getvalue()
    assert (
        "the first change comes after 4,096 features of click records in a shard" in text.getvalue()
    ) == is_explained
