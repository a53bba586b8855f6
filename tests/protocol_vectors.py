"""The test vectors of docs/vectors: what a reader or a writer in another language must reproduce, as JSON files.

`python tests/protocol_vectors.py` writes the files and the examples of docs/protocol.md; a test compares them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from agent_driver import RULE
from assignment_sequences import SEQUENCES, SHARDS
from click_vectors import FIELDS, TIME_MS, click_examples, counted_clicks
from embedding_vectors import embedding_examples, embedding_file

from sketch.hashing import entry_digest, mix64_array, shard_of
from streams.assignments.columns import Fetch, Record
from streams.assignments.table import HotTable
from streams.keys import CRITEO_FIELDS, Field, format_key, hash_token, make_key
from streams.records import (
    AgentConfiguration,
    AgentMetrics,
    Assignment,
    BadRecord,
    Claim,
    Digest,
    ImportanceBatch,
    ReplayProgress,
    ShardMetrics,
    Source,
    TrainerMetrics,
    decode_assignment,
    encode_assignment,
    encode_claim,
    encode_configuration,
    encode_digest,
    encode_fields,
    encode_importance,
    encode_metrics,
    encode_progress,
)

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "vectors"
PAGE = ROOT / "docs" / "protocol.md"
_EXAMPLE = re.compile(r"(<!-- vector: ([a-z-]+) -->\n)(.*?)(<!-- /vector -->)", re.DOTALL)
_TOKENS = ["a", "abc", "15706", "1fbe01fe", "ddd2926e1", "0123456789abcdef", "ünïcødé", "x" * 17]
_TOKENS += ["x" * length for length in (128, 129, 240, 241, 2000)]
_WORDS = [0, 1, 2, 0xDEADBEEF, 1 << 63, (1 << 64) - 1]
_KEYS = [
    (14, "hex32", "7e0ccccf"), (1, "hex32", "68fd1e64"), (1, "hex32", "00000000"), (26, "hex32", "ffffffff"),
    (3, "hex32", ""), (11, "hash", "ddd2926e"), (255, "hash", "x"), (2, "hash", ""), (2, "hash", "example.org"),
]  # fmt: skip
_PARTITIONS = (1, 2, 3, 4, 7, 64)


def keys() -> dict[str, Any]:
    """Hashes, keys, shards and digest terms."""
    return {
        "mix64": [{"word": _hex(word), "mixed": _hex(_mix64(word))} for word in _WORDS],
        "xxh3": [
            {"text": text, "hash": _hex(xxhash.xxh3_64_intdigest(text.encode(), seed=0x686F7473)),
             "payload": f"{hash_token(text):014x}"}
            for text in _TOKENS
        ],
        "keys": [_key(*one) for one in _KEYS],
        "clicks": counted_clicks(),
    }  # fmt: skip


def _key(number: int, kind: str, token: str) -> dict[str, Any]:
    key = make_key(number, kind, token)
    fields = [Field(f"f{n}", kind) for n in range(1, number + 1)]  # type: ignore[arg-type]
    shards = {str(count): int(shard_of(np.array([key], np.uint64), count)[0]) for count in _PARTITIONS}
    terms = {str(row): _hex(int(entry_digest(np.uint64(key), np.uint64(row)))) for row in (0, 123, (1 << 27) - 1)}
    printed = format_key(key, fields)
    return {
        "field": number, "kind": kind, "token": token, "key": _hex(key), "printed": printed, "shards": shards,
        "digest_terms_by_row": terms,
    }  # fmt: skip


def _mix64(word: int) -> int:
    return int(mix64_array(np.array([word], np.uint64))[0])


def _hex(word: int) -> str:
    return f"{word:016x}"


# ---- records ---------------------------------------------------------------------------------------------------------


def examples() -> dict[str, dict[str, Any]]:
    """A record of each kind, by name, as the product writes it."""
    key = make_key(1, "hex32", "68fd1e64")
    shard = int(shard_of(np.array([key], np.uint64), 4)[0])
    hot = Assignment(
        key=key, tier="hot", row=123, score=17.25, shard=shard, epoch=3, seq=889, source=(shard, 4711),
        event_time_ms=TIME_MS, ingest_ms=TIME_MS + 9, generation=7,
    )  # fmt: skip
    cold = Assignment(key=key, tier="cold", shard=shard, epoch=3, seq=890, ingest_ms=TIME_MS + 10, generation=7)
    digest = int(entry_digest(np.uint64(key), np.uint64(123)))
    listed = {
        "hot": encode_assignment(hot, FIELDS),
        "cold": encode_assignment(cold, FIELDS),
        "restated": encode_assignment(replace(hot, seq=890, is_restated=True, ingest_ms=None), FIELDS),
        "digest": encode_digest(Digest(shard=shard, epoch=3, seq=889, hot=1, digest=digest, generation=7)),
        "new-epoch": encode_digest(Digest(shard=shard, epoch=4, seq=890, hot=0, digest=0, generation=8)),
        "claim": encode_claim(Claim(shard=shard, epoch=3, seq=890, generation=8)),
        "agents": encode_configuration(
            AgentConfiguration(
                number=1, settings={"capacity": 13505, "num_shards": 4, "group": "hotstream-agent", "seed": 0}
            )
        ),
        "fields": encode_fields(FIELDS),
        "replay": (*encode_progress("6f9619ff8b86d011", _progress()), []),
        "importance": (None, *encode_importance(_importance())),
        **click_examples(),
        "agent-metrics": (None, *encode_metrics(_agent_metrics())),
        "trainer-metrics": (None, *encode_metrics(_trainer_metrics())),
        **embedding_examples(),
    }
    return {name: written(*record) for name, record in listed.items()}  # type: ignore[misc]


def written(key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes | None]]) -> dict[str, Any]:
    """A record as JSON: its key in hex, its value as text where it is JSON and in hex where it is Arrow."""
    named = {name: None if content is None else content.decode() for name, content in headers}
    is_text = value is not None and value.startswith(b"{")
    text = value.decode() if value is not None and is_text else None
    raw = value.hex() if value is not None and not is_text else None
    return {"key": None if key is None else key.hex(), "value": text, "value_hex": raw, "headers": named}


def _importance() -> ImportanceBatch:
    return ImportanceBatch(
        keys=np.array([make_key(1, "hex32", "68fd1e64")], np.uint64),
        scores=np.array([0.5], np.float32),
        fields=FIELDS,
        source=Source(signal="gradient", topic="hotstream.clicks", partition=0, offset=11, topic_id="0f" * 16),
        event_time_ms=TIME_MS,
        ingest_ms=TIME_MS + 9,
    )


def _progress() -> ReplayProgress:
    return ReplayProgress(
        run=1, process="9f86d081884c7d65", topic_id="6f9619ff8b86d011b42d00cf4fc964ff", batch=48, read=98304,
        sent=98290, batches=48, bad=14,
    )  # fmt: skip


def _agent_metrics() -> AgentMetrics:
    shard = ShardMetrics(
        epoch=3, seq=889, hot=13505, max_hot=13505, counted=420, repeated=0, rejected_scores=0, events=918000,
        promotions=20011, demotions=6506, next_offset=421, recall=0.93,
    )  # fmt: skip
    return AgentMetrics(time_ms=TIME_MS, capacity=13505, bad=0, shards={0: shard})


def _trainer_metrics() -> TrainerMetrics:
    return TrainerMetrics(
        time_ms=TIME_MS, rows=640000, rows_per_s=15000.0, lag_records=2, hot=13505,
        applied={"promotions": 20011, "demotions": 6506},
        assignments={"verified": True, "applied": 50000, "stale": 0, "refused": 0, "mismatches": 0},
        latency_ms={"assignment_to_trainer": {"p50": 12.5, "p99": 80.1}}, auc={"adaptive": 0.78, "hash": 0.77},
        window_auc={"adaptive": 0.79, "hash": 0.78}, log_loss={"adaptive": 0.46, "hash": 0.47}, unique_share=0.62,
    )  # fmt: skip


def refused() -> list[dict[str, Any]]:
    """Records of the assignments topic that a reader refuses, each with the reason that the product gives."""
    good, digest = examples()["hot"], examples()["digest"]
    cases: list[dict[str, Any]] = [
        {**good, "key": "0100000068fd1e65"}, {**good, "key": "68fd1e64"}, {**good, "key": None},
        *(_header(good, name, content) for name, content in [
            ("v", "1"), ("v", None), ("seq", "-1"), ("seq", "1_0"), ("seq", "9223372036854775808"), ("epoch", "4"),
            ("generation", "x"),
        ]),
        *(_member(good, name, content) for name, content in [
            ("tier", "warm"), ("row", -1), ("row", 1 << 27), ("row", 1.5), ("score", -1.0), ("feature", "C1:68FD1E64"),
            ("feature", "C1"), ("seq", 888), ("event_time_ms", 253_402_300_800_000), ("source", None),
        ]),
        *(_member(digest, name, content) for name, content in [
            ("digest", "9F86D081884C7D65"), ("digest", "1"), ("hot", -1), ("hot", "1"),
        ]),
    ]  # fmt: skip
    return [{**case, "reason": _reason(case)} for case in cases]


def _header(record: dict[str, Any], name: str, content: str | None) -> dict[str, Any]:
    named = {**record["headers"], name: content}
    return {**record, "headers": {name: content for name, content in named.items() if content is not None}}


def _member(record: dict[str, Any], name: str, content: Any) -> dict[str, Any]:
    return {**record, "value": json.dumps({**json.loads(record["value"]), name: content}, separators=(",", ":"))}


def _reason(case: dict[str, Any]) -> str:
    key = None if case["key"] is None else bytes.fromhex(case["key"])
    headers = [(name, content.encode()) for name, content in case["headers"].items()]
    bad = decode_assignment(key, case["value"].encode(), headers)
    if not isinstance(bad, BadRecord):
        raise ValueError(f"got {bad}, expected a refused record: {case}")
    return bad.reason


# ---- logs ------------------------------------------------------------------------------------------------------------


def logs() -> list[dict[str, Any]]:
    """Logs of one partition, with a reader's state after each record."""
    small = [_log(one.name, list(enumerate(one.records)), one.end) for one in SEQUENCES]
    kept, end = _compacted_log()
    return [*small, _log("an agent's log whose first two thirds were compacted", kept, end)]


