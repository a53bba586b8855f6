"""The files of an export: their names, versions and checksums; without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xxhash

from trainer.embedding.layout import Layout
from trainer.errors import CheckpointError
from trainer.process.checksums import describe_bytes

__all__ = [
    "COMPRESSED_VERSION",
    "MANIFEST",
    "PARTS",
    "SLICED_VERSION",
    "VERSION",
    "is_export",
    "read_manifest",
    "read_parts",
    "sign",
]

VERSION = 6
COMPRESSED_VERSION = 7  # of an export whose rows are compressed; the files have the same names
SLICED_VERSION = 8  # of one whose shards have rows of their own (`slices`), compressed or not
_VERSIONS = (VERSION, COMPRESSED_VERSION, SLICED_VERSION)
MANIFEST = "export.json"
PARTS = ("dense", "rows", "router")
_MEMBERS: Mapping[str, tuple[type, ...]] = {
    "model": (str,), "dim": (int,), "row_format": (str,), "hot_store": (str, type(None)), "layout": (dict,),
    "fields": (list,), "num_dense": (int,), "rows_trained": (int,), "files": (dict,),
    "compression": (str, type(None)), "published": (dict, type(None)), "time_ms": (int, type(None)),
    "slices": (int, type(None)),
}  # fmt: skip
_OPTIONAL = ("compression", "published", "time_ms", "slices")
_UNSIGNED = b'{\n  "xxh3": "0000000000000000"'


def is_export(directory: Path) -> bool:
    """Whether a directory contains an export."""
    return (directory / MANIFEST).exists()


def sign(unsigned: bytes) -> bytes:
    """The manifest with its own checksum."""
    return unsigned.replace(b"0" * 16, xxhash.xxh3_64_hexdigest(unsigned).encode(), 1)


def read_manifest(directory: Path) -> dict[str, Any]:
    """The content of `export.json`, of this version and with the right checksum.

    Raises:
        CheckpointError: the export has another version, is damaged, cannot be read, or a member is missing or wrong.
    """
    path = directory / MANIFEST
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{directory}: cannot be read ({error}); expected an export") from error
    try:
        manifest: dict[str, Any] = json.loads(data)
        version = manifest["version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        version = VERSION
    if version in _VERSIONS and sign(_UNSIGNED + data[len(_UNSIGNED) :]) == data:
        try:
            _require_members(manifest)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: a member is missing or wrong ({error}); export again") from error
        return manifest
    if version not in _VERSIONS:
        raise CheckpointError(f"{path.parent}: got version {version!r}, expected {VERSION}; export again")
    raise CheckpointError(f"{path}: the checksum does not match: the export is damaged; export again")


def _require_members(manifest: Mapping[str, Any]) -> None:
    """Refuses a manifest from which an export cannot be read.

    Raises:
        KeyError: a member is missing.
        TypeError: one is of another type.
        ValueError: one has another value.
    """
    for name, kinds in _MEMBERS.items():
        member = manifest.get(name) if name in _OPTIONAL else manifest[name]
        if type(member) not in kinds:
            raise TypeError(f"{name}: got {member!r:.100}")
    if not all(type(number) is int for number in manifest["layout"].values()):
        raise TypeError(f"layout: got {manifest['layout']}")
    layout, slices = Layout(**manifest["layout"]), manifest.get("slices") or 1
    if slices < 1 or layout.level_1_per_field % slices or 0 < layout.level_2_rows < slices:
        raise ValueError(f"slices: got {slices} of {layout}")
    num_fields = layout.num_fields
    if len([(str(name), str(kind)) for name, kind in manifest["fields"]]) != num_fields:
        raise ValueError(f"fields: got {len(manifest['fields'])}, expected {num_fields}")
    if manifest["dim"] < 1 or manifest["num_dense"] < 0:
        raise ValueError(f"dim, num_dense: got {manifest['dim']}, {manifest['num_dense']}")
    for part in PARTS:
        manifest["files"][f"{part}.safetensors"]


def read_parts(directory: Path, manifest: Mapping[str, Any]) -> dict[str, bytes]:
    """The bytes of the safetensors files, by part, with the sizes and checksums of the manifest.

    Raises:
        CheckpointError: a file is damaged or cannot be read.
    """
    return {name: _read(directory / f"{name}.safetensors", manifest["files"]) for name in PARTS}


def _read(path: Path, files: Mapping[str, Any]) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path.parent}: cannot be read ({error}); expected an export") from error
    if (got := describe_bytes(data)) != (expected := files[path.name]):
        raise CheckpointError(f"{path}: got {got}, expected {expected}: the export is damaged; export again")
    return data
