"""The commands of `trainer`, one module each. A module is imported only when its command runs."""

from __future__ import annotations

__all__ = ["COMMANDS"]

# name -> (module, its line in `hotstream --help`); each module defines a click command named `command`.
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("trainer.commands.demo", "Run all of hotstream on a real broker and report the result."),
    "train": ("trainer.commands.train", "Train online from the clicks and assignments topics."),
    "export": ("trainer.commands.export", "Export a run's newest checkpoint, or make a model smaller."),
    "serve": ("trainer.commands.serve", "Serve a trained model over HTTP (Open Inference Protocol)."),
    "sink": ("trainer.commands.sink", "Write what is trained to another store."),
    "audit": ("trainer.commands.audit", "Compare what is served with what was trained."),
    "evaluate": ("trainer.commands.evaluate", "Compare embedding compression methods on the same rows and bytes."),
    "advise": ("trainer.commands.advise", "Profile a log, and show what each size of its embedding costs."),
    "doctor": ("trainer.commands.doctor", "Show what is missing for what, and the command that mends it."),
    "bench": ("trainer.commands.bench", "Measure the sketch, the pipeline or the trainer."),
}
