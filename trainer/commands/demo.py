"""`hotstream demo`."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from streams.cli.log_lines import log_options
from streams.cli.options import max_bad_option
from streams.cli.reports import Report, json_option
from streams.errors import ConfigError

if TYPE_CHECKING:
    from trainer.demo.view import DemoView

__all__ = ["command"]

_DIM = 16
_ROWS = 200_000


@click.command(short_help="Run all of hotstream on a real broker and report the result.")
@click.option(
    "--data",
    help="A click log, a folder or a pattern of part files, or the URI of one.  [default: generated rows]",
)
@click.option(
    "--schema", default="criteo-kaggle", show_default=True, help="Schema of --data: a built-in name or a TOML file."
)
@click.option(
    "--rows",
    type=click.IntRange(1),
    help="Rows to generate without --data.  [default: 200,000, of which it replays a minute's]",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0),
    metavar="ROWS/S",
    help="Replayed rows per second; 0 for as fast as possible (latencies then include the backlog).  [default: half of "
    "what the trainer carries, which the first rows measure]",
)
@click.option(
    "--flat-out",
    is_flag=True,
    help="After a minute at that rate replay the rest as fast as possible, and report both.",
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
    rows: int | None,
    rate: float | None,
    flat_out: bool,
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

    The replay first measures what the trainer of this machine carries, and then keeps to half of it, so that the
    latency is that of the pipeline. The first run after an installation compiles for minutes. Ctrl-C ends the demo
    within 10 s.
    """
    from trainer.demo.view import DemoView, print_report  # noqa: PLC0415 - `--help` does not need it

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    report = Report("demo")
    out.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    with DemoView(None if data else rows or _ROWS) as view:
        view.begin("preparing", "loads the modules")
        from streams.logs.reader import check_logs  # noqa: PLC0415 - after the first line, because it takes seconds
        from streams.logs.schema import load_schema  # noqa: PLC0415
        from streams.records import NO_LABELS  # noqa: PLC0415
        from trainer.embedding.plans import plan  # noqa: PLC0415

        log_schema = load_schema(schema)
        if log_schema.label is None:
            raise ConfigError(f"--schema: {log_schema} has no label, expected one: {NO_LABELS}")
        if data is None and schema != "criteo-kaggle":
            raise ConfigError(
                f"--schema: got {schema}, expected criteo-kaggle for generated rows; pass a log with --data"
            )
        view.capacity = plan(embedding_bytes, _DIM, len(log_schema.categorical)).capacity_rows
        if data is not None:
            check_logs([data], log_schema)
        options = {
            "config_path": config_path, "schema": log_schema, "schema_option": schema, "folder": out,
            "data": data or str(_generate(out, rows or _ROWS, seed, view)),
            "num_rows": view.num_rows, "is_bounded": data is None and rows is None,
            "rate_rows_s": rate, "flat_out": flat_out, "batch_rows": batch_rows,
            "embedding_bytes": embedding_bytes, "capacity": view.capacity, "seed": seed, "max_bad": max_bad,
        }  # fmt: skip
        content = _run(broker, prefix, options, view)
    ok = content.pop("ok")
    picture = content["picture"]
    finished = report.finish(str(out / "report.json"), ok=ok, **content)
    if json_path is not None:
        report.finish(json_path, ok=ok, **content)
    console = Console(stderr=json_path == "-")
    print_report(console, finished)
    console.print(f"picture: {picture}   report: {out / 'report.json'}   took {finished['seconds']:.0f} s")
    if not ok:
        raise click.exceptions.Exit(1)


def _run(broker: str, prefix: str, options: dict[str, Any], view: DemoView) -> dict[str, Any]:
    """Runs the demo on a broker and draws its report; returns the report's content.

    Args:
        broker: `embedded`, `apache` or an address.
        prefix: of the topics.
        options: the arguments of `DemoConfig`, without `kafka`.
        view: shows the progress.
    """
    from streams.broker import ENGINES, open_broker  # noqa: PLC0415
    from streams.clients.config import KafkaConfig  # noqa: PLC0415
    from streams.clients.properties import load_properties  # noqa: PLC0415
    from streams.clients.rights import require_rights  # noqa: PLC0415
    from streams.telemetry.observer import Observer  # noqa: PLC0415
    from trainer.demo.picture import draw_report  # noqa: PLC0415
    from trainer.demo.stage import AGENT_GROUP, DemoConfig, prepare_topics, run_demo  # noqa: PLC0415

    config_path = options["config_path"]
    properties = load_properties(config_path) if config_path else {}
    view.begin("broker", f"{'starts' if broker in ENGINES else 'connects to'} {broker}")
    with open_broker(broker) as servers:
        kafka = KafkaConfig(bootstrap_servers=servers, prefix=prefix, properties=properties)
        view.begin("topics", f"creates the topics {prefix}.* at {servers}")
        require_rights(kafka, ["replay", "agent", "train", "observe"], group=AGENT_GROUP)
        prepare_topics(kafka)
        with Observer(kafka) as observer:
            content = run_demo(DemoConfig(kafka=kafka, **options), observer, view)
            view.begin("drawing", "report.png")
            picture = options["folder"] / "report.png"
            draw_report(picture, observer, content)
        view.begin("stopping", "the broker" if broker in ENGINES else "")
    return {**content, "broker": broker if broker in ENGINES else servers, "picture": str(picture)}


def _generate(out: Path, rows: int, seed: int, view: DemoView) -> Path:
    """Returns the path of the generated rows; it generates them once for each size and seed."""
    path = out / f"clicks-{rows}-{seed}.tsv"
    if not path.exists():
        view.begin("generating", f"{rows:,} rows")
        part = path.with_name(f"part-{path.name}")  # a demo that is stopped here leaves no half of a log
        # Quiet, as its bar and the view would draw over each other.
        arguments = ["--quiet", "generate", str(part), "--rows", str(rows), "--seed", str(seed)]
        subprocess.run([sys.executable, "-m", "trainer", *arguments], check=True)
        part.rename(path)
    return path
