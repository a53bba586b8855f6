"""`--metrics-port` and `--metrics-host` of every command that runs for long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

__all__ = ["metrics_options"]

Command = TypeVar("Command", bound=Callable[..., Any])


def metrics_options(command: Command) -> Command:
    """Adds the options, which reach the command as `metrics_port` and `metrics_host`."""
    for option in (
        click.option(
            "--metrics-host",
            default="127.0.0.1",
            show_default=True,
            metavar="ADDRESS",
            help="Address of --metrics-port. There is no password: bind it to a private network only.",
        ),
        click.option(
            "--metrics-port",
            type=click.IntRange(0, 65_535),
            metavar="PORT",
            help="Serve /metrics for Prometheus, /readyz and /healthz (docs/metrics.md); 0 for any free port.  "
            "[default: none]",
        ),
    ):
        command = option(command)
    return command
