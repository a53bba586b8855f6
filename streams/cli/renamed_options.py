"""Options that were renamed: the old name goes on working for one version, and a warning names the new one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

__all__ = ["RenamedOptions"]


class RenamedOptions(click.Command):
    """A command that also accepts the options' former names.

    Args:
        renamed: former name -> name, for example `{"--rate": "--learning-rate"}`. Both `--rate 1` and `--rate=1` work.
    """

    def __init__(self, *args: Any, renamed: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._renamed = renamed

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses the arguments, former names as the present ones."""
        return super().parse_args(ctx, [self._present(argument) for argument in args])

    def _present(self, argument: str) -> str:
        name, equals, value = argument.partition("=")
        if name not in self._renamed:
            return argument
        click.echo(f"hotstream: {name} is now {self._renamed[name]}; the old name goes away in version 0.3", err=True)
        return f"{self._renamed[name]}{equals}{value}"
