"""`hotstream bench pipeline`."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
from rich.console import Console

from streams.broker import open_broker
from streams.cli.reports import Report, json_option
from streams.clients.config import KafkaConfig

__all__ = ["command"]


@click.command(short_help="Replay and agent against the bare clients; latencies at half load.")
@click.option("--broker", default="embedded", show_default=True, metavar="embedded|apache|HOST:PORT")
@click.option("--rows", type=click.IntRange(1000), default=400_000, show_default=True, help="Rows to generate.")
@click.option("--capacity", type=click.IntRange(2), default=20_000, show_default=True, metavar="ROWS")
@click.option("--batch-rows", type=click.IntRange(1, 8192), default=8192, show_default=True)
@click.option("--shards", type=click.IntRange(1), default=2, show_default=True)
@click.option(
    "--passes",
    type=click.IntRange(1),
    default=40,
    show_default=True,
    help="How often the agent is given the log's importance; more is steadier.",
)
@click.option("--seconds", type=float, default=15.0, show_default=True, help="How long the run at half load lasts.")
@click.option("--prefix", default="bench", show_default=True)
@json_option
def command(
    broker: str,
    rows: int,
    capacity: int,
    batch_rows: int,
    shards: int,
    passes: int,
    seconds: float,
    prefix: str,
    json_path: str | None,
) -> None:
    """Measure replay and agent against bare clients that move the same bytes, and latencies at half load.

    Every ratio is of one run on one machine; nothing else should run beside it.
    """
    from streams.generator import Generator, GeneratorConfig  # noqa: PLC0415 - not for --help
    from streams.generator.files import open_writer  # noqa: PLC0415
    from trainer.bench.pipeline import PipelineBenchConfig, bench_pipeline  # noqa: PLC0415

    console = Console(stderr=json_path == "-")
    report = Report("bench pipeline")
    content: dict[str, object] = {"broker": broker, "rows": rows, "batch_rows": batch_rows, "shards": shards}
    content["capacity"] = capacity
    with tempfile.TemporaryDirectory(prefix="hotstream-bench-") as name:
        folder = Path(name)
        data = folder / "clicks.tsv"
        console.print(f"generating {rows:,} rows")
        with open_writer(data) as writer:
            for block in Generator(GeneratorConfig()).blocks(rows):
                writer.write(block)
        with open_broker(broker) as servers:
            config = PipelineBenchConfig(
                kafka=KafkaConfig(bootstrap_servers=servers, prefix=prefix),
                data=data,
                folder=folder,
                capacity=capacity,
                batch_rows=batch_rows,
                shards=shards,
                passes=passes,
                half_load_s=seconds,
            )
            for key, figures in bench_pipeline(config):
                content[key] = figures
                said = ", ".join(
                    f"{part} {value:,.2f}" if isinstance(value, float) else f"{part} {value}"
                    for part, value in figures.items()
                )
                console.print(f"[bold]{key}[/] {said}", highlight=False)
    report.finish(json_path, ok=True, **content)
