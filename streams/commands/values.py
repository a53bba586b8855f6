"""`hotstream values`."""

from __future__ import annotations

from typing import Any

import click

from streams.assignments.subscription import HotFeatureTable
from streams.assignments.values import read_values
from streams.cli.options import kafka_options, max_bad_option, open_kafka
from streams.cli.reports import Report, json_option
from streams.clients.admin import create_topics
from streams.clients.connector import Connector
from streams.clients.producer import RecordProducer
from streams.clients.recorded_fields import require_fields
from streams.logs.bad_lines import BadLines
from streams.logs.locations import find_logs
from streams.logs.schema import LogSchema, load_schema
from streams.logs.value_finder import find_values, keys_of_values
from streams.records import encode_value
from streams.topics import Topics

__all__ = ["command", "publish_values"]


@click.command(short_help="Publish which values the hot hashed features are.")
@click.argument("files", nargs=-1, required=True)
@click.option("--schema", "schema_name", required=True, help="Schema of FILES, as `hotstream replay`.")
@max_bad_option
@kafka_options
@json_option
def command(files: tuple[str, ...], schema_name: str, max_bad: float, json_path: str | None, **kafka: Any) -> None:
    """Publish which values the hot features of kind `hash` are, as far as FILES hold them.

    `device_ip:~0c1d2e3f4a5b6c` is a hash; this writes its value to the compacted topic `PREFIX.values`, which it
    creates, and from which `hotstream watch --values` shows it. No other value of the log is published. Features that
    become hot later need another run.
    """
    report, bad_lines = Report("values"), BadLines()
    with open_kafka(roles=["values"], **kafka) as config:
        counts = publish_values(config, files, load_schema(schema_name), bad_lines)
    click.echo(", ".join(f"{number} {name}" for name, number in counts.items()), err=True)
    report.finish(json_path, ok=bad_lines.share <= max_bad, features=counts, bad_lines=bad_lines.reasons())
    bad_lines.require_few(max_bad)


def publish_values(
    connector: Connector, files: tuple[str, ...], schema: LogSchema, bad_lines: BadLines
) -> dict[str, int]:
    """Publishes the values of hot hashed features; returns the numbers of hot, known, published and missing ones.

    Raises:
        BrokerError: the broker does not answer, or refuses.
        ConfigError: a file does not fit the schema.
        InputError: a file cannot be read.
        TopicError: the schema is not that of the prefix.
    """
    topics = Topics(connector.prefix)
    require_fields(connector, schema.categorical)
    create_topics(connector, [topics.values_spec()])
    with HotFeatureTable(connector) as table:
        hot = keys_of_values([key for key, _ in table.table.items()], schema)
    known = hot & read_values(connector).keys()
    published = 0
    with RecordProducer(connector) as producer:
        for key, value in find_values(find_logs(files), schema, hot - known, bad_lines):
            name, content, headers = encode_value(key, value)
            producer.send(topics.values, 0, content, headers, key=name)
            published += 1
    return {
        "hot": len(hot),
        "known": len(known),
        "published": published,
        "not found": len(hot) - len(known) - published,
    }