def _compacted_log() -> tuple[list[tuple[int, Record]], int]:
    """What a shard publishes for eight records, after compaction: offsets and records, and the end of the log."""
    written = RULE[1][0]
    decoded = [decode_assignment(*record) for record in written]
    cut = len(written) * 2 // 3
    newest = {written[offset][0]: offset for offset in range(cut)}
    offsets = [*sorted(newest.values()), *range(cut, len(written))]
    return [(offset, known) for offset in offsets if isinstance(known := decoded[offset], Record)], len(written)


def _log(name: str, records: Sequence[tuple[int, Record]], end: int | None) -> dict[str, Any]:
    table, steps = HotTable(SHARDS), []
    for offset, record in records:
        fetch = Fetch(partition=0, records=[record], offsets=[offset], end_offset=end)
        outcome, view = table.take(fetch), table.shards[0]
        then = {
            "epoch": view.epoch, "seq": view.seq, "generation": view.generation, "hot": view.table.num_hot,
            "digest": _hex(view.table.digest), "applied": bool(outcome.counts[0]), "refused": bool(outcome.refused),
            "verdict": outcome.verdicts.get(0),
        }  # fmt: skip
        steps.append({"offset": offset, **written(*_encode(record)), "then": then})
    rows = {_hex(key): row for key, row in sorted(table.items())}
    return {
        "name": name, "partition": 0, "partitions": SHARDS, "high_watermark": end, "records": steps, "rows": rows,
        "verified": table.history.verified,
    }  # fmt: skip


