"""`hotstream train`: trains online from the clicks and assignments topics."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streams.cli.log_lines import log_options, say
from streams.cli.metrics_options import metrics_options
from streams.cli.options import kafka_options, max_bad_option, open_kafka
from streams.cli.progress import show_progress
from streams.cli.renamed_options import RenamedOptions
from streams.cli.reports import Report, dry_run_option, json_option
from streams.cli.stop_request import StopRequest
from streams.errors import ConfigError
from streams.logs.schema import load_schema
from streams.records import NO_LABELS
from streams.telemetry.monitor import open_monitor
from streams.topics import Topics
from trainer.commands.model_options import model_config
from trainer.commands.publish_options import publish_config, publish_options
from trainer.embedding.stores.registry import DEFAULT_LEARNING_RATE, DEFAULT_ROW_FORMAT, ROW_FORMATS, STORES

if TYPE_CHECKING:
    from trainer.process.progress import Progress
    from trainer.process.run import TrainingRun

__all__ = ["command"]


def _describe(run: TrainingRun) -> str:
    """The text beside the progress bar."""
    auc = [f"{name} {value:.4f}" for name, value in run.progress.windows.auc().items() if value is not None]
    return f"{run.progress.rows:,} rows, AUC {', '.join(auc) or '-'}"


def _too_many_bad(progress: Progress, max_bad: float, prefix: str) -> click.ClickException:
    return click.ClickException(
        f"{progress.refused_share:.2%} of the click records could not be trained, expected at most {max_bad:.2%} "
        f"(--max-bad): {'; '.join(progress.describe_refused_clicks())}; see "
        f"`{Topics(prefix).command('dlq show clicks')}`"
    )


@click.command(
    cls=RenamedOptions,
    renamed={
        "--rate": "--learning-rate",
        "--dense-rate": "--dense-learning-rate",
        "--until-end": "--idle-timeout",
        "--keep": "--keep-checkpoints",
    },
    short_help="Train online from the clicks and assignments topics.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="auto: CUDA if torch finds a CUDA device.",
)
@click.option(
    "--model",
    type=click.Choice(["dlrm", "wdl", "dcn"]),
    default="dlrm",
    show_default=True,
    help="Model over the embedding.",
)
@click.option(
    "--dim", type=click.IntRange(1, 4096), default=16, show_default=True, help="Dimension of the embedding vectors."
)
@click.option(
    "--embedding-bytes",
    type=click.IntRange(1),
    metavar="BYTES",
    help="Size of the embedding: rows, optimizer state and router.",
)
@click.option(
    "--compression",
    type=float,
    metavar="X",
    help="Size of a full table over that of the embedding.  [default: 1000, if no agent has started]",
)
@click.option(
    "--full-features", type=click.IntRange(1), metavar="N", help="Features of the full table.  [default: Criteo's]"
)
@click.option(
    "--capacity",
    "capacity_rows",
    type=click.IntRange(1),
    metavar="ROWS",
    help="Unique rows, equal to the agent's --capacity; the plan adds about twice as many shared rows.  [default: the "
    "agents']",
)
@click.option(
    "--optimizer",
    type=click.Choice(["adagrad", "sgd"]),
    default="adagrad",
    show_default=True,
    help="Optimizer of the rows.",
)
@click.option(
    "--row-format",
    type=click.Choice(ROW_FORMATS),
    default=DEFAULT_ROW_FORMAT,
    show_default=True,
    help="Storage format of the rows, also during training.",
)
@click.option(
    "--hot-store",
    type=click.Choice(list(STORES)),
    help="The same for the rows of hot features alone.  [default: as all rows]",
)
@click.option(
    "--learning-rate", type=float, default=DEFAULT_LEARNING_RATE, show_default=True, help="Learning rate of the rows."
)
@click.option(
    "--dense-optimizer",
    type=click.Choice(["adam", "adagrad", "sgd"]),
    default="adam",
    show_default=True,
    help="Optimizer of the model's other parameters.",
)
@click.option("--dense-learning-rate", type=float, default=0.001, show_default=True, help="Its learning rate.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "bf16"]),
    default="float32",
    show_default=True,
    help="Of the model's matrix products; weights and rows keep their formats.",
)
@click.option(
    "--dense-mode",
    type=click.Choice(["auto", "eager", "compile", "graph"]),
    default="auto",
    show_default=True,
    help="How the model runs; auto: on CUDA a graph for each small batch size, otherwise operator by operator.",
)
@click.option(
    "--batch-rows",
    type=click.IntRange(1),
    metavar="ROWS",
    help="Train whole click records together, up to this many rows a step.  [default: one click record]",
)
@click.option(
    "--batch-wait",
    "batch_wait_s",
    type=click.FloatRange(0),
    default=0.1,
    show_default=True,
    metavar="SECONDS",
    help="The longest wait for the rows of a step.",
)
@click.option(
    "--compare",
    type=click.Choice(["hash"]),
    help="Also train a plain hash table of equal size on the same rows.",
)
@click.option(
    "--schema",
    default="criteo-kaggle",
    show_default=True,
    help="Columns of the clicks: a built-in name or a TOML file. Records with other columns or without labels go to "
    "the dead letters; fields that they have behind the schema's are left out.",
)
@click.option(
    "--checkpoint-dir",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder of the checkpoints.  [default: none are written]",
)
@click.option(
    "--checkpoint-every",
    type=click.IntRange(1),
    default=200_000,
    show_default=True,
    metavar="ROWS",
    help="Rows between two checkpoints.",
)
@click.option(
    "--keep-checkpoints", type=click.IntRange(2), default=3, show_default=True, help="Number of checkpoints to keep."
)
@click.option(
    "--resume/--fresh",
    default=True,
    show_default=True,
    help="Resume from the newest intact checkpoint, or delete all checkpoints and start over.",
)
@click.option(
    "--export",
    "export_dir",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="At the end, export rows, router and dense weights for serving, with their seq and offsets.",
)
@click.option("--limit", "limit_rows", type=click.IntRange(1), metavar="ROWS", help="Stop after this many rows.")
@click.option(
    "--idle-timeout",
    "idle_timeout_s",
    type=click.FloatRange(0),
    is_flag=False,
    flag_value=5.0,
    metavar="SECONDS",
    help="Stop once all clicks are trained and no new one arrives for this long; 5 if no number follows.",
)
@click.option(
    "--window",
    "window_rows",
    type=click.IntRange(1),
    default=20_000,
    show_default=True,
    metavar="ROWS",
    help="Rows per window of AUC and log loss.",
)
@click.option("--threads", type=click.IntRange(1), help="Threads of torch.  [default: one per core]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the initial weights.")
@click.option(
    "--rank-timeout",
    "rank_timeout_s",
    type=click.FloatRange(1),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="With torchrun: how long a rank waits for another one that is there and does not answer, before all end.",
)
@publish_options
@dry_run_option
@max_bad_option
@kafka_options
@metrics_options
@log_options
@json_option
def command(
    device: str,
    schema: str,
    checkpoint_dir: Path | None,
    checkpoint_every: int,
    keep_checkpoints: int,
    resume: bool,
    export_dir: Path | None,
    max_bad: float,
    dry_run: bool,
    metrics_port: int | None,
    metrics_host: str,
    json_path: str | None,
    batch_rows: int | None,
    batch_wait_s: float,
    limit_rows: int | None,
    idle_timeout_s: float | None,
    **options: Any,
) -> None:
    """Train from the clicks topic, follow the assignments topic, and publish the importance of each feature.

    The trainer predicts every row before it trains on it, so AUC and log loss are those of unseen rows. After Ctrl-C or
    SIGTERM it finishes the current step and writes a checkpoint. After a crash, the same command resumes from the
    newest intact checkpoint.

    \b
        hotstream train --capacity 20000 --compare hash --checkpoint-dir run1
    """
    import torch  # noqa: PLC0415 - torch takes seconds to import, and `--help` does not need it

    from streams.clients.agreed_configuration import agreed_capacity  # noqa: PLC0415
    from trainer.errors import PlanError, TrainerError  # noqa: PLC0415
    from trainer.learning.building import choose_device  # noqa: PLC0415
    from trainer.process.agents_capacity import fit_to_agents  # noqa: PLC0415
    from trainer.process.click_steps import BatchSize  # noqa: PLC0415
    from trainer.process.dry_run import plan_run  # noqa: PLC0415
    from trainer.process.figures import TrainerFigures  # noqa: PLC0415
    from trainer.process.launched import Launched  # noqa: PLC0415
    from trainer.process.run import RunConfig  # noqa: PLC0415
    from trainer.process.session import SessionConfig  # noqa: PLC0415

    report, request, session = Report("train"), StopRequest(), None
    torch.set_num_threads(options.pop("threads") or torch.get_num_threads())
    roles, publish = publish_config(options)
    try:
        is_sized = any(options[name] for name in ("embedding_bytes", "compression", "capacity_rows"))
        run = RunConfig(
            window_rows=options.pop("window_rows"),
            model=model_config(options),
            device=choose_device(device),
            checkpoint_dir=checkpoint_dir,
            checkpoint_every=checkpoint_every,
            keep_checkpoints=keep_checkpoints,
        )
        launched = Launched.join(
            run.device,
            timeout_s=options.pop("rank_timeout_s"),
            is_dry=dry_run,
            lacks_directory=export_dir is not None and checkpoint_dir is None,
        )
        log_schema = load_schema(schema)
        if log_schema.label is None:
            raise ConfigError(f"--schema: {log_schema} has no label, expected one: {NO_LABELS}")
        with (
            open_kafka(roles=["train", *roles], should_stop=lambda: request.is_made, **options) as kafka,
            open_monitor("train", port=launched.port_of(metrics_port), host=metrics_host) as monitor,
            request.listening(),
            show_progress("train", interval_s=math.inf) as draw,
        ):
            num_fields = len(log_schema.categorical)
            model = fit_to_agents(run.model, agreed_capacity(kafka), num_fields, is_sized=is_sized)
            run = replace(run, model=model)
            if dry_run:
                plan = plan_run(kafka, run, log_schema.categorical, len(log_schema.dense), resume=resume)
                report.show_plan(json_path, plan)
                return
            session = launched.open(
                SessionConfig(
                    kafka=kafka,
                    run=run,
                    fields=log_schema.categorical,
                    dense_names=log_schema.dense,
                    resume=resume or launched.is_restarted,
                    batch=BatchSize(rows=batch_rows or 0, wait_s=batch_wait_s),
                    limit_rows=limit_rows,
                    idle_timeout_s=idle_timeout_s,
                    publish=publish,
                ),
                should_stop=lambda: request.is_made,
                exports=export_dir is not None,
                on_progress=lambda run: draw(run.progress.rows, limit_rows, _describe(run)),
            )
            TrainerFigures(session.run, session.reports).watch(monitor, kafka)
            session.train()
            content, progress = launched.report(session)
        if export_dir is not None:
            launched.export(session, export_dir, checkpoint_dir)
    except PlanError as error:
        raise click.UsageError(str(error)) from error
    except TrainerError as error:
        if session is not None and launched.reports:
            report.finish(json_path, ok=False, error=str(error), device=str(run.device), **session.report())
        raise click.ClickException(str(error)) from error
    ok = progress.refused_share <= max_bad
    if launched.reports:
        report.finish(json_path, ok=ok, device=str(run.device), stopped=request.is_made, **content)
        auc = ", ".join(f"{name} {value:.4f}" for name, value in content["auc"].items() if value is not None)
        say(f"{content['rows']['trained']} rows trained, AUC {auc or '-'}")
    if not ok:
        raise _too_many_bad(progress, max_bad, kafka.prefix)
