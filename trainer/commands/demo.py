"""`hotstream demo`."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from streams.broker import ENGINES, open_broker
from streams.cli.log_lines import log_options
from streams.cli.options import max_bad_option
from streams.cli.reports import Report, json_option
from streams.clients.config import KafkaConfig
from streams.clients.properties import load_properties
from streams.clients.rights import require_rights
from streams.errors import ConfigError
from streams.logs.schema import load_schema
from streams.records import NO_LABELS

__all__ = ["command"]

_DIM = 16


@click.command(short_help="Run all of hotstream on a real broker and report the result.")
@click.option(
    "--data",
    help="A click log, a folder or a pattern of part files, or the URI of one.  [default: generated rows]",
)
@click.option(
    "--schema", default="criteo-kaggle", show_default=True, help="Schema of --data: a built-in name or a TOML file."
)
@click.option(
    "--rows", type=click.IntRange(1), default=200_000, show_default=True, help="Rows to generate without --data."
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0),
    default=4000.0,
    show_default=True,
    metavar="ROWS/S",
    help="Replayed rows per second; 0 for as fast as possible (latencies then include the backlog).",
)
@click.option(
    "--batch-rows", type=click.IntRange(1, 8192), default=512, show_default=True, help="Rows per click record."
)
@click.option(
    "--embedding-bytes",
    type=click.IntRange(1),
    default=2_000_000,
    show_default=True,
    metavar="BYTES",
    help="Size of the adaptive embedding, and of the plain hash table that it is compared with.",
)
@click.option(
    "--broker",
    default="embedded",
    show_default=True,
    metavar="embedded|apache|HOST:PORT",
    help="'embedded' and 'apache' start a broker for the demo and stop it at the end.",
)
@click.option("--config", "config_path", type=click.Path(path_type=Path), help="A Kafka client.properties file.")
@click.option("--prefix", default="hotstream", show_default=True, help="Prefix of all topic names.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo"),
    show_default=True,
    help="Folder of the generated rows, logs, checkpoints, report.json and report.png.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of rows, agent and trainer.")
@max_bad_option
@log_options
@json_option
def command(
    data: str | None,
    schema: str,
    rows: int,
    rate: float,
    batch_rows: int,
    embedding_bytes: int,
    broker: str,
    config_path: Path | None,
    prefix: str,
    out: Path,
    seed: int,
    max_bad: float,
    json_path: str | None,
) -> None:
    """Run all of hotstream on a real broker and audit the result.

    Replay, agent and trainer run as separate processes. Replay writes clicks to Kafka. The trainer trains on them and
    publishes the importance of each feature. The agent finds the hot features and publishes every change of the hot
    set. The trainer follows these changes. The exit code is 0 only if the audit passes: no record was lost or counted
    twice, and the hot set never exceeded its capacity.
    """
    from streams.logs.reader import check_logs  # noqa: PLC0415
    from streams.telemetry.observer import Observer  # noqa: PLC0415 - `--help` does not need it
    from trainer.demo.picture import draw_report  # noqa: PLC0415
    from trainer.demo.stage import AGENT_GROUP, DemoConfig, prepare_topics, run_demo  # noqa: PLC0415
    from trainer.demo.view import DemoView, print_report  # noqa: PLC0415
    from trainer.embedding.plans import plan  # noqa: PLC0415

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = Console(stderr=json_path == "-")
    report = Report("demo")
    log_schema = load_schema(schema)
    if log_schema.label is None:
        raise ConfigError(f"--schema: {log_schema} has no label, expected one: {NO_LABELS}")
    capacity = plan(embedding_bytes, _DIM, len(log_schema.categorical)).capacity_rows
    out.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    if data is None:
        if schema != "criteo-kaggle":
            raise ConfigError(
                f"--schema: got {schema}, expected criteo-kaggle for generated rows; pass a log with --data"
            )
        num_rows, data = rows, str(_generate(out, rows, seed))
    else:
        num_rows = None
        check_logs([data], log_schema)
    properties = load_properties(config_path) if config_path else {}
    with open_broker(broker) as servers:
        kafka = KafkaConfig(bootstrap_servers=servers, prefix=prefix, properties=properties)
        require_rights(kafka, ["replay", "agent", "train", "observe"], group=AGENT_GROUP)
        if broker not in ENGINES:
            console.print(f"using the broker at {broker}")
        prepare_topics(kafka)
        config = DemoConfig(
            kafka=kafka, config_path=config_path, data=data, schema=log_schema, schema_option=schema, folder=out,
            rate_rows_s=rate or None, batch_rows=batch_rows,
            embedding_bytes=embedding_bytes, capacity=capacity, seed=seed, max_bad=max_bad,
        )  # fmt: skip
        with Observer(kafka) as observer:
            with DemoView(console, capacity, num_rows) as view:
                content: dict[str, Any] = run_demo(config, observer, view.show)
            picture = out / "report.png"
            draw_report(picture, observer, content)
    ok = content.pop("ok")
    content["broker"] = broker if broker in ENGINES else servers
    content["picture"] = str(picture)
    finished = report.finish(str(out / "report.json"), ok=ok, **content)
    if json_path is not None:
        report.finish(json_path, ok=ok, **content)
    print_report(console, finished)
    console.print(f"picture: {picture}   report: {out / 'report.json'}   took {finished['seconds']:.0f} s")
    if not ok:
        raise click.exceptions.Exit(1)


def _generate(out: Path, rows: int, seed: int) -> Path:
    """Returns the path of the generated rows; it generates them once for each size and seed."""
    path = out / f"clicks-{rows}-{seed}.tsv"
    if not path.exists():
        arguments = ["generate", str(path), "--rows", str(rows), "--seed", str(seed)]
        subprocess.run([sys.executable, "-m", "trainer", *arguments], check=True)
    return path
