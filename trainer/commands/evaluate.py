"""`hotstream evaluate`: compares embedding compression methods on the same rows within the same bytes."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streams.cli.options import max_bad_option
from streams.cli.progress import log_while_silent, show_progress
from streams.cli.renamed_options import RenamedOptions
from streams.cli.reports import Report, json_option
from trainer.evaluate.schedules.feeding import SCHEDULES, Feeding

if TYPE_CHECKING:
    from streams.logs.bad_lines import BadLines
    from trainer.evaluate.ablation import Effect
    from trainer.evaluate.grid import GridConfig

__all__ = ["command"]

logger = logging.getLogger(__name__)

_PRESETS = ("quick", "reference", "paper")
_MODELS = ("dlrm", "wdl", "dcn")


def _describe(result: dict[str, Any]) -> str:
    """Returns a cell and its result as one line."""
    settings = ", ".join(f"{name} {value}" for name, value in result["knobs"].items())
    cell = f"{result['method']} {result['model']} {result['compression']:g}x seed {result['seed']}"
    if settings:
        cell += f" ({settings})"
    if "infeasible" in result:
        return f"{cell}: infeasible: {result['infeasible']}"
    auc = "-" if result["auc"] is None else f"{result['auc']:.4f}"
    return f"{cell}: AUC {auc} of {result['rows']:,} rows, {result['bytes']:,} bytes, {result['seconds']:.0f} s"


@contextmanager
def _progress() -> Iterator[Callable[[dict[str, Any], int, int], None]]:
    """Yields the function that shows each finished cell: in a progress bar on a terminal, else as a log line.

    While no cell finishes, the bar shows the time, and a line every 5 s tells the same without a terminal.
    """
    state = "reads the rows and compiles its loops"
    with (
        show_progress("evaluate", interval_s=math.inf) as draw,
        log_while_silent(lambda since_s: f"{state}, {since_s:.0f} s") as log,
    ):
        draw(0, None, state)
        if not sys.stderr.isatty():
            logger.info("%s", state)

        def show(result: dict[str, Any], done: int, num_cells: int) -> None:
            nonlocal state
            state = f"{done} of {num_cells}: the next one compiles its loops and trains"
            draw(done, num_cells, f"{done} of {num_cells}  {_describe(result)}")
            if not sys.stderr.isatty():
                logger.info("%d of %d: %s", done, num_cells, _describe(result))
            log()

        yield show


def _describe_lines(bad_lines: BadLines | None, max_bad: float) -> dict[str, Any]:
    """The lines of the log for the report; refuses a log with too many malformed ones before anything is trained."""
    if bad_lines is None:
        return {}
    bad_lines.require_few(max_bad)
    if bad_lines.num_bad:
        click.echo(f"{bad_lines.num_bad} of {bad_lines.num_lines} lines are malformed and not used", err=True)
        for line in bad_lines.describe():
            click.echo(f"  {line}", err=True)
    return {"lines": {"read": bad_lines.num_lines, "bad": bad_lines.num_bad, "reasons": bad_lines.reasons()}}


def _split(_context: click.Context, option: click.Parameter, text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    parts = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not parts:
        raise click.BadParameter(f"got {text!r}, expected at least one value", param=option)
    return parts


def _numbers(parts: tuple[str, ...] | None, option: str, kind: type[int] | type[float]) -> tuple[Any, ...] | None:
    try:
        numbers = None if parts is None else tuple(kind(part.removesuffix("x")) for part in parts)
    except ValueError:
        raise click.UsageError(f"{option}: got {','.join(parts or ())}, expected numbers separated by commas") from None
    if numbers is not None and min(numbers) < (1 if kind is float else 0):
        raise click.UsageError(
            f"{option}: got {min(numbers):g}, expected {'at least 1' if kind is float else '0 or more'}"
        )
    return numbers


def _known(parts: tuple[str, ...], known: tuple[str, ...], option: str) -> tuple[str, ...]:
    if unknown := [part for part in parts if part not in known]:
        raise click.UsageError(f"{option}: got {unknown[0]!r}, expected names out of {', '.join(known)}")
    return parts


def _with_batch_rows(config: GridConfig, batch_rows: int | None) -> GridConfig:
    """The grid with so many rows a step; None for the preset's, or fewer if the rows would make few steps."""
    from trainer.evaluate.anchor import scaled_batch_rows  # noqa: PLC0415
    from trainer.evaluate.sources.stream import load_stream  # noqa: PLC0415

    if batch_rows is None:
        num_rows = config.num_rows or load_stream(config.source, None).num_rows
        batch_rows = scaled_batch_rows(config.preset, num_rows)
        if batch_rows != config.preset.batch_rows:
            logger.info("%d rows: %d rows a step instead of %d", num_rows, batch_rows, config.preset.batch_rows)
    return replace(config, preset=replace(config.preset, batch_rows=batch_rows))


