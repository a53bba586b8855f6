"""The test vectors of the topic `embeddings`: records, digest terms, logs with a replica's state, refused records."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from streams.keys import Field, make_key
from streams.records import BadRecord
from streams.records.embeddings import (
    ChunkRecord,
    EmbeddingRecord,
    NoteRecord,
    RowRecord,
    decode_embedding,
    encode_chunk,
    encode_note,
    encode_row,
)
from trainer.embedding.layout import Layout
from trainer.serving.dense_versions import split_version
from trainer.serving.replica_state import ReplicaState
from trainer.serving.shape import ServedShape, row_form
from trainer.serving.terms import add_modulo, row_terms

__all__ = ["embedding_examples", "embedding_file"]

FIELDS = (Field("C1", "hex32"), Field("site"))
TIME_MS = 1_700_000_000_000
SHAPE = ServedShape(
    model="wdl", dim=4, row_format="int8", hot_store="float32",
    layout=Layout(num_fields=2, capacity_rows=4, level_1_per_field=2, level_2_rows=3),
    fields=tuple((field.name, field.kind) for field in FIELDS), num_dense=1, partitions=1, published=(1, 2),
    run=TIME_MS,
)  # fmt: skip
MODEL = SHAPE.fingerprint
KEYS = (make_key(1, "hex32", "68fd1e64"), make_key(2, "hash", "example.org"))
DENSE = bytes(range(64))
_FORMATS = ("float32", "bfloat16", "int8", "int4", "half_width")


def _body(kind: str, number: int, version: int) -> bytes:
    """The bytes of a row or block, drawn from its name."""
    sizes = {"u": 16, "1": 12, "2": 18, "g": 24}  # D float32; 2 and 3 rows of D int8 and a scale; F x 3 float32
    if kind in "ug":
        count = sizes[kind] // 4
        return (np.arange(count, dtype=np.float32) / 8 + number + version).tobytes()
    return hashlib.shake_128(f"{kind}{number}/{version}".encode()).digest(sizes[kind])


def _row(kind: str, number: int, version: int = 0, feature: int = 0) -> RowRecord:
    return RowRecord(
        kind=kind, number=number, model=MODEL, feature=feature, epoch=3 if feature else 0, seq=889 if feature else 0,
        step=640_000 + version, time_ms=TIME_MS + version, body=_body(kind, number, version),
    )  # fmt: skip


def _digest(number: int, total: int) -> NoteRecord:
    content = {
        "kind": "digest", "model": f"{MODEL:016x}", "number": number, "step": 640_001, "time_ms": TIME_MS + 1000,
        "digest": f"{total % (1 << 64):016x}", "lag_rows": 0,
    }  # fmt: skip
    return NoteRecord(kind="x", number=0, content=content)


def _term(record: RowRecord) -> int:
    if record.body is None:
        return 0
    body, feature = np.frombuffer(record.body, np.uint8)[None], np.array([record.feature], np.uint64)
    return int(row_terms(record.kind, np.array([record.number]), feature, body)[0])


def _shared() -> list[RowRecord]:
    return [_row("1", 0), _row("1", 1), _row("2", 0), _row("g", 0)]


def _log() -> list[EmbeddingRecord]:
    """A model that begins; a row that goes to another key; a row that is freed; a digest that differs."""
    first, second = _row("u", 1, 0, KEYS[0]), _row("u", 1, 1, KEYS[1])
    shared = sum(map(_term, _shared()))
    free = RowRecord(kind="u", number=1)
    older = RowRecord(kind="u", number=2, model=MODEL ^ 1, feature=KEYS[0], body=_body("u", 2, 0))
    return [
        NoteRecord(kind="s", number=0, content=SHAPE.to_json()), *_shared(), first, _digest(1, shared + _term(first)),
        second, _digest(2, shared + _term(second)), older, _digest(3, shared + 1), free, _digest(2, 0),
        _digest(4, shared), *split_version(DENSE, version=TIME_MS, slot=0, model=MODEL),
    ]  # fmt: skip


def _encode(record: EmbeddingRecord) -> Any:
    if isinstance(record, RowRecord):
        return encode_row(record)
    return encode_chunk(record) if isinstance(record, ChunkRecord) else encode_note(record)


def embedding_examples() -> dict[str, Any]:
    """A record of each kind, by name: key, value and headers."""
    chunk, manifest = split_version(DENSE, version=TIME_MS, slot=0, model=MODEL)
    first = _row("u", 1, 0, KEYS[0])
    listed = {
        "embedding-shape": NoteRecord(kind="s", number=0, content=SHAPE.to_json()),
        "embedding-row": first,
        "embedding-free": RowRecord(kind="u", number=1),
        "embedding-level-1": _row("1", 1),
        "embedding-level-2": _row("2", 0),
        "embedding-gates": _row("g", 0),
        "embedding-digest": _digest(1, sum(map(_term, _shared())) + _term(first)),
        "embedding-chunk": chunk,
        "embedding-manifest": manifest,
    }
    return {name: _encode(record) for name, record in listed.items()}


def _written(record: Any) -> dict[str, Any]:
    key, value, headers = record
    return {
        "key": None if key is None else key.hex(), "value_hex": None if value is None else value.hex(),
        "headers": {name: content.decode() for name, content in headers},
    }  # fmt: skip


def _steps() -> list[dict[str, Any]]:
    """The log, with a replica's state after each record."""
    state, steps = ReplicaState(1), []
    for offset, record in enumerate(_log()):
        decoded = decode_embedding(*_encode(record))
        assert not isinstance(decoded, BadRecord | None)
        state.take(0, [(offset, decoded)])
        state.settle()
        mine = state.partitions[0]
        then = {
            "digest": f"{mine.total % (1 << 64):016x}", "verified": mine.verified, "is_served": bool(state.served),
            "dense_version": state.dense.version,
            "owners": None if state.served is None else {
                f"{key:016x}": row for key, row in sorted(state.served.owners().items())
            },
        }  # fmt: skip
        steps.append({"offset": offset, **_written(_encode(record)), "then": then})
    return steps


