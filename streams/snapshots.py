"""Snapshots as records of a compacted topic: a crash while one is written leaves the one before it whole.

Two places take turns. A snapshot is cut into chunks, which go to the place that the newest *manifest* does not name;
when all of them are acknowledged, a manifest that names the place follows, and from then on that snapshot counts. So
whatever compaction or a crash takes away of an unfinished snapshot, the manifest in force and its chunks stand.

    key  `3/A/0`, `3/A/1`, ...   chunks of shard 3 in place A
    key  `3`                     the manifest: JSON with place, chunks, bytes, CRC-32
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from streams.records import VERSION, BadRecord, Headers, header_int

__all__ = ["SnapshotReader", "SnapshotRecord", "write_snapshot"]

CHUNK_BYTES = 900_000
_MAX_CHUNKS = 100_000


@dataclass(frozen=True)
class SnapshotRecord:
    """A record to produce: Kafka key, value and headers."""

    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


def write_snapshot(shard: int, data: bytes, *, place: str) -> tuple[list[SnapshotRecord], SnapshotRecord]:
    """The chunks, and the manifest that may be sent only when every chunk is acknowledged.

    Args:
        shard: whose snapshot it is.
        data: the snapshot.
        place: `A` or `B`, the one that the newest manifest does not name.
    """
    parts = [data[start : start + CHUNK_BYTES] for start in range(0, max(len(data), 1), CHUNK_BYTES)]
    checksum = zlib.crc32(data)
    version = ("v", b"%d" % VERSION)
    chunks = [
        SnapshotRecord(
            f"{shard}/{place}/{number}".encode(),
            part,
            [version, ("kind", b"chunk"), ("crc32", b"%d" % zlib.crc32(part))],
        )
        for number, part in enumerate(parts)
    ]
    body = {"v": VERSION, "shard": shard, "place": place, "chunks": len(parts), "bytes": len(data), "crc32": checksum}
    return chunks, SnapshotRecord(b"%d" % shard, json.dumps(body).encode(), [version, ("kind", b"manifest")])


class SnapshotReader:
    """Reads one shard's partition of the snapshots topic from its beginning; knows the newest whole snapshot.

    Attributes:
        place: the place of the newest manifest, None before the first.
        problems: why records were passed over.
    """

    def __init__(self, shard: int) -> None:
        self._shard = shard
        self._chunks: dict[tuple[str, int], bytes] = {}
        self._manifest: dict[str, int | str] | None = None
        self._whole: bytes | None = None
        self.problems: list[str] = []

    @property
    def place(self) -> str | None:
        """The place that the newest manifest names."""
        return None if self._manifest is None else str(self._manifest["place"])

    @property
    def next_place(self) -> str:
        """Where the next snapshot goes."""
        return "B" if self.place == "A" else "A"

    @property
    def data(self) -> bytes | None:
        """The newest whole snapshot, None if there is none."""
        return self._whole

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
        except (ValueError, KeyError, TypeError) as error:
            return BadRecord(f"snapshot record with key {key!r}: {error!r}")

    def _close(self, manifest: dict[str, int | str]) -> BadRecord | None:
        number, place = int(manifest["chunks"]), str(manifest["place"])
        if not 1 <= number <= _MAX_CHUNKS or place not in ("A", "B"):
            return BadRecord(f"snapshot manifest {manifest}")
        self._manifest = manifest
        parts = [self._chunks.get((place, chunk)) for chunk in range(number)]
        whole = b"".join(part for part in parts if part is not None)
        if None in parts or len(whole) != manifest["bytes"] or zlib.crc32(whole) != manifest["crc32"]:
            return BadRecord(f"snapshot manifest {manifest}: its chunks are not whole")
        self._whole = whole
        return None