def _run_ablation(config: GridConfig, out: Path, jobs: int, variants: tuple[str, ...] | None) -> list[Effect]:
    """Runs the variants, all if none is named, and writes their table."""
    from trainer.evaluate.ablation import VARIANTS, ablation_table, run_ablation  # noqa: PLC0415

    known = tuple(VARIANTS)
    tried = {name: VARIANTS[name] for name in _known(variants or known, known, "--variants")}
    with _progress() as show:
        effects = run_ablation(config, out, jobs=jobs, on_cell=show, variants=tried)
    (out / "ablation.md").write_text(ablation_table(effects))
    return effects


@click.command("evaluate", cls=RenamedOptions, renamed={"--world": "--generator-seed"})
@click.argument("files", nargs=-1)
@click.option(
    "--schema",
    default="criteo-kaggle",
    show_default=True,
    help="Schema of FILES: a built-in name or a TOML file. 'tokens' reads a folder of source files.",
)
@click.option(
    "--preset",
    type=click.Choice(_PRESETS),
    default="quick",
    show_default=True,
    help="Training set-up, and defaults of the options below.",
)
@click.option("--methods", callback=_split, metavar="NAME,...", help="Methods to compare.  [default: the preset's]")
@click.option(
    "--compression",
    callback=_split,
    metavar="RATIO,...",
    help="Compression ratios, for example 100,1000.  [default: the preset's]",
)
@click.option(
    "--models", callback=_split, default="dlrm", show_default=True, metavar="NAME,...", help="Models: dlrm, wdl, dcn."
)
@click.option("--seeds", callback=_split, metavar="N,...", help="Seeds, for example 0,1,2.  [default: the preset's]")
@click.option(
    "--dim", type=click.IntRange(min=1), metavar="D", help="Dimension of the vectors.  [default: the preset's]"
)
@click.option(
    "--batch-rows",
    type=click.IntRange(min=1),
    metavar="ROWS",
    help="Rows of a step.  [default: the preset's, fewer on a short log]",
)
@click.option(
    "--rows", type=click.IntRange(min=1), metavar="ROWS", help="Use the first ROWS rows only.  [default: all of FILES]"
)
@click.option(
    "--generator-seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the generated rows."
)
@click.option(
    "--rotate-at",
    type=click.IntRange(min=0),
    metavar="ROW",
    help="Row of the generator at which values with half of the lookups get new keys.",
)
@click.option(
    "--search/--no-search",
    default=True,
    show_default=True,
    help="Search each method's settings on the first seed, or use the defaults.",
)
@click.option(
    "--schedule",
    type=click.Choice(SCHEDULES),
    default="plain",
    show_default=True,
    help="How training is fed: lookahead keeps the rows of coming batches in a cache, hot-first trains records of hot "
    "rows apart, skip-stale leaves out updates of rows that have stopped to change. Each counts what it saves.",
)
@click.option(
    "--lookahead",
    type=click.IntRange(min=0),
    default=16,
    show_default=True,
    metavar="BATCHES",
    help="Batches that --schedule lookahead and hot-first know in advance; hot-first with 0 splits each batch.",
)
@click.option(
    "--hot-share",
    type=click.FloatRange(0, 1),
    default=0.1,
    show_default=True,
    metavar="RATIO",
    help="Share of a table's rows that --schedule hot-first keeps with the trainer.",
)
@click.option(
    "--rest-below",
    type=click.FloatRange(min=0),
    default=0.01,
    show_default=True,
    metavar="CHANGE",
    help="Relative change of a row in one update under which --schedule skip-stale calls it calm.",
)
@click.option("--ablation", is_flag=True, help="Instead of comparing methods, vary each default of hotstream alone.")
@click.option("--variants", callback=_split, metavar="NAME,...", help="Variants of the ablation.  [default: all]")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Cells to run in parallel.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("evaluate"),
    show_default=True,
    help="Folder of finished cells, tables and plots; an interrupted run resumes from it.",
)
@max_bad_option
@json_option
def command(
    files: tuple[str, ...],
    schema: str,
    preset: str,
    methods: tuple[str, ...] | None,
    compression: tuple[str, ...] | None,
    models: tuple[str, ...],
    seeds: tuple[str, ...] | None,
    dim: int | None,
    batch_rows: int | None,
    rows: int | None,
    generator_seed: int,
    rotate_at: int | None,
    search: bool,
    schedule: str,
    lookahead: int,
    hot_share: float,
    rest_below: float,
    ablation: bool,
    variants: tuple[str, ...] | None,
    jobs: int,
    out: Path,
    max_bad: float,
    json_path: str | None,
) -> None:
    """Compare embedding compression methods on the click logs FILES, or on generated rows without FILES.

    Every cell makes one chronological pass over the rows and predicts each row before it trains on it. A compression
    ratio counts all bytes: rows, optimizer state, sketch and router. The command needs no broker.

    \b
        hotstream evaluate
        hotstream evaluate --preset reference --jobs 8 --json -
        hotstream evaluate --schema tokens ~/src/linux --preset reference --compression 100,1000
        hotstream evaluate --preset reference --dim 64 --rows 500000 --compression 100,1000 --seeds 0,1
        hotstream evaluate --ablation --preset reference --rows 500000 --compression 100,1000
        hotstream evaluate day_0.gz day_1.gz --schema criteo-terabyte --preset paper --compression 100
    """
    from streams.logs.reader import check_logs  # noqa: PLC0415 - takes seconds to import, and `--help` does not need it
    from streams.logs.schema import load_schema  # noqa: PLC0415
    from trainer.evaluate.ablation import ablation_table  # noqa: PLC0415
    from trainer.evaluate.anchor import find_too_short, fit_regression  # noqa: PLC0415
    from trainer.evaluate.grid import GridConfig, run_grid  # noqa: PLC0415
    from trainer.evaluate.methods.registry import METHODS  # noqa: PLC0415
    from trainer.evaluate.presets import PRESETS  # noqa: PLC0415
    from trainer.evaluate.recovery import recoveries, run_undisturbed  # noqa: PLC0415
    from trainer.evaluate.report.results import write_recovery, write_results  # noqa: PLC0415
    from trainer.evaluate.sources.stream import FileSource, GeneratorSource, RowSource, load_stream  # noqa: PLC0415
    from trainer.evaluate.sources.tokens import TokenSource  # noqa: PLC0415

    if variants and not ablation:
        raise click.UsageError("--variants: names variants of the ablation; add --ablation")
    if ablation and methods:
        raise click.UsageError("--ablation: got --methods as well, but it varies hotstream alone; omit --methods")
    report, chosen = Report("evaluate"), PRESETS[preset]
    chosen = replace(chosen, dim=dim or chosen.dim)
    log: dict[str, Any] = {}
    source: RowSource = GeneratorSource(seed=generator_seed, rotate_at=rotate_at)
    if schema == "tokens":
        if len(files) != 1 or not Path(files[0]).is_dir():
            raise click.UsageError(f"--schema tokens: got {len(files)} FILES, expected one folder of source files")
        source = TokenSource(root=Path(files[0]))
    elif files:
        check_logs(files, load_schema(schema))
        source = FileSource(paths=files, schema=schema)
        log = _describe_lines(load_stream(source, rows).bad_lines, max_bad)
    config = GridConfig(
        source=source,
        num_rows=rows or (None if files else chosen.rows),
        preset=chosen,
        methods=_known(methods or chosen.methods or tuple(METHODS), tuple(METHODS), "--methods"),
        models=_known(models, _MODELS, "--models"),
        compressions=_numbers(compression, "--compression", float) or chosen.compressions,
        seeds=_numbers(seeds, "--seeds", int) or tuple(range(chosen.seeds)),
        search=search,
        feeding=Feeding(name=schedule, lookahead=lookahead, hot_share=hot_share, rest_below=rest_below),
    )
    config = _with_batch_rows(config, batch_rows)
    chosen = config.preset
    setup = {**log, "source": source.describe(), "preset": {"name": preset, **chosen.describe()}}
    if schedule != "plain":
        setup["schedule"] = {"name": schedule, **config.feeding.settings}
    if ablation:
        effects = _run_ablation(config, out, jobs, variants)
        click.echo(ablation_table(effects), err=json_path == "-")
        report.finish(json_path, ok=True, **setup, rows=config.num_rows, effects=[vars(effect) for effect in effects])
        return
    with _progress() as show:
        grid = run_grid(config, out, jobs=jobs, on_cell=show)
    with show_progress("regression") as draw:
        anchor = fit_regression(
            load_stream(source, config.num_rows),
            lambda done, total: draw(done, total, "fits the anchor that the full table must beat"),
        )
    click.echo(write_results(grid, config, out, anchor=anchor), err=json_path == "-")
    recovered = []
    if rotate_at is not None and isinstance(source, GeneratorSource):
        with _progress() as show:
            undisturbed = run_undisturbed(config, grid.cells, out, jobs=jobs, on_cell=show)
        recovered = recoveries(grid.cells, undisturbed, rotate_at)
        click.echo(write_recovery(recovered, out), err=json_path == "-")
    report.finish(
        json_path,
        ok=True,
        **setup,
        anchor=vars(anchor),
        too_short=find_too_short(grid.cells, anchor),
        recovery=[{**vars(one), "rows_until_near": one.rows_until_near, "lost": one.lost} for one in recovered],
        cells=grid.cells,
        tried=[{name: cell.get(name) for name in _TRIED} for cell in grid.tried],
    )


_TRIED = ("method", "model", "compression", "seed", "rows", "knobs", "auc", "infeasible")