def _encode(record: Record) -> Any:
    if isinstance(record, Digest):
        return encode_digest(record)
    if isinstance(record, Claim):
        return encode_claim(record)
    if record.tier == "hot" and record.source is None:
        record = replace(record, source=(0, record.seq), event_time_ms=TIME_MS)
    return encode_assignment(record, CRITEO_FIELDS)


# ---- files and page ------------------------------------------------------------------------------------------------


def files() -> dict[str, str]:
    """The contents of the files in docs/vectors, by name."""
    made: dict[str, Callable[[], Any]] = {
        "keys": keys, "records": examples, "refused": refused, "logs": logs, "embeddings": embedding_file,
    }  # fmt: skip
    return {f"{name}.json": json.dumps(make(), indent=1, ensure_ascii=False) + "\n" for name, make in made.items()}


def fill(page: str) -> str:
    """The page with the value of the named record in every example."""
    known = examples()

    def show(match: re.Match[str]) -> str:
        return f"{match[1]}```json\n{_broken(known[match[2]]['value'])}\n```\n{match[4]}"

    return _EXAMPLE.sub(show, page)


def _broken(value: str, width: int = 118) -> str:
    """A JSON text in lines of at most `width` characters, broken behind commas."""
    lines, line = [], ""
    for part in re.split(r"(?<=,)", value):
        if line and len(line) + len(part) > width:
            lines.append(line)
            line, part = " ", part.lstrip()  # noqa: PLW2901
        line += part
    return "\n".join([*lines, line])


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for file_name, text in files().items():
        (FOLDER / file_name).write_text(text, encoding="utf-8")
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
