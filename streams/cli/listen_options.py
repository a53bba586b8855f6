"""The options of commands that serve over HTTP: where to listen, and who may ask."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

__all__ = ["listen_options"]

Command = Callable[..., Any]


def listen_options(default_port: int) -> Callable[[Command], Command]:
    """Adds --host, --port and --token-file: `host`, `port`, and `token_file`, a Path or None."""
    options = [
        click.option(
            "--host",
            default="127.0.0.1",
            show_default=True,
            metavar="ADDRESS",
            help="Address to bind to; one that other machines reach needs --token-file.",
        ),
        click.option(
            "--port",
            type=click.IntRange(0, 65_535),
            default=default_port,
            show_default=True,
            help="Port to bind to; 0 for any free port.",
        ),
        click.option(
            "--token-file",
            type=click.Path(path_type=Path),
            help="File whose first line is the token that callers must know (`Authorization: Bearer TOKEN`).",
        ),
    ]

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add
