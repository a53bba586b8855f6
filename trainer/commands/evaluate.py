"""`hotstream evaluate`: every method of compression on the same rows under the same bytes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from streams.cli.renamed_options import RenamedOptions
from streams.cli.reports import Report, json_option

__all__ = ["command"]

logger = logging.getLogger(__name__)

_PRESETS = ("quick", "reference", "paper")
_MODELS = ("dlrm", "wdl", "dcn")


class _Teller(Protocol):
    def __call__(self, measured: dict[str, Any], done: int, num_cells: int) -> None: ...


def _say(measured: dict[str, Any]) -> str:
    knobs = ", ".join(f"{name} {value}" for name, value in measured["knobs"].items())
    where = f"{measured['method']} {measured['model']} {measured['compression']:g}x seed {measured['seed']}"
    place = f"{where} ({knobs})" if knobs else where
    if "infeasible" in measured:
        return f"{place}: infeasible: {measured['infeasible']}"
    auc = "-" if measured["auc"] is None else f"{measured['auc']:.4f}"
    return f"{place}: AUC {auc} of {measured['rows']:,} rows, {measured['bytes']:,} bytes, {measured['seconds']:.0f} s"


@contextmanager
def _progress() -> Iterator[_Teller]:
    """What to tell each finished cell to: a bar on a terminal, a log line elsewhere."""
    console = Console(stderr=True)
    columns = (
        TextColumn("evaluate"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)

        def tell(measured: dict[str, Any], done: int, num_cells: int) -> None:
            bar.update(task, completed=done, total=num_cells, description=_say(measured))
            if not console.is_terminal:
                logger.info("%d of %d: %s", done, num_cells, _say(measured))

        yield tell


def _split(_context: click.Context, option: click.Parameter, text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    parts = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not parts:
        raise click.BadParameter("expected at least one", param=option)
    return parts


def _numbers(parts: tuple[str, ...] | None, option: str, kind: type[int] | type[float]) -> tuple[Any, ...] | None:
    try:
        numbers = None if parts is None else tuple(kind(part.removesuffix("x")) for part in parts)
    except ValueError:
        raise click.UsageError(f"{option}: got {','.join(parts or ())}, expected numbers with commas") from None
    if numbers is not None and min(numbers) < (1 if kind is float else 0):
        raise click.UsageError(
            f"{option}: got {min(numbers):g}, expected {'at least 1' if kind is float else '0 or more'}"
        )
    return numbers


def _known(parts: tuple[str, ...], known: tuple[str, ...], option: str) -> tuple[str, ...]:
    if strangers := [part for part in parts if part not in known]:
        raise click.UsageError(f"{option}: got {strangers[0]!r}, expected some of {', '.join(known)}")
    return parts


@click.command("evaluate", cls=RenamedOptions, renamed={"--world": "--generator-seed"})
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--schema", default="criteo-kaggle", show_default=True, help="Of FILES: built in or TOML; or tokens.")
@click.option("--preset", type=click.Choice(_PRESETS), default="quick", show_default=True, help="How models train.")
@click.option("--methods", callback=_split, help="Names with commas; the preset's by default.")
@click.option("--compression", callback=_split, help="Ratios with commas, for example 100,1000.")
@click.option("--models", callback=_split, default="dlrm", show_default=True, help="Of dlrm, wdl, dcn, with commas.")
@click.option("--seeds", callback=_split, help="Numbers with commas, for example 0,1,2.")
@click.option("--rows", type=click.IntRange(min=1), help="First rows only; of FILES all by default.")
@click.option("--generator-seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--rotate-at", type=click.IntRange(min=0), help="The generator's row of an abrupt change of identities.")
@click.option(
    "--search/--no-search", default=True, show_default=True, help="Try each method's settings on the first seed."
)
@click.option("--ablation", is_flag=True, help="Vary each default of cafe alone, instead of comparing methods.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Cells at a time.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("evaluate"),
    show_default=True,
    help="Folder of finished cells, tables and pictures; a run that was cut short goes on from it.",
)
@json_option
def command(
    files: tuple[Path, ...],
    schema: str,
    preset: str,
    methods: tuple[str, ...] | None,
    compression: tuple[str, ...] | None,
    models: tuple[str, ...],
    seeds: tuple[str, ...] | None,
    rows: int | None,
    generator_seed: int,
    rotate_at: int | None,
    search: bool,
    ablation: bool,
    jobs: int,
    out: Path,
    json_path: str | None,
) -> None:
    """Compare methods of compression on click logs FILES, or on the built-in generator if there are none.

    One pass in order of time; every row is predicted before it is learned. A ratio is of all bytes: rows, optimizer
    state, sketch, router. No broker is needed.

    \b
        hotstream evaluate
        hotstream evaluate --preset reference --jobs 8 --json -
        hotstream evaluate --schema tokens ~/src/linux --preset reference --compression 100,1000
        hotstream evaluate --ablation --preset reference --rows 500000 --compression 100,1000
        hotstream evaluate day_0.gz day_1.gz --schema criteo-terabyte --preset paper --compression 100
    """
    from streams.logs.reader import check_logs  # noqa: PLC0415 - seconds to import, and not for --help
    from streams.logs.schema import load_schema  # noqa: PLC0415
    from trainer.evaluate.ablation import ablation_table, run_ablation  # noqa: PLC0415
    from trainer.evaluate.grid import GridConfig, run_grid  # noqa: PLC0415
    from trainer.evaluate.methods.registry import METHODS  # noqa: PLC0415
    from trainer.evaluate.presets import PRESETS  # noqa: PLC0415
    from trainer.evaluate.recovery import recoveries, run_undisturbed  # noqa: PLC0415
    from trainer.evaluate.report.results import write_recovery, write_results  # noqa: PLC0415
    from trainer.evaluate.sources.stream import FileSource, GeneratorSource, Source  # noqa: PLC0415
    from trainer.evaluate.sources.tokens import TokenSource  # noqa: PLC0415

    if ablation and methods:
        raise click.UsageError("--ablation: is of cafe alone; leave --methods out")
    report, chosen = Report("evaluate"), PRESETS[preset]
    source: Source = GeneratorSource(world=generator_seed, rotate_at=rotate_at)
    if schema == "tokens":
        if len(files) != 1 or not files[0].is_dir():
            raise click.UsageError("--schema tokens: expected one folder of source files in place of FILES")
        source = TokenSource(root=files[0])
    elif files:
        check_logs(files, load_schema(schema))
        source = FileSource(paths=files, schema=schema)
    config = GridConfig(
        source=source,
        num_rows=rows or (None if files else chosen.rows),
        preset=chosen,
        methods=_known(methods or chosen.methods or tuple(METHODS), tuple(METHODS), "--methods"),
        models=_known(models, _MODELS, "--models"),
        compressions=_numbers(compression, "--compression", float) or chosen.compressions,
        seeds=_numbers(seeds, "--seeds", int) or tuple(range(chosen.seeds)),
        search=search,
    )
    named = {"source": source.describe(), "preset": {"name": preset, **chosen.describe()}}
    if ablation:
        with _progress() as tell:
            effects = run_ablation(config, out, jobs=jobs, on_cell=tell)
        table = ablation_table(effects)
        (out / "ablation.md").write_text(table)
        click.echo(table, err=json_path == "-")
        report.finish(json_path, ok=True, **named, rows=config.num_rows, effects=[vars(effect) for effect in effects])
        return
    with _progress() as tell:
        grid = run_grid(config, out, jobs=jobs, on_cell=tell)
    click.echo(write_results(grid, config, out), err=json_path == "-")
    recovered = []
    if rotate_at is not None and isinstance(source, GeneratorSource):
        with _progress() as tell:
            undisturbed = run_undisturbed(config, grid.cells, out, jobs=jobs, on_cell=tell)
        recovered = recoveries(grid.cells, undisturbed, rotate_at)
        click.echo(write_recovery(recovered, out), err=json_path == "-")
    report.finish(
        json_path,
        ok=True,
        **named,
        recovery=[{**vars(one), "rows_until_near": one.rows_until_near, "lost": one.lost} for one in recovered],
        cells=grid.cells,
        tried=[{name: cell.get(name) for name in _TRIED} for cell in grid.tried],
    )


_TRIED = ("method", "model", "compression", "seed", "rows", "knobs", "auc", "infeasible")
