"""The size and checksum of a file, as the manifests of checkpoints and exports have them; without torch."""

from __future__ import annotations

from typing import Any

import xxhash

__all__ = ["describe_bytes"]


def describe_bytes(data: bytes) -> dict[str, Any]:
    """The size and checksum of data, as `trainer.process.checkpoint.write_file` returns them."""
    return {"bytes": len(data), "xxh3": xxhash.xxh3_64_hexdigest(data)}
