"""The log of every command on standard error: how much of it, and as text or as JSON lines.

`hotstream -v COMMAND` and `hotstream COMMAND -v` are the same; what stands after the command's name counts last.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, TypeVar

import click
from rich.console import Console

__all__ = ["JsonLines", "LogSettings", "configure_log", "draws_bars", "log_options", "say"]

logger = logging.getLogger(__name__)

Command = TypeVar("Command", bound=Callable[..., Any])
_META = __name__
_TEXT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


@dataclass
class LogSettings:
    """The settings of this call of `hotstream`.

    Attributes:
        level: `logging.DEBUG`, `INFO` or `WARNING`.
        is_json: whether each line is a JSON object.
    """

    level: int = logging.INFO
    is_json: bool = False


class JsonLines(logging.Formatter):
    """One JSON object a line: `time` (UTC), `level`, `logger`, `message`, and `fields` or `exception` if there are any.

    `logger.info(..., extra={"fields": {...}})` gives the numbers of a message as `fields`.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        moment = datetime.fromtimestamp(record.created, tz=timezone.utc)
        line: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields = getattr(record, "fields", None)
        if fields:
            line["fields"] = fields
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _settings() -> LogSettings:
    """The settings of the present call; the defaults outside of one."""
    context = click.get_current_context(silent=True)
    settings: LogSettings = LogSettings() if context is None else context.meta.setdefault(_META, LogSettings())
    return settings


def configure_log() -> None:
    """Applies the settings of this call to the log, and keeps the client libraries quiet unless it is verbose."""
    settings = _settings()
    logging.basicConfig(stream=sys.stderr)
    root = logging.getLogger()
    root.setLevel(settings.level)
    formatter = JsonLines() if settings.is_json else logging.Formatter(_TEXT, datefmt="%H:%M:%S")
    for handler in root.handlers:
        if type(handler) is logging.StreamHandler:  # not those of a test
            handler.setFormatter(formatter)
    for library in ("kafka", "aiokafka"):
        logging.getLogger(library).setLevel(logging.INFO if settings.level == logging.DEBUG else logging.ERROR)
    logging.getLogger("torch").setLevel(logging.WARNING)  # at the end of a process it logs what its caches held
    logging.getLogger("numba").setLevel(logging.WARNING)  # its debug messages make a compilation take minutes


def _set_level(level: int) -> Callable[[click.Context, click.Parameter, bool], None]:
    def set_level(_context: click.Context, _parameter: click.Parameter, is_given: bool) -> None:
        if is_given:
            _settings().level = level
            configure_log()

    return set_level


def _set_format(_context: click.Context, _parameter: click.Parameter, name: str | None) -> None:
    if name is not None:
        _settings().is_json = name == "json"
        configure_log()


def log_options(command: Command) -> Command:
    """Adds `-v`, `--quiet` and `--log-format`, which act at once; the command does not receive them."""
    for option in (
        click.option(
            "--log-format",
            type=click.Choice(["text", "json"]),
            expose_value=False,
            callback=_set_format,
            help="Log lines as text, or as one JSON object each.  [default: text]",
        ),
        click.option(
            "-q",
            "--quiet",
            is_flag=True,
            expose_value=False,
            callback=_set_level(logging.WARNING),
            help="Log warnings and errors only.",
        ),
        click.option(
            "-v",
            "--verbose",
            is_flag=True,
            expose_value=False,
            callback=_set_level(logging.DEBUG),
            help="Log debug messages.",
        ),
    ):
        command = option(command)
    return command


def _logs_json() -> bool:
    """Whether the log is JSON; also after the command, when its settings are gone."""
    return any(isinstance(handler.formatter, JsonLines) for handler in logging.getLogger().handlers)


def say(text: str, level: int = logging.INFO) -> None:
    """Writes a line to standard error: as it is, or as a log line if the log is JSON; with `--quiet` only warnings."""
    if _logs_json():
        logger.log(level, "%s", text)
    elif level >= _settings().level:
        click.echo(text, err=True)


def draws_bars() -> bool:
    """Whether progress is drawn as a bar: on a terminal, unless the log is JSON or quiet."""
    return Console(stderr=True).is_terminal and not _logs_json() and _settings().level <= logging.INFO
