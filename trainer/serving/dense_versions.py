"""`DenseVersions`: versions of the dense part as chunks behind a manifest; the newest complete one counts."""

from __future__ import annotations

from collections.abc import Iterator

import xxhash

from streams.records.embeddings import ChunkRecord, NoteRecord

__all__ = ["CHUNK_BYTES", "DenseVersions", "split_version"]

CHUNK_BYTES = 256 << 10


def split_version(data: bytes, *, version: int, slot: int, model: int) -> Iterator[ChunkRecord | NoteRecord]:
    """The chunks of a version, and its manifest, which must be written after them."""
    pieces = [data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES)]
    for number, piece in enumerate(pieces):
        yield ChunkRecord(slot=slot, number=number, version=version, data=piece)
    content = {
        "kind": "dense", "model": f"{model:016x}", "version": version, "chunks": len(pieces), "bytes": len(data),
        "xxh3": xxhash.xxh3_64_hexdigest(data),
    }  # fmt: skip
    yield NoteRecord(kind="m", number=slot, content=content)


class DenseVersions:
    """Collects versions as they are read.

    Attributes:
        version: the newest complete version; 0 for none.
        model: the fingerprint of the shape that it belongs to.
        data: its bytes.
        num_incomplete: manifests whose chunks were missing or had another checksum.
    """

    def __init__(self) -> None:
        self.version, self.model, self.data = 0, "", b""
        self.num_incomplete = 0
        self._chunks: dict[tuple[int, int], ChunkRecord] = {}

    def load(self, version: int, model: str, data: bytes) -> None:
        """Begins with a version that was not read from the topic."""
        self.version, self.model, self.data = version, model, data

    def take(self, record: ChunkRecord | NoteRecord) -> None:
        """Takes a chunk, or a manifest, which completes its version if all chunks are there."""
        if isinstance(record, ChunkRecord):
            self._chunks[record.slot, record.number] = record
            return
        version, count = record.content.get("version"), record.content.get("chunks")
        if not isinstance(version, int) or not isinstance(count, int) or version <= self.version:
            return
        chunks = [self._chunks.get((record.number, number)) for number in range(min(count, 1 << 16))]
        data = b"".join(chunk.data for chunk in chunks if chunk is not None and chunk.version == version)
        if xxhash.xxh3_64_hexdigest(data) != record.content.get("xxh3"):
            self.num_incomplete += 1
            return
        self.version, self.model, self.data = version, str(record.content.get("model")), data
