"""docs/commands.md, the reference of all commands and options, from the code: `python -m trainer.reference`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from trainer.cli import cli

__all__ = ["command_reference"]

_HEAD = """# Commands

The output of `hotstream COMMAND --help`, for all commands; `python -m trainer.reference` writes this page.
"""
_WIDTH = 100


def command_reference() -> str:
    """The page as Markdown."""
    parts = (f"\n## {context.command_path}\n```\n{context.get_help()}\n```\n" for context in _walk(_context(cli, None)))
    return _HEAD + "".join(parts)


def _context(command: click.Command, parent: click.Context | None) -> click.Context:
    name = "hotstream" if parent is None else command.name
    settings = {**command.context_settings, "terminal_width": _WIDTH, "max_content_width": _WIDTH}
    return command.context_class(command, info_name=name, parent=parent, **settings)


def _walk(context: click.Context) -> Iterator[click.Context]:
    """The context of a command and of all commands in it."""
    yield context
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            command = context.command.get_command(context, name)
            assert command is not None  # noqa: S101  it was listed
            command.name = name
            yield from _walk(_context(command, context))


if __name__ == "__main__":
    page = Path(__file__).resolve().parent.parent / "docs" / "commands.md"
    page.write_text(command_reference())
