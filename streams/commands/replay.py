"""`hotstream replay`: send click logs to the clicks topic."""

from __future__ import annotations

import logging
import time
from typing import Any

import click

from streams.cli.log_lines import log_options, say
from streams.cli.metrics_options import metrics_options
from streams.cli.options import kafka_options, max_bad_option, open_kafka
from streams.cli.progress import show_progress
from streams.cli.reports import Report, json_option
from streams.cli.stop_request import StopRequest
from streams.logs.schema import load_schema
from streams.replay.figures import ReplayFigures
from streams.replay.plan import ReplayPlan
from streams.replay.sender import ReplayCounts, replay_logs
from streams.telemetry.monitor import open_monitor
from streams.topics import Topics

__all__ = ["command"]


def _describe(counts: ReplayCounts, seconds: float) -> str:
    rate = counts.sent / max(seconds, 1e-9)
    return f"{counts.sent:,} rows, {rate:,.0f} rows/s" + (f", {counts.bad:,} malformed lines" if counts.bad else "")


@click.command()
@click.argument("files", nargs=-1, required=True)
@click.option(
    "--schema",
    "schema_name",
    default="criteo-kaggle",
    show_default=True,
    help="Log schema: criteo-kaggle, criteo-terabyte, avazu, criteo-kaggle-test, avazu-test (without labels), or a "
    ".toml file that names the columns (docs/schema.md).",
)
@click.option("--rate", type=float, metavar="ROWS/S", help="Rows per second.  [default: as fast as possible]")
@click.option(
    "--speedup", type=float, metavar="X", help="Replay X times as fast as the event times; needs a time column."
)
@click.option("--limit", type=int, metavar="LINES", help="Stop after this number of lines of all files together.")
@click.option("--loop", is_flag=True, help="Start again with the first file after the last one.")
@click.option("--batch-rows", type=int, default=2048, show_default=True, metavar="LINES", help="Lines per record.")
@click.option(
    "--resume", is_flag=True, help="Continue the last run with the same files and options: every row is sent once."
)
@max_bad_option
@kafka_options
@metrics_options
@log_options
@json_option
def command(
    files: tuple[str, ...],
    schema_name: str,
    rate: float | None,
    speedup: float | None,
    limit: int | None,
    loop: bool,
    batch_rows: int,
    resume: bool,
    max_bad: float,
    metrics_port: int | None,
    metrics_host: str,
    json_path: str | None,
    **kafka: Any,
) -> None:
    """Send click logs to the clicks topic, in the order given.

    FILES are delimited text, JSON lines, libsvm, ffm or Parquet, plain or compressed (gzip, zstd, lz4, bzip2, xz, zip);
    a folder or a pattern gives its part files in order, `-` is standard input, and s3://, gs:// and the like are opened
    by Arrow or fsspec. `hotstream schema` writes and tries the schema of a log.

    Malformed lines are counted and sent to the dead letters (`hotstream dlq show clicks`). Ctrl-C and SIGTERM stop the
    replay between two batches. --resume with the same files and options continues it there, also after a crash, and
    ends the run before if it is still alive. Rows are committed about once a second in Kafka transactions; readers
    of committed records (`isolation.level=read_committed`) get each row once.

    \b
        hotstream replay train.txt.gz --rate 20000
        hotstream replay day_0.gz day_1.gz --schema criteo-terabyte --resume
        hotstream replay avazu.csv --schema avazu --speedup 600
        zcat day_*.gz | hotstream replay - --schema criteo-terabyte
    """
    report, request = Report("replay"), StopRequest()
    plan = ReplayPlan(
        paths=files,
        schema=load_schema(schema_name),
        batch_rows=batch_rows,
        rate_rows_s=rate,
        speedup=speedup,
        limit_rows=limit,
        loop=loop,
        resume=resume,
    )
    plan.check_files()  # before --broker starts a broker
    figures = ReplayFigures()
    with (
        open_kafka(roles=["replay"], should_stop=lambda: request.is_made, **kafka) as config,
        open_monitor("replay", port=metrics_port, host=metrics_host) as monitor,
    ):
        figures.watch(monitor, config)
        started_s = time.perf_counter()
        with request.listening(), show_progress("replay") as show:

            def on_progress(counts: ReplayCounts) -> None:
                figures.counts = counts
                show(counts.bytes_read, counts.bytes_total or None, _describe(counts, time.perf_counter() - started_s))

            counts = replay_logs(config, plan, should_stop=lambda: request.is_made, on_progress=on_progress)
        seconds = time.perf_counter() - started_s
    rows = {"read": counts.read, "sent": counts.sent, "bad": counts.bad, "skipped": counts.skipped}
    summary = ", ".join(f"{number} {name}" for name, number in rows.items())
    say(f"rows: {summary}; {counts.sent / seconds:,.0f} rows/s")
    report.finish(
        json_path,
        ok=not request.is_made and counts.bad_lines.share <= max_bad,
        rows=rows,
        bad_lines=counts.bad_lines.reasons(),
        batches=counts.batches,
        rows_per_s=round(counts.sent / seconds, 1),
        files=[file.where for file in plan.files],
        resumed=counts.resumed,
    )
    if counts.bad:
        say(f"{counts.bad} malformed lines; see `{Topics(config.prefix).command('dlq show clicks')}`", logging.WARNING)
        for line in counts.bad_lines.describe():
            say(f"  {line}", logging.WARNING)
    if request.signal is not None:
        say("stopped; run the same command with --resume to continue")
        raise click.exceptions.Exit(128 + request.signal)
    counts.bad_lines.require_few(max_bad)
