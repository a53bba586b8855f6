"""The vectors of clicks: Arrow batches and single clicks, with and without further values and weights, and counts."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np

from streams.importance import count_keys
from streams.keys import Field, make_key
from streams.records import JSON, ClickBatch, MoreValues, decode_clicks, encode_clicks

FIELDS = (Field("C1", "hex32"), Field("site"))
TIME_MS = 1_700_000_000_000
_CLICKS: list[dict[str, Any]] = [
    {"C1": "68fd1e64", "site": "example.org"}, {"site": None},
    {"C1": ["68fd1e64", "7e0ccccf"], "site": ["b", "a", "b"]},
    {"C1": [None, "", "0000000a"], "site": []}, {"C1": "", "site": [None]},
]  # fmt: skip


def counted_clicks() -> list[dict[str, Any]]:
    """Single clicks, and how often an agent counts each of their keys, whatever their weights."""
    return [*map(_counted, _CLICKS), _counted(_CLICKS[2], {"C1": [2, 0.5], "site": [0, 1, -1]})]


def _counted(features: dict[str, Any], weights: dict[str, Any] | None = None) -> dict[str, Any]:
    """A single click, and how often an agent counts each of its keys, whatever their weights."""
    weighted = {} if weights is None else {"value_weights": weights}
    click = json.dumps({"features": features, **weighted, "event_time_ms": TIME_MS}, separators=(",", ":"))
    batch = decode_clicks(click.encode(), [("content-type", JSON)], fields=FIELDS)
    if not isinstance(batch, ClickBatch):
        raise TypeError(batch.reason)
    keys, counts = count_keys(batch.every_key)
    counted = zip(keys.tolist(), counts.tolist(), strict=True)
    return {
        "fields": [[field.name, field.kind] for field in FIELDS], "click": click,
        "counts": {f"{key:016x}": int(count) for key, count in sorted(counted)},
    }  # fmt: skip


def click_examples() -> dict[str, tuple[None, bytes, list[tuple[str, bytes]]]]:
    """A click record of each kind, by name: key, value and headers."""
    named = {
        "click": _click("example.org"),
        "click-more": _click(["example.org", "example.net", None]),
        "click-weights": _click(["example.org", "example.net"], {"site": [2.0, 0.5]}),
    }
    batches = {"clicks": clicks(), "clicks-more": replace(clicks(), more=_more()), "clicks-weights": _weighted()}
    return {
        **{name: (None, encode_clicks(batch), []) for name, batch in batches.items()},
        **{name: (None, value, [("content-type", JSON)]) for name, value in named.items()},
    }


def _click(site: str | list[str | None], weights: dict[str, list[float]] | None = None) -> bytes:
    body = {"label": 1, "dense": {"I1": 2.0}, "features": {"C1": "68fd1e64", "site": site}}
    weighted = {} if weights is None else {"value_weights": weights}
    return json.dumps({**body, **weighted, "event_time_ms": TIME_MS}, separators=(",", ":")).encode()


def clicks() -> ClickBatch:
    row = [make_key(1, "hex32", "68fd1e64"), make_key(2, "hash", "example.org")]
    return ClickBatch(
        label=np.array([1, 0], np.int8),
        dense=np.array([[2.0], [np.nan]], np.float32),
        keys=np.array([row, [make_key(1, "hex32", ""), row[1]]], np.uint64),
        event_time_ms=np.array([TIME_MS, TIME_MS + 5]),
        fields=FIELDS,
        dense_names=("I1",),
    )


def _more() -> MoreValues:
    keys = [make_key(2, "hash", "example.net"), make_key(1, "hex32", "7e0ccccf"), make_key(2, "hash", "a")]
    return MoreValues(offsets=np.array([0, 1, 3]), keys=np.array(keys, np.uint64))


def _weighted() -> ClickBatch:
    more = replace(_more(), weights=np.array([0.5, 1.0, -0.25], np.float32))
    return replace(clicks(), more=more, key_weights=np.array([[1.0, 2.0], [1.0, 1.0]], np.float32))