def _refused() -> list[dict[str, Any]]:
    """Records that a reader refuses, each with the reason that the product gives."""
    key, value, headers = encode_row(_row("u", 1, 0, KEYS[0]))
    block, its_value, _ = encode_row(_row("2", 0))
    shape_key, shape_value, _ = encode_note(NoteRecord(kind="s", number=0, content=SHAPE.to_json()))
    assert value is not None
    assert its_value is not None
    assert shape_value is not None
    cases: list[Any] = [
        (None, value, headers), (key[:4], value, headers), (key, value, [("v", b"1")]), (key, value[:48], headers),
        (key, value[:8] + bytes(8) + value[16:], headers), (block, None, headers),
        (block, its_value[:8] + bytes([1] * 8) + its_value[16:], headers), (shape_key, None, headers),
        (shape_key, b'{"v":1}', headers), (shape_key, b"[]", headers), (b"c" + bytes(4), bytes(8), headers),
        *(_changed(_digest(1, 0), name, content) for name, content in [
            ("digest", "9F86D081884C7D65"), ("digest", None), ("number", "1"), ("step", -1), ("time_ms", 1.5),
        ]),
    ]  # fmt: skip
    return [{**_written(case), "reason": _reason(case)} for case in cases]


def _changed(note: NoteRecord, name: str, content: Any) -> Any:
    return encode_note(NoteRecord(kind=note.kind, number=note.number, content={**note.content, name: content}))


def _reason(case: Any) -> str:
    bad = decode_embedding(*case)
    if not isinstance(bad, BadRecord):
        raise TypeError(f"got {bad}, expected a refused record")
    return bad.reason


def embedding_file() -> dict[str, Any]:
    """The content of docs/vectors/embeddings.json."""
    rows = [_row("u", 1, 0, KEYS[0]), *_shared()]
    terms = [
        {
            "kind": one.kind, "number": one.number, "feature": f"{one.feature:016x}", "body": (one.body or b"").hex(),
            "term": f"{_term(one):016x}",
        }
        for one in rows
    ]  # fmt: skip
    total = add_modulo(np.array([_term(one) for one in rows], np.uint64))
    return {
        "shape": {"json": SHAPE.to_json(), "model": f"{MODEL:016x}"},
        "row_bytes": {name: row_form(name, SHAPE.dim).row_bytes for name in _FORMATS},
        "terms": terms, "digest_of_the_terms": f"{total:016x}",
        "log": {"partition": 0, "partitions": 1, "records": _steps()}, "refused": _refused(),
    }  # fmt: skip
