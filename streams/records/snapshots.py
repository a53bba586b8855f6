"""Snapshots as records of a compacted topic: a crash during a write leaves the previous snapshot whole.

Each shard has two areas, A and B, and writes to them in turn. A snapshot is split into chunks, which are written to the
area that the newest *manifest* does not name. When the broker has acknowledged all of them, a manifest that names the
area is written, and the snapshot takes effect. Whatever compaction or a crash removes of an unfinished snapshot, the
current manifest and its chunks remain.

    key  `3/A/0`, `3/A/1`, ...   the chunks of shard 3 in area A
    key  `3`                     the manifest: JSON with area (`place`), chunks, bytes, CRC-32, log_end, generation,
                                 topic_ids and the previous manifest

`log_end` is an offset of the shard's assignments: before it, the log holds the changes up to the snapshot, in order,
and no generation newer than `generation`.
If two agents own one shard for a moment, both may write to the same area. The checksums then do not match, and readers
use the previous snapshot, which the manifest names as well; the owner notices and writes a new snapshot.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from streams.records.headers import VERSION, BadRecord, Headers, check_version, header_int, read_headers

__all__ = ["SnapshotReader", "SnapshotRecord", "write_snapshot"]

_KEY = re.compile(rb"([0-9]{1,9})(?:/([AB])/([0-9]{1,9}))?")
_MAX_PROBLEMS = 20
CHUNK_BYTES = 900_000
_MAX_CHUNKS = 100_000
Manifest = dict[str, Any]


@dataclass(frozen=True)
class SnapshotRecord:
    """A record to produce: Kafka key, value and headers."""

    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


def write_snapshot(
    shard: int,
    data: bytes,
    *,
    previous: Manifest | None,
    log_end: int = 0,
    generation: int = 0,
    topic_ids: Mapping[str, str] | None = None,
) -> tuple[list[SnapshotRecord], SnapshotRecord, Manifest]:
    """Splits a snapshot into records: its chunks, the manifest's record, and the manifest.

    Send the manifest's record only after the broker has acknowledged every chunk.

    Args:
        shard: the shard of the snapshot.
        data: the snapshot.
        previous: the current manifest, whose area is left untouched; None if there is none.
        log_end: the offset of the shard's assignments before which the log needs no check.
        generation: the newest ownership of the shard.
        topic_ids: the ids of the topics that `log_end` and the snapshot's offset refer to, by name.
    """
    parts = [data[start : start + CHUNK_BYTES] for start in range(0, max(len(data), 1), CHUNK_BYTES)]
    area = "B" if previous and previous["place"] == "A" else "A"
    version = ("v", b"%d" % VERSION)
    chunks = [
        SnapshotRecord(
            f"{shard}/{area}/{number}".encode(),
            part,
            [version, ("kind", b"chunk"), ("crc32", b"%d" % zlib.crc32(part))],
        )
        for number, part in enumerate(parts)
    ]
    manifest: Manifest = {
        "place": area,
        "chunks": len(parts),
        "bytes": len(data),
        "crc32": zlib.crc32(data),
        "log_end": log_end,
        "generation": generation,
        "topic_ids": dict(topic_ids or {}),
    }
    body = {"v": VERSION, "shard": shard, **manifest, "previous": previous}
    return chunks, SnapshotRecord(b"%d" % shard, json.dumps(body).encode(), [version, ("kind", b"manifest")]), manifest


class SnapshotReader:
    """Finds the newest whole snapshot of one shard, whose partition it reads from the beginning.

    Attributes:
        manifest: the manifest of the newest whole snapshot; None if there is none.
        data: the newest whole snapshot; None if there is none.
        num_manifests: manifests read; compaction removes older ones.
        is_newest: whether `data` is what the newest manifest names, and no record after it was ignored.
        problems: the reasons why records were ignored, the first 20.
        num_bad: the number of records that were ignored.
    """

    def __init__(self, shard: int) -> None:
        self._shard = shard
        self._chunks: dict[tuple[str, int], bytes] = {}
        self.manifest: Manifest | None = None
        self.data: bytes | None = None
        self.num_manifests = 0
        self.is_newest = False
        self.problems: list[str] = []
        self.num_bad = 0

    def read(self, records: Iterable[tuple[bytes | None, bytes | None, Headers]]) -> None:
        """Reads records (key, value, headers), in the order of the topic."""
        for key, value, headers in records:
            problem = self._take(key, value, headers)
            if problem is not None:
                self.is_newest = False
                self.num_bad += 1
                if len(self.problems) < _MAX_PROBLEMS:
                    self.problems.append(problem.reason)

    def _take(self, key: bytes | None, value: bytes | None, headers: Headers) -> BadRecord | None:
        try:
            named = read_headers(headers)
            check_version(named)
            names = _KEY.fullmatch(key or b"")
            if names is None or int(names[1]) != self._shard or value is None:
                return BadRecord(
                    f"snapshot record with key {key!r}: got another key or no value, expected shard {self._shard}"
                )
            if names[2] is not None:
                if zlib.crc32(value) != header_int(named, "crc32"):
                    return BadRecord(f"snapshot chunk {key!r}: the checksum does not match")
                self._chunks[names[2].decode(), int(names[3])] = value
                return None
            return self._close(json.loads(value))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError, MemoryError) as error:
            return BadRecord(f"snapshot record with key {str(key)[:100]}: {str(error)[:200]}")

    def _close(self, body: dict[str, Any]) -> BadRecord | None:
        both = (body, body["previous"])
        self.num_manifests += 1
        for manifest in both:
            whole = None if manifest is None else self._assemble(manifest)
            if whole is not None:
                self.data = whole
                self.manifest = {name: manifest[name] for name in ("place", "chunks", "bytes", "crc32")}
                self.manifest |= {name: _number(manifest, name) for name in ("log_end", "generation")}
                self.manifest["topic_ids"] = _texts(manifest.get("topic_ids"))
                if manifest is body:
                    self.is_newest = True
                    return None
                break
        return BadRecord(f"snapshot {body}: chunks are missing or damaged; using the previous snapshot")

    @property
    def log_end(self) -> int:
        """The offset of the shard's assignments before which the log needs no check; 0 without a snapshot."""
        return 0 if self.manifest is None else int(self.manifest["log_end"])

    def is_of(self, topic: str, topic_id: str) -> bool:
        """Whether the snapshot's offsets of a topic refer to the topic with this id; also if either id is unknown."""
        known = {} if self.manifest is None else self.manifest["topic_ids"]
        return not topic_id or known.get(topic, "") in ("", topic_id)

    @property
    def generation(self) -> int:
        """The newest ownership of the shard before `log_end`; 0 without a snapshot."""
        return 0 if self.manifest is None else int(self.manifest["generation"])

    def _assemble(self, manifest: dict[str, Any]) -> bytes | None:
        if not 1 <= manifest["chunks"] <= _MAX_CHUNKS:
            return None
        parts = [self._chunks.get((manifest["place"], chunk), b"") for chunk in range(manifest["chunks"])]
        whole = b"".join(parts)
        return whole if len(whole) == manifest["bytes"] and zlib.crc32(whole) == manifest["crc32"] else None


def _texts(ids: object) -> dict[str, str]:
    """The topic ids of a manifest."""
    if not isinstance(ids, dict):
        return {}
    return {name: text for name, text in ids.items() if isinstance(name, str) and isinstance(text, str)}


def _number(manifest: dict[str, Any], name: str) -> int:
    """A number of a manifest; 0 if it has none that can be an offset."""
    number = manifest.get(name, 0)
    return number if type(number) is int and 0 <= number < 1 << 63 else 0
