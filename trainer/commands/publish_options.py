"""The options of `hotstream train` that publish its rows for replicas."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from trainer.process.publication import PublishConfig

__all__ = ["publish_config", "publish_options"]


def publish_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--publish`, `--publish-bytes` and `--publish-field`."""
    for option in (
        click.option("--publish", is_flag=True, help="Publish rows and dense part to the topic `embeddings`."),
        click.option(
            "--publish-bytes",
            type=click.IntRange(1000),
            default=1_000_000,
            show_default=True,
            metavar="BYTES",
            help="The most bytes a second to publish.",
        ),
        click.option(
            "--publish-field",
            "publish_fields",
            multiple=True,
            metavar="NAME",
            help="A field whose rows may be published; repeat it for more.  [default: all]",
        ),
    ):
        command = option(command)
    return command


def publish_config(options: dict[str, Any]) -> tuple[list[str], PublishConfig | None]:
    """Takes the options; returns the further roles and the configuration, None without `--publish`."""
    from trainer.process.publication import PublishConfig  # noqa: PLC0415  needs torch

    is_on, fields, most = options.pop("publish"), options.pop("publish_fields"), options.pop("publish_bytes")
    return (["publish"], PublishConfig(bytes_per_s=most, fields=fields)) if is_on else ([], None)
