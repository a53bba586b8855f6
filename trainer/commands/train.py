"""`hotstream train`: the online trainer."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from streams.cli.options import kafka_options, open_kafka
from streams.cli.reports import Report, json_option
from streams.cli.stop_request import StopRequest
from streams.logs.schema import load_schema
from trainer.embedding.stores.registry import DEFAULT_RATE, DEFAULT_ROW_FORMAT, ROW_FORMATS, STORES

if TYPE_CHECKING:
    from trainer.learning.model_config import ModelConfig
    from trainer.process.run import TrainingRun

__all__ = ["command"]

logger = logging.getLogger(__name__)


@contextmanager
def _progress(limit: int | None) -> Iterator[Callable[[TrainingRun], None]]:
    """A bar on a terminal; elsewhere the log lines of the session are enough."""
    if not sys.stderr.isatty():
        yield lambda _run: None
        return
    columns = (TextColumn("train"), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=limit)

        def draw(run: TrainingRun) -> None:
            auc = [f"{name} {value:.4f}" for name, value in run.progress.windows.auc().items() if value is not None]
            bar.update(
                task, completed=run.progress.rows, description=f"{run.progress.rows:,} rows, AUC {', '.join(auc)}"
            )

        yield draw


def _model_config(options: dict[str, Any]) -> ModelConfig:
    """The model that the options mean, which are taken out of them."""
    from trainer.embedding.stores.rows import RowOptimizer  # noqa: PLC0415
    from trainer.learning.learner import DenseOptimizer  # noqa: PLC0415 - seconds to import, and not for --help
    from trainer.learning.model_config import CRITEO_FEATURES, ModelConfig  # noqa: PLC0415

    size = {name: options.pop(name) for name in ("embedding_bytes", "compression", "capacity_rows")}
    if not any(size.values()):
        size["compression"] = 1000.0
    return ModelConfig(
        **size,
        model=options.pop("model"),
        dim=options.pop("dim"),
        full_features=options.pop("full_features") or CRITEO_FEATURES,
        row_optimizer=options.pop("optimizer"),
        row_format=options.pop("row_format"),
        hot_store=options.pop("hot_store"),
        gate=options.pop("gate"),
        rows=RowOptimizer(rate=options.pop("rate")),
        dense=DenseOptimizer(name=options.pop("dense_optimizer"), rate=options.pop("dense_rate")),
        compare_hash=options.pop("compare") == "hash",
        seed=options.pop("seed"),
    )


@click.command(short_help="Train online from the clicks and assignments topics.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--model", type=click.Choice(["dlrm", "wdl", "dcn"]), default="dlrm", show_default=True)
@click.option("--dim", type=click.IntRange(1, 4096), default=16, show_default=True, help="Numbers in an embedding row.")
@click.option(
    "--embedding-bytes",
    type=click.IntRange(1),
    metavar="N",
    help="Size of the embedding: rows, optimizer state and router together.",
)
@click.option(
    "--compression", type=float, metavar="X", help="So many times smaller than a full table.  [default: 1000]"
)
@click.option(
    "--full-features", type=click.IntRange(1), metavar="N", help="Features in that table.  [default: Criteo's]"
)
@click.option(
    "--capacity",
    "capacity_rows",
    type=click.IntRange(1),
    metavar="ROWS",
    help="Rows for hot features, as the agent's; not quite twice as many shared ones come on top.",
)
@click.option(
    "--optimizer", type=click.Choice(["adagrad", "sgd"]), default="adagrad", show_default=True, help="Of the rows."
)
@click.option(
    "--row-format",
    type=click.Choice(ROW_FORMATS),
    default=DEFAULT_ROW_FORMAT,
    show_default=True,
    help="What rows are stored as, and trained in; smaller ones buy more rows.",
)
@click.option(
    "--hot-store",
    type=click.Choice(list(STORES)),
    help="The same for the rows of hot features alone.  [default: as all rows]",
)
@click.option(
    "--gate/--no-gate",
    default=False,
    show_default=True,
    help="Learn a scalar for each field's shared and unique rows.",
)
@click.option("--rate", type=float, default=DEFAULT_RATE, show_default=True, help="Learning rate of the rows.")
@click.option("--dense-optimizer", type=click.Choice(["adam", "adagrad", "sgd"]), default="adam", show_default=True)
@click.option("--dense-rate", type=float, default=0.001, show_default=True)
@click.option(
    "--compare",
    type=click.Choice(["hash"]),
    help="Train a plain hash table of the same bytes on the same rows beside it.",
)
@click.option("--schema", default="criteo-kaggle", show_default=True, help="How single clicks in JSON are read.")
@click.option("--checkpoint-dir", type=click.Path(path_type=Path, file_okay=False), metavar="DIR")
@click.option("--checkpoint-every", type=click.IntRange(1), default=200_000, show_default=True, metavar="ROWS")
@click.option("--keep", type=click.IntRange(2), default=3, show_default=True, help="Checkpoints to keep.")
@click.option(
    "--resume/--fresh", default=True, show_default=True, help="Go on from the newest good checkpoint, or delete all."
)
@click.option(
    "--export",
    "export_dir",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="At the end write what serving needs: rows, router, dense weights, and the seq and offsets they stand at.",
)
@click.option("--limit", "limit_rows", type=click.IntRange(1), metavar="ROWS", help="Stop after so many rows.")
@click.option(
    "--until-end",
    "until_end_s",
    type=click.FloatRange(0),
    is_flag=False,
    flag_value=5.0,
    metavar="SECONDS",
    help="Stop when all clicks are trained and no more came for so long (5 if no number follows).",
)
@click.option("--window", "window_rows", type=click.IntRange(1), default=20_000, show_default=True, metavar="ROWS")
@click.option("--threads", type=click.IntRange(1), help="Of torch.  [default: all cores]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@kafka_options
@json_option
def command(
    device: str,
    schema: str,
    checkpoint_dir: Path | None,
    checkpoint_every: int,
    keep: int,
    resume: bool,
    export_dir: Path | None,
    json_path: str | None,
    **options: Any,
) -> None:
    """Train from the clicks topic, follow the assignments topic, and send back what each feature mattered.

    Every row is predicted before it is learned, so the AUC and log loss shown are those of rows never seen. Ctrl-C
    and SIGTERM end the run after the step, with a checkpoint; killed at any moment, the same command goes on from the
    newest good checkpoint.

    \b
        hotstream train --capacity 20000 --compare hash --checkpoint-dir run1
        hotstream train --embedding-bytes 2000000 --until-end --json -
    """
    import torch  # noqa: PLC0415 - seconds to import, and not for --help

    from trainer.errors import PlanError, TrainerError  # noqa: PLC0415
    from trainer.learning.model_config import choose_device  # noqa: PLC0415
    from trainer.process.run import RunConfig  # noqa: PLC0415
    from trainer.process.session import Session, SessionConfig  # noqa: PLC0415
    from trainer.serving.export import export  # noqa: PLC0415

    report, request = Report("train"), StopRequest()
    if threads := options.pop("threads"):
        torch.set_num_threads(threads)
    limit_rows, until_end_s = options.pop("limit_rows"), options.pop("until_end_s")
    try:
        run = RunConfig(
            window_rows=options.pop("window_rows"),
            model=_model_config(options),
            device=choose_device(device),
            checkpoint_dir=checkpoint_dir,
            checkpoint_every=checkpoint_every,
            keep_checkpoints=keep,
        )
        with open_kafka(**options) as kafka, request.listening(), _progress(limit_rows) as draw:
            session = Session(
                SessionConfig(
                    kafka=kafka,
                    run=run,
                    schema=load_schema(schema),
                    resume=resume,
                    limit_rows=limit_rows,
                    until_end_s=until_end_s,
                ),
                should_stop=lambda: request.is_made,
                on_progress=draw,
            )
            session.train()
        if export_dir is not None:
            export(session.run, export_dir)
    except PlanError as error:
        raise click.UsageError(str(error)) from error
    except TrainerError as error:
        raise click.ClickException(str(error)) from error
    content = session.report()
    report.finish(json_path, ok=True, device=str(run.device), stopped=request.is_made, **content)
    auc = ", ".join(f"{name} {value:.4f}" for name, value in content["auc"].items() if value is not None)
    click.echo(f"{content['rows']['trained']} rows trained, AUC {auc or '-'}", err=True)
