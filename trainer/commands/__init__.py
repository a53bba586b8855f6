"""The commands of `trainer`, one module each; a module is imported only when its command is called."""

from __future__ import annotations

__all__ = ["COMMANDS"]

# name -> (module, one line for `hotstream --help`); each module has a click command called `command`.
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("trainer.commands.demo", "The whole of hotstream on a real broker, with a report at the end."),
    "train": ("trainer.commands.train", "Train online from the clicks and assignments topics."),
    "evaluate": ("trainer.commands.evaluate", "Compare methods of compression on the same rows and bytes."),
    "bench": ("trainer.commands.bench", "Measure the sketch, the pipeline or the trainer."),
}
