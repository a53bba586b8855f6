"""Checkpoints: each is a directory that is either complete or absent; the newest valid one is read.

    DIR/000000000812/            the last event in it (`trainer.process.journal`); a leading dot marks an unfinished one
        tensors.safetensors      weights, rows, optimizer states, router, and the tables that the assignments make
        state.json               everything else: offsets and ids of topics, applied seq, windows, configuration
        manifest.json            its own checksum; version; size and checksum (xxh3, 64 bits) of the others

A checkpoint is written to a temporary directory, fsynced, and renamed, so a kill or a power failure at any moment
leaves the previous one intact. Nothing is pickled, so loading a checkpoint runs no code.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
import xxhash
from torch import Tensor

from trainer.errors import CheckpointError, DivergedError
from trainer.learning.finiteness import find_non_finite
from trainer.process.checksums import describe_bytes

__all__ = [
    "Captured",
    "Checkpoint",
    "Checkpoints",
    "in_order",
    "read_if_good",
    "sync_directory",
    "write_file",
    "write_tensors",
]

logger = logging.getLogger(__name__)

VERSION = 7
_PIECE_BYTES = 1 << 20
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint16: "U16",
    torch.int8: "I8",
    torch.uint8: "U8",
}
_UNSORTED = {"router_keys": "router_values", ".keys": ".rows"}  # suffixes of names: unsorted keys -> their values
_TENSORS, _STATE, _MANIFEST = "tensors.safetensors", "state.json", "manifest.json"


@dataclass(frozen=True)
class Captured:
    """A copy of a run's state after an event, to be written."""

    event: int
    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint.

    Attributes:
        tensors: the tensors by name, on the CPU.
        state: the rest of the state, from JSON.
        path: the directory of the checkpoint.
    """

    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]
    path: Path

    @property
    def age_s(self) -> float:
        """The time since it was written, by the clocks of the disk and of this machine."""
        return time.time() - self.path.stat().st_mtime


def _pieces_of(tensors: Mapping[str, Tensor]) -> Iterator[memoryview | bytes]:
    """Encodes a safetensors file in pieces of at most 1 MiB, so that no call holds the interpreter's lock for long."""
    header, end, parts = {}, 0, []
    for name, tensor in sorted(tensors.items()):
        # An empty tensor from numpy has a stride that `view` refuses.
        whole = tensor.detach().cpu().contiguous() if tensor.numel() else torch.empty(0, dtype=tensor.dtype)
        flat = whole.reshape(-1).view(torch.uint8).numpy()
        offsets = [end, end := end + flat.nbytes]
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        parts.append(flat)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for flat in parts:
        for start in range(0, flat.nbytes, _PIECE_BYTES):
            yield flat[start : start + _PIECE_BYTES].data


