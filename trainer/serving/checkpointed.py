"""A checkpoint of a run as an export is; needs torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from trainer.embedding.layout import Layout
from trainer.learning.trainer import ADAPTIVE
from trainer.process.checkpoint import read_newest
from trainer.serving.export import parts_of, write_export
from trainer.serving.export_files import VERSION
from trainer.serving.exported import Exported
from trainer.serving.shape import ServedShape

__all__ = ["export_checkpoint", "read_checkpointed"]

_PREFIX = f"{ADAPTIVE}.embedding."


def read_checkpointed(directory: Path) -> Exported:
    """The rows of the newest intact checkpoint in a directory, which a trainer may be writing to.

    Raises:
        CheckpointError: there is none.
    """
    checkpoint = read_newest(directory)
    config, tensors = checkpoint.state["config"], checkpoint.tensors.items()
    arrays = {name.removeprefix(_PREFIX): _array(tensor) for name, tensor in tensors if name.startswith(_PREFIX)}
    fields = tuple((str(name), str(kind)) for name, kind in config["fields"])
    sizes = {name: config[name] for name in ("capacity_rows", "level_1_per_field", "level_2_rows")}
    shape = ServedShape(
        model=config["model"], dim=config["dim"], row_format=config["row_format"],
        hot_store=config["hot_store"] or config["row_format"], layout=Layout(num_fields=len(fields), **sizes),
        fields=fields, num_dense=config["num_dense"], partitions=1, published=tuple(range(1, len(fields) + 1)), run=0,
    )  # fmt: skip
    return Exported(
        shape=shape, published=None, dense=b"", step=checkpoint.state["progress"]["rows"],
        time_ms=int(checkpoint.path.stat().st_mtime * 1000), rows=arrays,
        router={"keys": arrays["router_keys"], "values": arrays["router_values"]},
    )  # fmt: skip


def export_checkpoint(checkpoints: Path, directory: Path) -> None:
    """Writes an export of the newest intact checkpoint in a directory, as of a run that publishes nothing.

    Raises:
        CheckpointError: there is none, or the export cannot be written.
        DivergedError: a number is not finite.
    """
    checkpoint = read_newest(checkpoints)
    config, state = checkpoint.state["config"], checkpoint.state
    dense, tensors = (
        {name.removeprefix(start): one for name, one in checkpoint.tensors.items() if name.startswith(start)}
        for start in (f"{ADAPTIVE}.model.", _PREFIX)
    )
    sizes = {name: config[name] for name in ("capacity_rows", "level_1_per_field", "level_2_rows")}
    shards = enumerate(state["history"]["shards"])
    content = {
        "version": VERSION,
        **{name: config[name] for name in ("model", "dim", "row_format", "hot_store", "fields", "num_dense")},
        "layout": {"num_fields": len(config["fields"]), **sizes},
        "rows_trained": state["progress"]["rows"],
        "applied_seq": {str(number): [shard["epoch"], shard["seq"]] for number, shard in shards if shard["seq"]},
        "offsets": state["offsets"],
        "time_ms": int(checkpoint.path.stat().st_mtime * 1000),
        "published": None,
    }
    write_export(directory, parts_of(dense, tensors), content, "--out")


def _array(tensor: torch.Tensor) -> npt.NDArray[Any]:
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()
