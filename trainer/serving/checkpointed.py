"""A checkpoint of a run as an export is; needs torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from trainer.embedding.layout import Layout
from trainer.learning.trainer import ADAPTIVE
from trainer.process.checkpoint import Checkpoint
from trainer.process.newest_checkpoint import read_newest
from trainer.ranks.slices import join_slices, joined_layout
from trainer.serving.export import parts_of, write_export
from trainer.serving.export_files import SLICED_VERSION, VERSION
from trainer.serving.exported import Exported
from trainer.serving.published import Published
from trainer.serving.shape import ServedShape

__all__ = ["export_checkpoint", "read_checkpointed"]

_PREFIX = f"{ADAPTIVE}.embedding."


def read_checkpointed(directory: Path) -> Exported:
    """The rows of the newest intact checkpoint in a directory, which a trainer may be writing to.

    Raises:
        CheckpointError: there is none.
        ReplicaError: the slices of its shards are too small to be served.
    """
    checkpoint = read_newest(directory)
    config, embedding = checkpoint.state["config"], _embedding_of(checkpoint)
    arrays = {name: _array(tensor) for name, tensor in embedding.items()}
    fields, slices = tuple((str(name), str(kind)) for name, kind in config["fields"]), _slices_of(checkpoint)
    shape = ServedShape(
        model=config["model"], dim=config["dim"], row_format=config["row_format"],
        hot_store=config["hot_store"] or config["row_format"], layout=_layout_of(checkpoint), fields=fields,
        num_dense=config["num_dense"], partitions=1, published=tuple(range(1, len(fields) + 1)), run=0, slices=slices,
    )  # fmt: skip
    return Exported(
        shape=shape, published=None, dense=b"", step=_rows_of(checkpoint),
        time_ms=int(checkpoint.path.stat().st_mtime * 1000), rows=arrays,
        router={"keys": arrays["router_keys"], "values": arrays["router_values"]},
    )  # fmt: skip


def export_checkpoint(
    checkpoints: Path, directory: Path, *, published: Published | None = None, option: str = "--out"
) -> None:
    """Writes an export of the newest intact checkpoint in a directory.

    Args:
        checkpoints: the directory.
        directory: of the export.
        published: what the run had published at that checkpoint; None for nothing.
        option: that gave the directory of the export, for messages.

    Raises:
        CheckpointError: there is none, or the export cannot be written.
        DivergedError: a number is not finite.
    """
    checkpoint = read_newest(checkpoints)
    config, state = checkpoint.state["config"], checkpoint.state
    start = f"{ADAPTIVE}.model."
    dense = {name.removeprefix(start): one for name, one in checkpoint.tensors.items() if name.startswith(start)}
    shards, slices = enumerate(state["history"]["shards"]), _slices_of(checkpoint)
    content = {
        "version": VERSION if slices == 1 else SLICED_VERSION,
        **{name: config[name] for name in ("model", "dim", "row_format", "hot_store", "fields", "num_dense")},
        "layout": asdict(_layout_of(checkpoint)),
        **({} if slices == 1 else {"slices": slices}),
        "rows_trained": _rows_of(checkpoint),
        "applied_seq": {str(number): [shard["epoch"], shard["seq"]] for number, shard in shards if shard["seq"]},
        "offsets": state["offsets"],
        "time_ms": int(checkpoint.path.stat().st_mtime * 1000),
        "published": None if published is None else asdict(published),
    }
    write_export(directory, parts_of(dense, _embedding_of(checkpoint)), content, option)


def _slices_of(checkpoint: Checkpoint) -> int:
    """The number of slices: of a run of ranks, that of its shards."""
    return len(checkpoint.state["history"]["shards"]) if "ranks" in checkpoint.state else 1


def _rows_of(checkpoint: Checkpoint) -> int:
    """The rows that the model has seen, those of all ranks."""
    state = checkpoint.state
    return int(state["ranks"]["rows"] if "ranks" in state else state["progress"]["rows"])


def _layout_of(checkpoint: Checkpoint) -> Layout:
    config = checkpoint.state["config"]
    sizes = {name: config[name] for name in ("capacity_rows", "level_1_per_field", "level_2_rows")}
    return joined_layout(Layout(num_fields=len(config["fields"]), **sizes), _slices_of(checkpoint))


def _embedding_of(checkpoint: Checkpoint) -> Mapping[str, torch.Tensor]:
    """The tensors of the embedding by name; those of several slices one after the other."""
    tensors = checkpoint.tensors.items()
    own = {name.removeprefix(_PREFIX): one for name, one in tensors if name.startswith(_PREFIX)}
    if "ranks" not in checkpoint.state:
        return own
    return join_slices(own, checkpoint.state["config"]["capacity_rows"], _slices_of(checkpoint))


def _array(tensor: torch.Tensor) -> npt.NDArray[Any]:
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()
