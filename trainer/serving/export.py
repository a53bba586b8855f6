"""Exports the adaptive learner of a run as files that a program in any language can read.

    DIR/dense.safetensors     the model's weights, by their torch names
        rows.safetensors      of `unique`, `shared.level_1` and `shared.level_2`: NAME.values (R, D), and NAME.scales
                              (R,) for int8 rows (a value is int8 times scale); gate (F, 3), the factors of each field's
                              unique rows, rows of level 1 and quarters of level 2
        router.safetensors    keys (K,) int64, bits of the hot feature keys, ascending; values (K,) int32, their rows
        export.json           sizes, row format and fields; seq by shard, offsets by topic; sizes and checksums (xxh3,
                              64 bits) of the other files; `xxh3`, that of export.json itself with 16 zeros in its
                              stead; `published`: what the topic `embeddings` had then, null without `--publish`

A hot key reads its unique row. Any other key reads the sum of a row of level 1 and quarters of four rows of level 2
(`trainer.embedding.stores.two_level` defines the hashes). A replica follows the trainer if it applies the assignments
after the exported seq and receives the rows of promoted keys.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from streams.keys import Field
from trainer.embedding.adaptive import AdaptiveEmbedding
from trainer.embedding.layout import Layout
from trainer.embedding.plans import EmbeddingPlan
from trainer.errors import CheckpointError, DivergedError
from trainer.learning.finiteness import find_non_finite
from trainer.learning.models import build_model
from trainer.learning.trainer import ADAPTIVE
from trainer.process.checkpoint import sync_directory, write_file, write_tensors
from trainer.process.run import TrainingRun
from trainer.ranks.embedding import RankedEmbedding
from trainer.ranks.group import Ranks
from trainer.ranks.slices import cut_slices
from trainer.serving.compression.formats import TABLES, Compressed, read_gates, unique_groups
from trainer.serving.export_files import MANIFEST, VERSION, is_export, read_manifest, read_parts, sign
from trainer.serving.exported import Exported
from trainer.serving.published import Published

__all__ = ["export", "load_export", "parts_of", "require_finite", "write_export"]


def export(run: TrainingRun, directory: Path, published: Published | None = None) -> None:
    """Writes the adaptive learner to the directory; replaces an earlier export only after all files are written.

    Args:
        run: the run.
        directory: the directory.
        published: what the run has published; None for nothing.

    Raises:
        CheckpointError: the run has trained no record, or the directory contains files that are not an export, or
            cannot be written.
        DivergedError: a number is not finite.
    """
    if run.trainer is None:
        raise CheckpointError("--export: the run has trained no click record, so there is nothing to export")
    learner, embedding = run.trainer.learners[ADAPTIVE], run.trainer.embedding
    parts = parts_of(learner.model.state_dict(), embedding.tensors())
    write_export(directory, parts, {"version": VERSION, **_describe(run, embedding.plan, published)})


def parts_of(dense: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors of each file, from those of the dense part and of the embedding.

    Raises:
        DivergedError: a number is not finite.
    """
    parts: dict[str, dict[str, Tensor]] = {
        "dense": dict(dense),
        "rows": {
            name: tensor for name, tensor in tensors.items() if name.endswith((".values", ".scales")) or name == "gate"
        },
        "router": {"keys": tensors["router_keys"], "values": tensors["router_values"]},
    }
    require_finite(parts, "--export")
    return parts


def require_finite(parts: Mapping[str, Mapping[str, Tensor]], option: str) -> None:
    """Refuses tensors of files with a number that is not finite; `option` is for the message.

    Raises:
        DivergedError: there is one.
    """
    for name, part in parts.items():
        if (bad := find_non_finite(part)) is not None:
            raise DivergedError(f"{option}: {name}: {bad} has numbers that are not finite: the model diverged")


def write_export(
    directory: Path, parts: Mapping[str, Mapping[str, Tensor]], content: Mapping[str, Any], option: str = "--export"
) -> None:
    """Writes an export; replaces an earlier one only after all files are written.

    Args:
        directory: the directory.
        parts: the tensors of each safetensors file.
        content: of `export.json`, version first, without checksums and sizes.
        option: that gave the directory, for messages.

    Raises:
        CheckpointError: the directory contains files that are not an export, or cannot be written.
    """
    if directory.exists() and any(directory.iterdir()) and not is_export(directory):
        raise CheckpointError(f"{option} {directory}: contains files but no {MANIFEST}; choose an empty directory")
    try:
        _write(directory, parts, {"xxh3": "0" * 16, **content})
    except OSError as error:
        raise CheckpointError(
            f"{option} {directory}: cannot be written ({error}); choose a directory that can be written"
        ) from error


