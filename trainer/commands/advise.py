"""`hotstream advise`: what a log asks for, and what each compression of its embedding costs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from streams.cli.options import max_bad_option
from streams.cli.reports import Report, json_option
from trainer.embedding.stores.registry import ROW_FORMATS

__all__ = ["command"]

_UNKNOWN_PACE = 10_000.0


def _ratios(_context: click.Context, _option: click.Parameter, text: str) -> tuple[float, ...]:
    try:
        ratios = tuple(dict.fromkeys(float(part.strip().removesuffix("x")) for part in text.split(",")))
    except ValueError:
        raise click.BadParameter(f"got {text!r}, expected numbers separated by commas, such as 10,100") from None
    if not all(1 <= ratio < float("inf") for ratio in ratios):
        raise click.BadParameter(f"got {text!r}, expected numbers of at least 1")
    return ratios


def _pace(given: float | None, measured: float | None) -> tuple[float, str]:
    """Rows a second, and where the number comes from."""
    if given is not None:
        return given, "--rate"
    if measured is not None:
        return measured, "the log's own times"
    return _UNKNOWN_PACE, "assumed, as the log's times give no pace; --rate sets it"


@click.command("advise", short_help="Profile a log, and show what each size of its embedding costs.")
@click.argument("files", nargs=-1, required=True)
@click.option("--schema", default="criteo-kaggle", show_default=True, help="As `hotstream replay`.")
@click.option(
    "--rows",
    type=click.IntRange(2),
    default=100_000,
    show_default=True,
    metavar="ROWS",
    help="Read the first ROWS rows.",
)
@click.option(
    "--compression",
    "compressions",
    callback=_ratios,
    default="10,100,1000",
    show_default=True,
    metavar="RATIO,...",
    help="Sizes: bytes of the full table over those of the embedding.",
)
@click.option("--dim", type=click.IntRange(1, 4096), default=16, show_default=True, help="Dimension of the vectors.")
@click.option(
    "--row-format",
    type=click.Choice(ROW_FORMATS),
    default="int8",
    show_default=True,
    help="Storage format of the rows.",
)
@click.option(
    "--full-features", type=click.IntRange(1), metavar="N", help="Features of the whole log.  [default: the sample's]"
)
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    metavar="ROWS",
    help=f"Rows a second, for cores and traffic.  [default: the log's own pace, else {_UNKNOWN_PACE:,.0f}]",
)
@click.option(
    "--picture", type=click.Path(path_type=Path, dir_okay=False), metavar="PNG", help="Draw the skew of the lookups."
)
@max_bad_option
@json_option
def command(
    files: tuple[str, ...],
    schema: str,
    rows: int,
    compressions: tuple[float, ...],
    dim: int,
    row_format: str,
    full_features: int | None,
    rate: float | None,
    picture: Path | None,
    max_bad: float,
    json_path: str | None,
) -> None:
    """Profile the first rows of the click logs FILES, and show what each compression of their embedding costs.

    It reads cardinalities, skew and drift, runs the agent's hot set over the rows, and prints for each ratio: bytes in
    training and serving, hot lookups, changes and topic traffic, and the AUC that the ratio cost on the streams that
    hotstream has measured. It needs no broker and trains nothing.

    \b
        hotstream advise train.txt.gz
        hotstream advise impressions.parquet --schema log.toml --rate 2000 --picture skew.png
    """
    from streams.logs.reader import check_logs  # noqa: PLC0415 - takes seconds to import, and `--help` does not need it
    from streams.logs.schema import load_schema  # noqa: PLC0415
    from trainer.advise.measured import load_measured  # noqa: PLC0415
    from trainer.advise.profile import profile  # noqa: PLC0415
    from trainer.advise.sample import read_sample  # noqa: PLC0415
    from trainer.advise.sizing import Wishes, full_bytes, sizes, traffic  # noqa: PLC0415
    from trainer.advise.tracking import measure_importance  # noqa: PLC0415
    from trainer.advise.view import describe, next_commands  # noqa: PLC0415

    report, log_schema, measured = Report("advise"), load_schema(schema), load_measured()
    check_logs(files, log_schema)
    sample = read_sample(files, log_schema, rows)
    sample.bad_lines.require_few(max_bad)
    fields = log_schema.categorical
    found = profile(sample.lookups, fields)
    rows_per_s, pace = _pace(rate, sample.rows_per_s)
    wishes = Wishes(
        compressions=compressions,
        dim=dim,
        row_format=row_format,
        features=full_features or found.features,
        rows_per_s=rows_per_s,
    )
    planned = sizes(sample, found, fields, wishes, measured)
    load = traffic(sample, measure_importance(sample.lookups, fields), wishes, measured)
    commands = next_commands(files, schema, planned, wishes, has_label=log_schema.label is not None)
    for line in [*describe(sample, found, planned, wishes, load, measured, pace), "", "Next:"]:
        click.echo(line, err=json_path == "-")
    for line in commands:
        click.echo(f"    {line}", err=json_path == "-")
    if picture is not None:
        from trainer.advise.picture import draw_skew  # noqa: PLC0415

        draw_skew(picture, found, planned)
    report.finish(
        json_path,
        ok=True,
        lines={"read": sample.bad_lines.num_lines, "bad": sample.bad_lines.num_bad},
        log_rows=sample.log_rows,
        profile=_described(found),
        full={"features": wishes.features, "dim": dim, "bytes": full_bytes(wishes.features, dim)},
        row_format=row_format,
        sizes=[asdict(size) for size in planned],
        pace={"rows_per_s": rows_per_s, "from": pace, **load, "agent_source": measured.agent_source},
        commands=commands,
    )


def _described(found: Any) -> dict[str, Any]:
    """The profile as JSON values, without the counts of all features."""
    content = asdict(found)
    del content["counts"]
    return {**content, "drift": {**content["drift"], "lost": found.drift.lost}}
