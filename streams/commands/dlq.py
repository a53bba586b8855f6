"""`hotstream dlq show|replay`."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Any

import click

from streams.cli.options import kafka_options, open_kafka
from streams.cli.reports import Report, json_option
from streams.clients.config import KafkaConfig
from streams.clients.dead_letter_topics import read_dead_letters, resend
from streams.clients.rights import require_rights
from streams.escapes import escape
from streams.records import DeadLetter
from streams.records.headers import MAX_TIME_MS
from streams.records.readable import letter_as_json, readable
from streams.topics import Topics

__all__ = ["command"]


@click.group(short_help="Show or replay dead-lettered records.")
def command() -> None:
    """Show invalid records that were dead-lettered, or send them again."""


def _topic_name(config: KafkaConfig, topic: str) -> str:
    """The full name of `clicks`, `importance` or `assignments`; anything else is a full name, `.dlq` optional."""
    topics = Topics(config.prefix)
    full_names = {"clicks": topics.clicks, "importance": topics.importance, "assignments": topics.assignments}
    return full_names.get(topic, topic.removesuffix(topics.dead_letters("")))


def _describe(letter: DeadLetter) -> str:
    time_s = min(max(letter.time_ms, 0), MAX_TIME_MS) // 1000
    when = datetime.fromtimestamp(time_s, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
    lines = [f"{when}  {escape(letter.origin)}  {escape(letter.error, 50)}: {escape(letter.message)}"]
    if letter.headers:
        shown = ", ".join(f"{escape(name, 50)}={readable(value)}" for name, value in letter.headers)
        lines.append(f"    headers: {escape(shown)}")
    if letter.key is not None:
        lines.append(f"    key: {readable(letter.key)}")
    return "\n".join([*lines, f"    {readable(letter.value)}"])


@command.command()
@click.argument("topic")
@click.option("--limit", type=click.IntRange(1), metavar="LETTERS", help="Show at most this number of dead letters.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the malformed lines of log files to this file, unchanged, to correct and replay them.",
)
@click.option(
    "--format",
    "letter_format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Format of a letter; json has one object a line, with all bytes.",
)
@kafka_options
@json_option
def show(
    topic: str, limit: int | None, out: Path | None, letter_format: str, json_path: str | None, **kafka: Any
) -> None:
    """Show the dead letters of TOPIC (`clicks`, `importance`, `assignments` or a full name).

    Each has its origin, the reason, and the headers, key and value that it had.
    """
    report, shown, lines = Report("dlq show"), 0, []
    with open_kafka(**kafka) as config:
        name = _topic_name(config, topic)
        require_rights(config, topics={Topics.dead_letters(name): {"READ"}})
        for letter in islice(read_dead_letters(config, name), limit):
            text = json.dumps(letter_as_json(letter)) if letter_format == "json" else _describe(letter)
            click.echo(text, err=json_path == "-")
            shown += 1
            if letter.topic is None and letter.value is not None:
                lines.append(letter.value)
    if out is not None:
        out.write_bytes(b"".join(line + b"\n" for line in lines))
    click.echo(f"{shown} dead letters, {len(lines)} of them lines of log files", err=True)
    report.finish(json_path, ok=True, letters=shown, lines=len(lines))


@command.command()
@click.argument("topic")
@kafka_options
@json_option
def replay(topic: str, json_path: str | None, **kafka: Any) -> None:
    """Send the dead-lettered records of TOPIC to it again, with their original bytes and headers.

    A record that was too large for a dead letter was cut; it is not sent.

    Lines of log files are not records: write them with `dlq show --out FILE`, correct them, and run
    `hotstream replay FILE`.
    """
    report = Report("dlq replay")
    with open_kafka(**kafka) as config:
        name = _topic_name(config, topic)
        require_rights(config, topics={Topics.dead_letters(name): {"READ"}, name: {"WRITE"}})
        resent = resend(config, name)
    click.echo(
        f"{resent.sent} records sent again; {resent.left} lines of files and {resent.cut} cut records left", err=True
    )
    report.finish(json_path, ok=True, records=resent._asdict())