def _write(directory: Path, parts: Mapping[str, Mapping[str, Tensor]], manifest: dict[str, Any]) -> None:
    """Writes the files beside the directory, and then replaces it."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary, replaced = (directory.with_name(f".{directory.name}.{end}") for end in ("part", "old"))
    for leftover in (temporary, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir()
    try:
        manifest["files"] = {
            f"{name}.safetensors": write_tensors(temporary / f"{name}.safetensors", part)
            for name, part in parts.items()
        }
        write_file(temporary / MANIFEST, [sign(json.dumps(manifest, indent=2).encode())])
        sync_directory(temporary)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if directory.exists():
        directory.rename(replaced)
    temporary.rename(directory)
    sync_directory(directory.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _describe(run: TrainingRun, plan: EmbeddingPlan, published: Published | None) -> dict[str, Any]:
    fields, num_dense = run.shape
    return {
        "model": run.config.model.model,
        "dim": plan.dim,
        "row_format": plan.row_format,
        "hot_store": plan.hot_store,
        "layout": asdict(plan.layout),
        "fields": [[column.name, column.kind] for column in fields],
        "num_dense": num_dense,
        "rows_trained": run.progress.rows,
        "applied_seq": run.history.standings(),
        "offsets": run.offsets,
        "time_ms": time.time_ns() // 1_000_000,
        "published": None if published is None else asdict(published),
    }


def load_export(directory: Path) -> tuple[nn.Module, AdaptiveEmbedding | RankedEmbedding, dict[str, Any]]:
    """Returns the model, its embedding on the CPU, and the content of `export.json`; compressed rows as float32.

    The embedding is a `RankedEmbedding`, of a single rank, if several shards have rows of their own.

    Raises:
        CheckpointError: the export has another format version, lacks a file, or a size or checksum does not match.
    """
    manifest = read_manifest(directory)
    parts = {name: safetensors.torch.load(data) for name, data in read_parts(directory, manifest).items()}
    row_format, hot_store = manifest["row_format"], manifest["hot_store"]
    if manifest.get("compression") is not None:
        row_format, hot_store, parts["rows"] = "float32", None, _decode(Exported.read(directory))
    plan = EmbeddingPlan(
        layout=Layout(**manifest["layout"]), dim=manifest["dim"], optimizer="sgd", row_format=row_format,
        hot_store=hot_store, router_keys=len(parts["router"]["keys"]),
    )  # fmt: skip
    fields = [Field(*pair) for pair in manifest["fields"]]
    model = build_model(manifest["model"], num_dense=manifest["num_dense"], num_fields=len(fields), dim=plan.dim)
    model.load_state_dict(parts["dense"])
    router = {"router_keys": parts["router"]["keys"], "router_values": parts["router"]["values"]}
    return model, _embedding_of(plan, manifest.get("slices") or 1, {**parts["rows"], **router}), manifest


def _embedding_of(
    plan: EmbeddingPlan, slices: int, tensors: Mapping[str, Tensor]
) -> AdaptiveEmbedding | RankedEmbedding:
    """An embedding with the exported tensors."""
    embedding: AdaptiveEmbedding | RankedEmbedding
    if slices > 1:
        embedding, tensors = RankedEmbedding(plan, slices, Ranks()), cut_slices(tensors, plan.layout, slices)
    else:
        embedding = AdaptiveEmbedding(plan)
    unexported = {name: torch.zeros_like(tensor) for name, tensor in embedding.tensors().items()}
    embedding.load_tensors({**unexported, **tensors})
    return embedding


def _decode(exported: Exported) -> dict[str, Tensor]:
    """The rows of a compressed export as those of an export in float32."""
    layout, compressed = exported.shape.layout, Compressed.of(exported)
    groups = (unique_groups(exported), np.zeros(layout.level_1_rows, int), np.zeros(layout.level_2_rows, int))
    rows = {
        f"{name}.values": torch.from_numpy(table.decode(np.arange(len(mine)), mine))
        for name, table, mine in zip(TABLES, compressed.tables, groups, strict=True)
    }
    return {**rows, "gate": torch.from_numpy(read_gates(exported).copy())}
