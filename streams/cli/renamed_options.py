"""Options that were renamed: a command accepts the former name for one version, with a warning that names the new."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

__all__ = ["RenamedOptions"]


class RenamedOptions(click.Command):
    """A command that also accepts former names of its options, as `--rate 1` or `--rate=1`.

    Args:
        renamed: former name -> present name, for example `{"--rate": "--learning-rate"}`.
    """

    def __init__(self, *args: Any, renamed: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._renamed = renamed

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses the arguments after replacing former names by present ones."""
        return super().parse_args(ctx, [self._replace_name(argument) for argument in args])

    def _replace_name(self, argument: str) -> str:
        name, equals, value = argument.partition("=")
        if name not in self._renamed:
            return argument
        click.echo(f"hotstream: {name} is now {self._renamed[name]}; version 0.3 removes the former name", err=True)
        return f"{self._renamed[name]}{equals}{value}"
