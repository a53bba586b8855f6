r"""Trains models on two streams and two seeds, and measures what each format costs their exports on later rows.

python -m benchmarks.compression --tokens .../site-packages/torch --rows 100000 --held-out 60000 --capacity 15000 \
    --json benchmarks/results/compression.json
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from sketch.hotset import HotSet
from sketch.hotsketch import HotSketch
from streams.cli.reports import Report, json_option
from trainer.embedding.adaptive import AdaptiveEmbedding
from trainer.embedding.plans import plan_for_capacity
from trainer.errors import PlanError
from trainer.evaluate.sources.stream import GeneratorSource, RowSource, Stream, load_stream
from trainer.evaluate.sources.tokens import TokenSource
from trainer.learning.models import build_model
from trainer.serving.compression.compress import Bytes, Original, compress, write_compressed
from trainer.serving.compression.formats import FORMATS
from trainer.serving.compression.held_out import HeldOut, Worth, measure
from trainer.serving.compression.reads import count_reads
from trainer.serving.export import write_export
from trainer.serving.export_files import VERSION
from trainer.serving.exported import Exported
from trainer.serving.predictor import Predictor

__all__ = ["main"]

_BATCH_ROWS, _MODEL = 512, "dlrm"


def _train(
    stream: Stream, num_rows: int, dim: int, capacity: int, seed: int
) -> tuple[torch.nn.Module, AdaptiveEmbedding]:
    """A model after one pass over the first rows, and its embedding."""
    torch.manual_seed(seed)
    plan = plan_for_capacity(capacity, dim, stream.num_fields)
    embedding = AdaptiveEmbedding(plan, seed=seed)
    hot_set = HotSet(capacity, HotSketch(capacity // 3, seed=seed))
    model = build_model(_MODEL, num_dense=stream.dense.shape[1], num_fields=stream.num_fields, dim=dim)
    optimizer = torch.optim.Adam(model.parameters(), 0.001)
    for rows in stream.batches(_BATCH_ROWS, num_rows=num_rows):
        vectors = embedding(torch.from_numpy(stream.keys[rows].view(np.int64)))
        logits = model(torch.from_numpy(stream.dense[rows]), vectors)
        loss = binary_cross_entropy_with_logits(logits, torch.from_numpy(stream.label[rows].astype(np.float32)))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        importance = embedding.apply_gradients()
        embedding.migrate(hot_set.update(importance.keys, importance.scores))
    return model, embedding


def _export(directory: Path, model: torch.nn.Module, embedding: AdaptiveEmbedding, stream: Stream, rows: int) -> None:
    """Writes what `hotstream train --export` would, of a trainer that reads no topic."""
    tensors, plan = embedding.tensors(), embedding.plan
    parts = {
        "dense": dict(model.state_dict()),
        "rows": {name: one for name, one in tensors.items() if name.endswith((".values", ".scales")) or name == "gate"},
        "router": {"keys": tensors["router_keys"], "values": tensors["router_values"]},
    }
    content = {
        "version": VERSION,
        "model": _MODEL,
        "dim": plan.dim,
        "row_format": plan.row_format,
        "hot_store": plan.hot_store,
        "layout": asdict(plan.layout),
        "fields": [[f"c{number}", "hash"] for number in range(stream.num_fields)],
        "num_dense": stream.dense.shape[1],
        "rows_trained": rows,
        "applied_seq": {},
        "offsets": {},
        "time_ms": time.time_ns() // 1_000_000,
        "published": None,
    }
    write_export(directory, parts, content)


def _batches(stream: Stream, rows: slice) -> Iterator[HeldOut]:
    for start in range(rows.start, rows.stop, _BATCH_ROWS):
        mine = slice(start, min(start + _BATCH_ROWS, rows.stop))
        keys = stream.keys[mine].reshape(-1)
        yield HeldOut(dense=stream.dense[mine], keys=keys, offsets=np.arange(len(keys)), label=stream.label[mine])


def _describe(name: str, ratio: float | None, sizes: Bytes, worth: Worth) -> dict[str, Any]:
    row = {"compress": name, "asked": ratio, "bytes": asdict(sizes), **asdict(worth)}
    click.echo(
        f"{name:<9} {sizes.rows:>10,} bytes, AUC {worth.auc:.4f}, log loss {worth.log_loss:.4f}, "
        f"{(worth.lookups_per_s or 0) / 1e6:.1f} M lookups/s",
        err=True,
    )
    return row


def _measure(
    stream: Stream, rows: int, held_out: int, dim: int, capacity: int, seed: int, ratios: Sequence[float]
) -> dict[str, Any]:
    """One model: what each format makes of its export."""
    middle, results = rows + held_out // 2, []
    last = slice(middle, rows + held_out)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "out", Path(folder) / "small"
        _export(source, *_train(stream, rows, dim, capacity, seed), stream, rows)
        original = Original.read(source)
        reads = count_reads(original.exported, stream.keys[rows:middle].reshape(-1))
        sizes = Bytes.of(original.exported)
        worth = measure(Predictor.of(original.exported, "original"), _batches(stream, last))
        results.append(_describe("original", None, sizes, worth))
        for name, ratio in itertools.chain(
            [("int8", None), ("int4", None)],
            ((name, ratio) for ratio in ratios for name in FORMATS if not name.startswith("int")),
        ):
            try:
                write_compressed(target, original, name, compress(original, name, ratio, reads))
            except PlanError as error:
                click.echo(f"{name}: {error}", err=True)
                results.append({"compress": name, "asked": ratio, "infeasible": str(error)})
                continue
            written = Exported.read(target)
            worth = measure(Predictor.of(written, name), _batches(stream, last))
            results.append(_describe(name, ratio, Bytes.of(written), worth))
    hot_share = float(reads.unique.sum() / (held_out // 2 * stream.num_fields))
    return {"seed": seed, "hot_share": hot_share, "results": results}


@click.command()
@click.option("--tokens", type=click.Path(exists=True, file_okay=False, path_type=Path), help="A source tree, as well.")
@click.option("--rows", default=500_000, help="Rows to train on.")
@click.option("--held-out", default=100_000, help="Rows after them: the first half weighs, the second measures.")
@click.option("--dim", default=16)
@click.option("--capacity", default=20_000, help="Unique rows.")
@click.option("--seed", "seeds", multiple=True, type=int, default=(0, 1))
@click.option("--ratio", "ratios", multiple=True, type=float, default=(4.0, 10.0, 27.0))
@json_option
def main(
    tokens: Path | None,
    rows: int,
    held_out: int,
    dim: int,
    capacity: int,
    seeds: tuple[int, ...],
    ratios: tuple[float, ...],
    json_path: str | None,
) -> None:
    """Prints bytes, quality and speed of each format."""
    report = Report("benchmarks.compression")
    torch.set_num_threads(1)
    sources: dict[str, RowSource] = {"generated": GeneratorSource()}
    if tokens is not None:
        sources["tokens"] = TokenSource(root=tokens)
    runs = []
    for name, source in sources.items():
        stream = load_stream(source, rows + held_out)
        for seed in seeds:
            click.echo(f"{name}, seed {seed}", err=True)
            run = _measure(stream, rows, held_out, dim, capacity, seed, ratios)
            runs.append({"stream": name, "source": source.describe(), **run})
    settings = {"rows": rows, "held_out": held_out, "dim": dim, "capacity": capacity}
    report.finish(json_path, ok=True, settings=settings, runs=runs)


if __name__ == "__main__":
    main()
