"""Snapshots as records of a compacted topic: a crash while one is written leaves the one before it whole.

Two places take turns. A snapshot is cut into chunks, which go to the place that the newest *manifest* does not name;
when all of them are acknowledged, a manifest that names the place follows, and from then on that snapshot counts. So
whatever compaction or a crash takes away of an unfinished snapshot, the manifest in force and its chunks stand.

    key  `3/A/0`, `3/A/1`, ...   chunks of shard 3 in place A
    key  `3`                     the manifest: JSON with place, chunks, bytes, CRC-32, and the manifest before it

Two agents that have one shard for a moment may write into one place; then the checksums say so, and the snapshot
before, which the manifest names too, still stands.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from streams.records.headers import VERSION, BadRecord, Headers, header_int

__all__ = ["SnapshotReader", "SnapshotRecord", "write_snapshot"]

CHUNK_BYTES = 900_000
_MAX_CHUNKS = 100_000
Manifest = dict[str, str | int]


@dataclass(frozen=True)
class SnapshotRecord:
    """A record to produce: Kafka key, value and headers."""

    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


def write_snapshot(
    shard: int, data: bytes, *, previous: Manifest | None
) -> tuple[list[SnapshotRecord], SnapshotRecord, Manifest]:
    """The chunks; the record that may be sent only when every chunk is acknowledged; and what it says.

    Args:
        shard: whose snapshot it is.
        data: the snapshot.
        previous: the manifest in force, whose place is left alone; None if there is none.
    """
    parts = [data[start : start + CHUNK_BYTES] for start in range(0, max(len(data), 1), CHUNK_BYTES)]
    place = "B" if previous and previous["place"] == "A" else "A"
    version = ("v", b"%d" % VERSION)
    chunks = [
        SnapshotRecord(
            f"{shard}/{place}/{number}".encode(),
            part,
            [version, ("kind", b"chunk"), ("crc32", b"%d" % zlib.crc32(part))],
        )
        for number, part in enumerate(parts)
    ]
    manifest: Manifest = {"place": place, "chunks": len(parts), "bytes": len(data), "crc32": zlib.crc32(data)}
    body = {"v": VERSION, "shard": shard, **manifest, "previous": previous}
    return chunks, SnapshotRecord(b"%d" % shard, json.dumps(body).encode(), [version, ("kind", b"manifest")]), manifest


class SnapshotReader:
    """Reads one shard's partition of the snapshots topic from its beginning; knows the newest whole snapshot.

    Attributes:
        manifest: that of the newest whole snapshot, None if there is none.
        data: the newest whole snapshot, None if there is none.
        num_manifests: how many snapshots were ever closed, as far as compaction lets us see.
        problems: why records were passed over.
    """

    def __init__(self, shard: int) -> None:
        self._shard = shard
        self._chunks: dict[tuple[str, int], bytes] = {}
        self.manifest: Manifest | None = None
        self.data: bytes | None = None
        self.num_manifests = 0
        self.problems: list[str] = []

    def read(self, records: Iterable[tuple[bytes | None, bytes | None, Headers]]) -> None:
        """Takes in records (key, value, headers) in the order of the topic."""
        for key, value, headers in records:
            problem = self._take(key, value, headers)
            if problem is not None:
                self.problems.append(problem.reason)

    def _take(self, key: bytes | None, value: bytes | None, headers: Headers) -> BadRecord | None:
        named = dict(headers)
        try:
            if header_int(named, "v") != VERSION:
                return BadRecord(f"snapshot record of version {named['v']!r}, expected {VERSION}")
            names = (key or b"").decode("ascii").split("/")
            if int(names[0]) != self._shard or value is None:
                return BadRecord(f"snapshot record with key {key!r} in the partition of shard {self._shard}")
            if len(names) == 3:
                if zlib.crc32(value) != header_int(named, "crc32"):
                    return BadRecord(f"snapshot chunk {key!r}: the checksum does not match")
                self._chunks[names[1], int(names[2])] = value
                return None
            return self._close(json.loads(value))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            return BadRecord(f"snapshot record with key {key!r}: {error!r}")

    def _close(self, body: dict[str, Any]) -> BadRecord | None:
        self.num_manifests += 1
        for manifest in (body, body["previous"]):
            whole = None if manifest is None else self._assemble(manifest)
            if whole is not None:
                self.data = whole
                self.manifest = {name: manifest[name] for name in ("place", "chunks", "bytes", "crc32")}
                if manifest is body:
                    return None
                break
        return BadRecord(f"snapshot {body}: its chunks are not whole; the one before it counts")

    def _assemble(self, manifest: dict[str, Any]) -> bytes | None:
        if not 1 <= manifest["chunks"] <= _MAX_CHUNKS:
            return None
        parts = [self._chunks.get((manifest["place"], chunk), b"") for chunk in range(manifest["chunks"])]
        whole = b"".join(parts)
        return whole if len(whole) == manifest["bytes"] and zlib.crc32(whole) == manifest["crc32"] else None
