"""`hotstream bench pipeline`."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
from rich.console import Console

from streams.broker import open_broker
from streams.cli.reports import Report, json_option
from streams.clients.config import KafkaConfig
from streams.clients.properties import load_properties

__all__ = ["command"]


@click.command(short_help="Replay and agent against bare clients; latency at half load.")
@click.option("--broker", default="embedded", show_default=True, metavar="embedded|apache|HOST:PORT",
              help="'embedded' and 'apache' start a broker for the benchmark and stop it at the end.")  # fmt: skip
@click.option("--rows", type=click.IntRange(1000), default=400_000, show_default=True, help="Rows to generate.")
@click.option("--capacity", type=click.IntRange(2), default=20_000, show_default=True, metavar="ROWS",
              help="Capacity of the hot set.")  # fmt: skip
@click.option(
    "--batch-rows", type=click.IntRange(1, 8192), default=8192, show_default=True, help="Rows per click record."
)
@click.option(
    "--shards", type=click.IntRange(1), default=2, show_default=True, help="Partitions of the importance topic."
)
@click.option(
    "--passes",
    type=click.IntRange(1),
    default=40,
    show_default=True,
    help="Copies of the log's importance records that the agent counts; more copies reduce the variance.",
)
@click.option(
    "--seconds", type=float, default=15.0, show_default=True, help="Duration of the run at half load, in seconds."
)
@click.option("--config", "config_path", type=click.Path(path_type=Path), help="A Kafka client.properties file.")
@click.option("--prefix", default="bench", show_default=True, help="Prefix of all topic names.")
@json_option
def command(
    broker: str,
    rows: int,
    capacity: int,
    batch_rows: int,
    shards: int,
    passes: int,
    seconds: float,
    config_path: Path | None,
    prefix: str,
    json_path: str | None,
) -> None:
    """Measure replay and agent against bare clients that transfer the same bytes, and the latency at half load.

    Both sides of a ratio are measured in one run on this machine; run nothing else meanwhile.
    """
    from streams.generator import Generator, GeneratorConfig  # noqa: PLC0415 - `--help` does not need it
    from streams.generator.files import open_writer  # noqa: PLC0415
    from trainer.bench.pipeline import PipelineBenchConfig, bench_pipeline  # noqa: PLC0415

    console = Console(stderr=json_path == "-")
    report = Report("bench pipeline")
    properties = load_properties(config_path) if config_path else {}
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
                kafka=KafkaConfig(bootstrap_servers=servers, prefix=prefix, properties=properties),
                config_path=config_path,
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
                text = ", ".join(
                    f"{name} {value:,.2f}" if isinstance(value, float) else f"{name} {value}"
                    for name, value in figures.items()
                )
                console.print(f"[bold]{key}[/] {text}", highlight=False)
    report.finish(json_path, ok=True, **content)
