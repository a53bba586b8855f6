"""Repeats the end of the training undisturbed: from an older checkpoint by the journal, to the same bits."""

from __future__ import annotations

import shutil
from typing import Any

from benchmarks.chaos.site import Site
from trainer.process.checkpoint import Checkpoints

__all__ = ["repeat_last_checkpoint"]

_STALL_S = 120.0
_TENSORS = "tensors.safetensors"


def repeat_last_checkpoint(site: Site) -> tuple[list[str], dict[str, Any]]:
    """Trains from the oldest checkpoint on again, in a copy of the folder, and compares the newest one.

    Call it while the topics are not compacted: the journal names their records.

    Returns:
        What differs, and figures for the report.
    """
    shutil.copytree(site.checkpoints, site.repeat, ignore=shutil.ignore_patterns(".*"))
    checkpoints = Checkpoints(site.repeat)
    newest, *older = checkpoints.paths()
    if not older:
        return ["checkpoints: there is only one, so nothing can be repeated"], {}
    expected = (newest / _TENSORS).read_bytes()
    for path in (newest, *older[:-1]):
        shutil.rmtree(path)
    site.start("train-repeat")
    if not site.wait_until(lambda: "train-repeat" not in site.processes, stall_s=_STALL_S):
        return ["checkpoints: the repetition did not end"], {}
    repeated = checkpoints.paths()[0]
    figures = {"from_event": int(older[-1].name), "to_event": int(newest.name), "bytes": len(expected)}
    if repeated.name != newest.name:
        return [f"checkpoints: the repetition ends at event {int(repeated.name)}, expected {int(newest.name)}"], figures
    if (repeated / _TENSORS).read_bytes() != expected:
        return [f"checkpoints: event {int(newest.name)} differs when it is repeated undisturbed"], figures
    return [], figures
