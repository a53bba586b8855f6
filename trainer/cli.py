"""The `hotstream` command. It imports a subcommand only to run it, so `hotstream replay` does not import torch."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import sys

import click

from sketch.errors import ParameterError, SketchError
from streams.cli.lazy_group import LazyGroup
from streams.cli.log_lines import configure_log, log_options, say
from streams.commands import COMMANDS as STREAMS_COMMANDS
from streams.errors import ConfigError, InvariantError, StreamsError
from trainer.commands import COMMANDS as TRAINER_COMMANDS
from trainer.errors import PlanError, TrainerError

__all__ = ["main"]

_ORDER = (
    "demo",
    "doctor",
    "generate",
    "broker",
    "topics",
    "schema",
    "replay",
    "agent",
    "train",
    "export",
    "serve",
    "sink",
    "audit",
    "watch",
    "top",
    "dashboard",
    "values",
    "compare",
    "advise",
    "evaluate",
    "bench",
    "dlq",
)
_ALL = {**TRAINER_COMMANDS, **STREAMS_COMMANDS}
COMMANDS = {name: _ALL[name] for name in _ORDER if name in _ALL}


@click.group(cls=LazyGroup, modules=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="hotstream")
@log_options
def cli() -> None:
    """Find the features that matter now, publish them, and train a model that follows.

    \b
    hotstream demo          runs the whole system on this machine in about two minutes
    hotstream COMMAND -h    shows what a command does and its options
    """
    configure_log()
    # These also raise what they log.
    logging.getLogger("kafka.cluster").addFilter(lambda record: "is not authorized" not in str(record.msg))
    logging.getLogger("kafka.producer.transaction_manager").setLevel(logging.CRITICAL)
    logging.getLogger("kafka.producer.sender").addFilter(lambda record: "due to fatal error" not in str(record.msg))


def main() -> None:
    """Runs the command line; exits with 0 for success, 1 for a failure, 2 for wrong usage."""
    try:
        cli(prog_name="hotstream")
    except InvariantError:
        raise
    except (StreamsError, TrainerError, SketchError) as error:
        say(f"hotstream: {error}", logging.ERROR)
        if "torch" in sys.modules:
            gc.freeze()  # what torch made would take the interpreter's last collection seconds
            atexit.register(os.dup2, os.open(os.devnull, os.O_WRONLY), 2)  # triton lists what was not collected
        sys.exit(2 if isinstance(error, ConfigError | PlanError | ParameterError) else 1)