def in_order(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with hot keys in ascending order, so that equal states give equal files."""
    ordered = dict(tensors)
    for name in tensors:
        for keys, values in _UNSORTED.items():
            if name.endswith(keys):
                order = torch.from_numpy(np.argsort(tensors[name].numpy().view(np.uint64)))
                theirs = name.removesuffix(keys) + values
                ordered[name], ordered[theirs] = tensors[name][order], tensors[theirs][order]
    return ordered


def write_file(path: Path, pieces: Iterable[memoryview | bytes]) -> dict[str, Any]:
    """Writes and fsyncs a file; returns its size and checksum."""
    checksum, size = xxhash.xxh3_64(), 0
    with path.open("wb") as file:
        for piece in pieces:
            checksum.update(piece)
            size += len(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": size, "xxh3": checksum.hexdigest()}


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Writes and fsyncs a safetensors file; returns its size and checksum."""
    return write_file(path, _pieces_of(tensors))


def sync_directory(path: Path) -> None:
    """Fsyncs a directory, so that its entries survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Checkpoints:
    """The checkpoints of one run, in a directory that only this run writes to.

    Args:
        directory: the directory, created if missing.
        keep: the number of newest checkpoints to keep; at least 2, so that a damaged one has a predecessor.
    """

    def __init__(self, directory: Path, *, keep: int = 3) -> None:
        if keep < 2:
            raise CheckpointError(f"keep: got {keep}, expected at least 2")
        self.directory = directory
        self._keep = keep
        directory.mkdir(parents=True, exist_ok=True)

    def paths(self) -> list[Path]:
        """The complete checkpoints, newest first."""
        return sorted((path for path in self.directory.iterdir() if path.name.isdigit()), reverse=True)

    def save(self, event: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
        """Writes the state after an event, and deletes all but the newest checkpoints.

        A checkpoint replaces an older one of the same event.

        Raises:
            DivergedError: a number is not finite; nothing is written.
            OSError: the disk fails; the checkpoints of earlier events are kept.
        """
        if (bad := find_non_finite(tensors)) is not None:
            raise DivergedError(
                f"{self.directory}: {bad} of event {event} has numbers that are not finite, so no checkpoint was "
                "written and the last good one is kept: the model diverged; lower the learning rates and start over "
                "with --fresh"
            )
        name = f"{event:012d}"
        temporary, final = self.directory / f".{name}.part", self.directory / name
        try:
            self._write(event, temporary, tensors, state)
            self._replace(temporary, final)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)  # makes room for the next one
            raise
        self._prune()
        return final

    def _write(self, event: int, directory: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        files = {
            _TENSORS: write_tensors(directory / _TENSORS, tensors),
            _STATE: write_file(directory / _STATE, [json.dumps(state, allow_nan=False).encode()]),
        }
        content = {"version": VERSION, "event": event, "files": files}
        # The manifest has the checksums of the other files; its first line is its own checksum.
        text = json.dumps(content, indent=2).encode()
        write_file(directory / _MANIFEST, [xxhash.xxh3_64_hexdigest(text).encode(), b"\n", text])
        sync_directory(directory)

    def _replace(self, temporary: Path, final: Path) -> None:
        if final.exists():
            replaced = self.directory / f".{final.name}.old"
            shutil.rmtree(replaced, ignore_errors=True)
            final.rename(replaced)
        temporary.rename(final)
        sync_directory(self.directory)

    def _prune(self) -> None:
        for path in self.paths()[self._keep :]:
            shutil.rmtree(path)
        for path in self.directory.glob(".*.old"):
            shutil.rmtree(path)

    def load(self) -> Checkpoint | None:
        """The newest valid checkpoint; None if there are none. Logs a warning for each damaged one.

        Raises:
            CheckpointError: there are checkpoints, and all are damaged.
        """
        self._delete_unfinished()
        paths = self.paths()
        for path in paths:
            checkpoint = read_if_good(path)
            if checkpoint is not None:
                return checkpoint
        if paths:
            raise CheckpointError(f"{self.directory}: all {len(paths)} checkpoints are damaged; start with --fresh")
        return None

    def _delete_unfinished(self) -> None:
        for leftover in self.directory.glob(".*.part"):
            logger.warning("checkpoint %s was never finished; deleted", leftover.name)
            shutil.rmtree(leftover)

    def clear(self) -> None:
        """Deletes every checkpoint."""
        for path in [*self.paths(), *self.directory.glob(".*.part"), *self.directory.glob(".*.old")]:
            shutil.rmtree(path)


def read_if_good(path: Path) -> Checkpoint | None:
    """The checkpoint of a directory; None, with a warning, if it is damaged."""
    try:
        return _read(path)
    except (CheckpointError, OSError) as error:
        logger.warning("checkpoint %s is damaged (%s); trying the previous one", path, error)
        return None


def _read(path: Path) -> Checkpoint:
    """Reads a checkpoint and verifies all its checksums.

    Raises:
        CheckpointError: the checkpoint is damaged or has another version.
        OSError: a file is missing or cannot be read.
    """
    try:
        checksum, _, text = (path / _MANIFEST).read_bytes().partition(b"\n")
        if xxhash.xxh3_64_hexdigest(text).encode() != checksum:
            raise CheckpointError(f"{_MANIFEST}: the checksum does not match")
        manifest = json.loads(text)
        if manifest["version"] != VERSION:
            raise CheckpointError(f"version {manifest['version']}, expected {VERSION}")
        files = {}
        for name in (_TENSORS, _STATE):
            files[name] = (path / name).read_bytes()
            if describe_bytes(files[name]) != manifest["files"][name]:
                raise CheckpointError(f"{name}: size or checksum does not match the manifest")
        if path.name != f"{manifest['event']:012d}":
            raise CheckpointError(f"{_MANIFEST}: got event {manifest['event']}, expected {path.name}")
        state = json.loads(files[_STATE])
        return Checkpoint(safetensors.torch.load(files[_TENSORS]), state, path)
    except (ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{type(error).__name__}: {error}") from error
