"""Metrics records: what was encoded is decoded, and what is malformed is a BadRecord."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.records import AgentMetrics, BadRecord, ShardMetrics, TrainerMetrics, decode_metrics, encode_metrics

SHARD = ShardMetrics(
    epoch=2, seq=70, hot=5, max_hot=6, counted=11, repeated=1, rejected_scores=0, events=300,
    promotions=8, demotions=3, next_offset=13,
)  # fmt: skip
AGENT = AgentMetrics(time_ms=1_700_000_000_000, capacity=10, bad=1, shards={0: SHARD, 3: replace(SHARD, seq=4)})
TRAINER = TrainerMetrics(
    time_ms=1_700_000_000_001,
    rows=640,
    rows_per_s=12.5,
    lag_records=2,
    hot=5,
    applied={"promotions": 8},
    assignments={"verified": None, "refused": 2},
    latency_ms={"assignment_to_trainer": {"p50": 3.5, "p99": None}},
    auc={"adaptive": 0.71, "hash": None},
    window_auc={"adaptive": 0.7},
    log_loss={"adaptive": 0.4},
    windows=[{"rows": 200, "auc": {"adaptive": 0.7}}],
)


@pytest.mark.parametrize("metrics", [AGENT, TRAINER, AgentMetrics(time_ms=0, capacity=1, bad=0)])
def test_what_was_encoded_is_decoded(metrics: AgentMetrics | TrainerMetrics) -> None:
    value, headers = encode_metrics(metrics)
    assert decode_metrics(value) == metrics
    assert headers == [("content-type", b"application/json")]
    body = json.loads(value)
    assert (body["v"], body["process"]) == (2, "agent" if isinstance(metrics, AgentMetrics) else "trainer")


def test_a_number_that_json_lacks_becomes_null() -> None:
    value, _ = encode_metrics(replace(TRAINER, log_loss={"adaptive": float("nan"), "hash": float("inf")}))
    decoded = decode_metrics(value)
    assert isinstance(decoded, TrainerMetrics)
    assert decoded.log_loss == {"adaptive": None, "hash": None}


def test_unknown_members_are_left_out_and_those_with_a_default_may_be_missing() -> None:
    body = json.loads(encode_metrics(TRAINER)[0])
    del body["window_auc"]
    assert decode_metrics(json.dumps({**body, "later": [1]}).encode()) == replace(TRAINER, window_auc={})


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (None, "0 bytes"),
        (b"{", "JSONDecodeError"),
        (b"[]", "got a JSON list, expected an object"),
        (b"{}", "version None, expected 2; upgrade"),
        (b'{"v":3,"process":"agent"}', "version 3, expected 2; upgrade"),
        (b'{"v":1,"process":"agent"}', "version 1, expected 2; an older hotstream"),
        (b'{"v":2,"process":"kettle"}', "'kettle', expected one of"),
        (b'{"v":2,"process":[]}', "TypeError"),
        (b'{"v":2,"process":"agent"}', "KeyError: 'shards'"),
        (b'{"v":2,"process":"agent","shards":[]}', "AttributeError"),
        (b'{"v":2,"process":"agent","shards":{"zero":{}}}', "'shards': got the name 'zero', expected the number"),
        (b'{"v":2,"process":"trainer","rows":1}', "time_ms"),
        (b'{"v":2,"process":"trainer","rows":NaN}', "NaN is not JSON"),
        (b"x" * (2 << 20), "2097152 bytes"),
        (b"[" * 100_000, "RecursionError"),
    ],
)
def test_what_is_malformed_is_a_bad_record_with_its_reason(value: bytes | None, why: str) -> None:
    decoded = decode_metrics(value)
    assert isinstance(decoded, BadRecord)
    assert why in decoded.reason


@pytest.mark.parametrize(
    ("metrics", "name", "broken"),
    [
        (TRAINER, "rows", True),
        (TRAINER, "rows", "7"),
        (TRAINER, "rows", 1 << 63),
        (TRAINER, "rows_per_s", None),
        (TRAINER, "auc", {"adaptive": "0.7"}),
        (TRAINER, "latency_ms", {"assignment_to_trainer": 4}),
        (TRAINER, "windows", {}),
        (AGENT, "shards", {"zero": {}}),
        (AGENT, "shards", {"0": {"epoch": 1}}),
        (AGENT, "capacity", 1.5),
    ],
)
def test_a_member_of_another_type_is_a_bad_record(
    metrics: AgentMetrics | TrainerMetrics, name: str, broken: object
) -> None:
    body = json.loads(encode_metrics(metrics)[0])
    assert isinstance(decode_metrics(json.dumps({**body, name: broken}).encode()), BadRecord)


def test_a_number_over_all_bounds_is_a_bad_record() -> None:
    value = encode_metrics(replace(TRAINER, rows_per_s=12.5))[0]
    assert isinstance(decode_metrics(value.replace(b"12.5", b"1e999")), BadRecord)  # JSON's parser makes it infinite


@given(st.binary(max_size=200) | st.recursive(st.none() | st.integers() | st.text(max_size=9), st.lists).map(
    lambda value: json.dumps({"v": 2, "process": "agent", "shards": value}).encode()
))  # fmt: skip
def test_no_bytes_raise(value: bytes) -> None:
    assert isinstance(decode_metrics(value), BadRecord)
