"""`hotstream export`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streams.cli.options import max_bad_option
from streams.cli.reports import Report, json_option

if TYPE_CHECKING:
    from streams.logs.bad_lines import BadLines
    from trainer.evaluate.sources.stream import Stream
    from trainer.serving.compression.held_out import HeldOut

__all__ = ["command"]

_FORMATS = ("saec", "pq", "int8", "int4", "low-rank")
_NEED_RATIO = ("saec", "pq", "low-rank")
_BATCH_ROWS = 512


@click.command("export", short_help="Export a run's newest checkpoint, or make a model smaller.")
@click.argument("run_dir", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--compress", "name", type=click.Choice(_FORMATS), help="The format of the rows.  [default: as trained]")
@click.option(
    "--ratio",
    type=click.FloatRange(1),
    metavar="R",
    help="Bytes of the rows before, over those after.  [default: the largest of int8 and int4]",
)
@click.option(
    "--out", "out_dir", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Where it is written."
)
@click.option(
    "--log",
    "logs",
    multiple=True,
    metavar="FILE",
    help="A click log that the model was not trained on: its first half tells which rows are read most, its second "
    "half measures AUC and log loss before and after. Repeat for several.",
)
@click.option("--schema", default="criteo-kaggle", show_default=True, help="Schema of the log.")
@click.option("--rows", type=click.IntRange(2), metavar="N", help="Rows of the log.  [default: all]")
@max_bad_option
@json_option
def command(
    run_dir: Path,
    name: str | None,
    ratio: float | None,
    out_dir: Path,
    logs: tuple[str, ...],
    schema: str,
    rows: int | None,
    max_bad: float,
    json_path: str | None,
) -> None:
    """Export a trained model, or make its rows smaller and report what that costs.

    RUN is the folder of --checkpoint-dir, whose newest checkpoint is taken, that of all ranks if torchrun has trained
    it; or, with --compress, an export (`hotstream train --export`).

    saec: centroids of each field, and a code a row; pq: codes of pieces of a row; int8 and int4: rounded values;
    low-rank: coefficients in the principal directions. `hotstream serve --offline` and `audit` read the result, which
    needs no torch; a replica cannot continue it.

    \b
        hotstream export run1 --out out
        hotstream export out --compress saec --ratio 10 --out small --log later.csv.gz
        hotstream serve --export small --offline
    """
    from trainer.serving.checkpointed import export_checkpoint  # noqa: PLC0415  torch takes time to import
    from trainer.serving.compression.compress import (  # noqa: PLC0415
        Bytes,
        Original,
        compress,
        write_compressed,
    )
    from trainer.serving.compression.held_out import measure  # noqa: PLC0415
    from trainer.serving.compression.reads import count_reads  # noqa: PLC0415
    from trainer.serving.exported import Exported  # noqa: PLC0415
    from trainer.serving.predictor import Predictor  # noqa: PLC0415

    if ratio is None and name in _NEED_RATIO:
        raise click.UsageError(f"--compress {name}: expected --ratio R beside it")
    if out_dir.resolve() == run_dir.resolve():
        raise click.UsageError(f"--out {out_dir}: expected another directory than RUN")
    report = Report("export")
    if name is None:
        if ratio is not None or logs:
            raise click.UsageError("--ratio, --log: expected --compress beside them")
        export_checkpoint(run_dir, out_dir)
        click.echo(f"{run_dir}: exported to {out_dir}", err=json_path == "-")
        report.finish(json_path, ok=True, compress=None, bytes={"after": asdict(Bytes.of(Exported.read(out_dir)))})
        return
    original = Original.read(run_dir)
    stream = _read(logs, schema, rows, max_bad, original.exported.shape.fields) if logs else None
    half = 0 if stream is None else stream.num_rows // 2
    reads = None if stream is None else count_reads(original.exported, _values(stream, slice(0, half))[0])
    write_compressed(out_dir, original, name, compress(original, name, ratio, reads))
    written = Exported.read(out_dir)
    sizes = {"before": Bytes.of(original.exported), "after": Bytes.of(written)}
    worth = {}
    if stream is not None:
        for when, exported in (("before", original.exported), ("after", written)):
            worth[when] = measure(Predictor.of(exported, when), _batches(stream, half))
    reached = sizes["before"].rows / sizes["after"].rows
    say_to = json_path == "-"
    for when, size in sizes.items():
        line = f"{when:<7} rows {size.rows:,} bytes, router {size.router:,}, dense part {size.dense:,}"
        if when in worth:
            line += f"; {_describe(worth[when])}"
        click.echo(line, err=say_to)
    click.echo(f"{name}: rows {reached:.1f} times smaller, in {out_dir}", err=say_to)
    report.finish(
        json_path,
        ok=True,
        compress=name,
        ratio=reached,
        bytes={when: asdict(size) for when, size in sizes.items()},
        held_out={when: asdict(one) for when, one in worth.items()} or None,
    )


def _describe(worth: Any) -> str:
    auc = "-" if worth.auc is None else f"{worth.auc:.4f}"
    return f"AUC {auc}, log loss {worth.log_loss:.4f} of {worth.rows:,} rows, {worth.lookups_per_s:,.0f} lookups/s"


def _read(
    logs: tuple[str, ...], schema: str, rows: int | None, max_bad: float, fields: tuple[tuple[str, str], ...]
) -> Stream:
    """The rows of the log, whose fields must be those of the model."""
    from streams.logs.schema import load_schema  # noqa: PLC0415
    from trainer.errors import CheckpointError  # noqa: PLC0415
    from trainer.evaluate.sources.stream import FileSource, load_stream  # noqa: PLC0415

    found = tuple((field.name, field.kind) for field in load_schema(schema).categorical)
    if found != fields:
        raise CheckpointError(f"--schema {schema}: got the fields {found}, expected those of the model, {fields}")
    stream = load_stream(FileSource(paths=logs, schema=schema), rows)
    bad: BadLines | None = stream.bad_lines
    if bad is not None:
        bad.require_few(max_bad)
    return stream


def _batches(stream: Stream, start: int) -> Iterator[HeldOut]:
    """The rows from `start` on, in batches."""
    from trainer.serving.compression.held_out import HeldOut  # noqa: PLC0415

    for first in range(start, stream.num_rows, _BATCH_ROWS):
        rows = slice(first, min(first + _BATCH_ROWS, stream.num_rows))
        keys, offsets, weights = _values(stream, rows)
        yield HeldOut(dense=stream.dense[rows], keys=keys, offsets=offsets, label=stream.label[rows], weights=weights)


def _values(stream: Stream, rows: slice) -> tuple[Any, Any, Any]:
    """The keys (N,) of all values of some rows, where each field's begin, and the factors of their vectors or None."""
    import numpy as np  # noqa: PLC0415

    bags = stream.bags(rows, reads_ids=False)
    if bags is None:
        keys = stream.keys[rows].reshape(-1)
        return keys, np.arange(len(keys)), None
    weights = None if bags.weights is None else bags.weights.numpy()
    return bags.keys.numpy().view(np.uint64), bags.starts.numpy(), weights
