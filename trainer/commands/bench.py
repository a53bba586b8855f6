"""`hotstream bench sketch|pipeline|trainer`."""

from __future__ import annotations

import click

from streams.cli.lazy_group import LazyGroup

__all__ = ["command"]

_COMMANDS = {
    "sketch": ("trainer.commands.bench_sketch", "Speed, recall and churn of HotSketch and HotSet."),
    "pipeline": ("trainer.commands.bench_pipeline", "Replay and agent against bare clients; latency at half load."),
    "trainer": ("trainer.commands.bench_trainer", "A training step against a plain hash table of equal size."),
}


@click.group(cls=LazyGroup, modules=_COMMANDS)
def command() -> None:
    """Measure a part of hotstream on this machine, against a reference or a hardware limit in the same run."""
