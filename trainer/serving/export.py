"""What serving needs of a trained run, as files that any language reads.

    DIR/dense.safetensors     the model's weights, by their torch names
        rows.safetensors      of each store `hot`, `level_1` and `level_2`: STORE.values (R, D), and STORE.scales (R,)
                              of int8 rows (a number is its int8 times its row's scale);
                              gate (F, 2) if there is one: what a field's shared and unique vectors are times
        router.safetensors    keys (K,) int64 (the feature keys' bits) of hot keys, ascending; values (K,) int32: rows
        export.json           sizes, format, fields, and where it stands: seq by shard, offsets by topic; checksums

A hot key has its unique row; any other a row of level 1 plus the halves of two rows of level 2
(`trainer.embedding.layout` and `trainer.embedding.stores.addressing` have the seeds and the arithmetic). A replica that
applies the assignments behind the seq named here, and is sent the promoted rows, follows the trainer.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from streams.keys import Field
from trainer.embedding.adaptive import AdaptiveEmbedding
from trainer.embedding.layout import Layout
from trainer.embedding.plans import EmbeddingPlan
from trainer.errors import CheckpointError
from trainer.learning.models import build_model
from trainer.learning.trainer import ADAPTIVE
from trainer.process.checkpoint import sync_directory, write_file, write_tensors
from trainer.process.run import TrainingRun

__all__ = ["VERSION", "export", "load_export"]

VERSION = 4
_ABOUT = "export.json"


def export(run: TrainingRun, directory: Path) -> None:
    """Writes the adaptive learner; what was in the directory is replaced only when all is written.

    Raises:
        CheckpointError: nothing was trained yet, or the directory holds something else.
    """
    if run.trainer is None:
        raise CheckpointError("--export: no click record was trained, so there is nothing to export")
    if directory.exists() and any(directory.iterdir()) and not (directory / _ABOUT).exists():
        raise CheckpointError(f"--export {directory}: holds files that are no export; name another directory")
    learner, embedding = run.trainer.learners[ADAPTIVE], run.trainer.embedding
    tensors = embedding.tensors()
    parts: dict[str, dict[str, Tensor]] = {
        "dense": dict(learner.model.state_dict()),
        "rows": {
            name: tensor for name, tensor in tensors.items() if name.endswith((".values", ".scales")) or name == "gate"
        },
        "router": {"keys": tensors["router_keys"], "values": tensors["router_values"]},
    }
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary, replaced = (directory.with_name(f".{directory.name}.{end}") for end in ("part", "old"))
    for leftover in (temporary, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir()
    files = {
        f"{name}.safetensors": write_tensors(temporary / f"{name}.safetensors", part) for name, part in parts.items()
    }
    about = {"version": VERSION, "files": files, **_describe(run, embedding.plan)}
    write_file(temporary / _ABOUT, [json.dumps(about, indent=2).encode()])
    sync_directory(temporary)
    if directory.exists():
        directory.rename(replaced)
    temporary.rename(directory)
    sync_directory(directory.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _describe(run: TrainingRun, plan: EmbeddingPlan) -> dict[str, Any]:
    fields, num_dense = run.shape
    return {
        "model": run.config.model.model,
        "dim": plan.dim,
        "row_format": plan.row_format,
        "hot_store": plan.hot_store,
        "gate": plan.gate,
        "layout": asdict(plan.layout),
        "fields": [[column.name, column.kind] for column in fields],
        "num_dense": num_dense,
        "rows_trained": run.progress.rows,
        "applied_seq": run.follower.to_state(),
        "offsets": run.offsets,
    }


def load_export(directory: Path) -> tuple[nn.Module, AdaptiveEmbedding, dict[str, Any]]:
    """The model, its embedding on the CPU, and what `export.json` says.

    Raises:
        CheckpointError: it is of another version.
    """
    about = json.loads((directory / _ABOUT).read_bytes())
    if about["version"] != VERSION:
        raise CheckpointError(f"{directory}: version {about['version']}, expected {VERSION}")
    parts = {
        name: safetensors.torch.load_file(directory / f"{name}.safetensors") for name in ("dense", "rows", "router")
    }
    plan = EmbeddingPlan(
        layout=Layout(**about["layout"]), dim=about["dim"], optimizer="sgd", row_format=about["row_format"],
        hot_store=about["hot_store"],        router_keys=len(parts["router"]["keys"]), gate=about["gate"],
    )  # fmt: skip
    fields = [Field(*pair) for pair in about["fields"]]
    model = build_model(about["model"], num_dense=about["num_dense"], num_fields=len(fields), dim=plan.dim)
    model.load_state_dict(parts["dense"])
    embedding = AdaptiveEmbedding(plan)
    unexported = {name: torch.zeros_like(tensor) for name, tensor in embedding.tensors().items()}
    router = {"router_keys": parts["router"]["keys"], "router_values": parts["router"]["values"]}
    embedding.load_tensors({**unexported, **parts["rows"], **router})
    return model, embedding, about
