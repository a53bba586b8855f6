"""One rule for the log of all commands: its level and its format, before and after the command's name."""

from __future__ import annotations

import json
import logging
import sys

import click
import pytest
from click.testing import CliRunner

from streams.cli.log_lines import JsonLines, configure_log, log_options, say
from trainer.cli import cli

LONG = ("agent", "train", "replay", "watch", "demo")


@click.group()
@log_options
def group() -> None:
    """As `hotstream`."""
    configure_log()


@group.command()
@log_options
def work() -> None:
    """A long command."""
    logger = logging.getLogger("streams.work")
    logger.debug("detail")
    logger.info("%d rows", 3, extra={"fields": {"rows": 3}})
    logger.warning("careful")
    say("the end")
    say("refused", logging.ERROR)


def run(*arguments: str) -> list[str]:
    """The lines on standard error; the root logger is without the handlers of pytest meanwhile."""
    root = logging.getLogger()
    handlers, level, root.handlers = root.handlers, root.level, []
    try:
        done = CliRunner().invoke(group, list(arguments))
    finally:
        root.handlers = handlers
        root.setLevel(level)
    assert done.exit_code == 0, done.output
    return done.stderr.splitlines()


def words(lines: list[str]) -> list[str]:
    return [line.split("streams.work: ")[-1] for line in lines]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["work"], ["3 rows", "careful", "the end", "refused"]),
        (["work", "--quiet"], ["careful", "refused"]),
        (["-q", "work"], ["careful", "refused"]),
        (["work", "-v"], ["detail", "3 rows", "careful", "the end", "refused"]),
        (["-v", "work"], ["detail", "3 rows", "careful", "the end", "refused"]),
        (["-v", "work", "-q"], ["careful", "refused"]),
    ],
)
def test_a_level_before_or_after_the_command(arguments: list[str], expected: list[str]) -> None:
    assert words(run(*arguments)) == expected


def test_json_lines_are_objects_with_the_numbers_as_fields() -> None:
    lines = [json.loads(line) for line in run("work", "--log-format", "json")]
    assert [line["message"] for line in lines] == ["3 rows", "careful", "the end", "refused"]
    assert [line["level"] for line in lines] == ["INFO", "WARNING", "INFO", "ERROR"]
    assert lines[0]["fields"] == {"rows": 3}
    assert lines[0]["logger"] == "streams.work"
    assert lines[0]["time"].endswith("Z")


def test_an_error_with_a_traceback_is_one_json_line() -> None:
    try:
        raise ValueError("broken")  # noqa: TRY301
    except ValueError:
        record = logging.LogRecord("streams", logging.ERROR, "", 0, "failed", (), sys.exc_info())
    line = JsonLines().format(record)
    assert "\n" not in line
    assert "ValueError: broken" in json.loads(line)["exception"]


@pytest.mark.parametrize("name", LONG)
def test_every_long_command_has_the_options_of_the_log(name: str) -> None:
    context = click.Context(cli)
    command = cli.get_command(context, name)
    assert command is not None
    options = {option for parameter in command.params for option in parameter.opts}
    assert {"--log-format", "--quiet", "--verbose", "-v", "-q", "--json"} <= options
