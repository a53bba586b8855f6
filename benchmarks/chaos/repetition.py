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
    """Trains from the oldest checkpoint on again, in a copy of the folder, and compares those that both have.

    Call it while the topics are not compacted: the journal names their records.

    Returns:
        What differs, and figures for the report.
    """
    shutil.copytree(site.checkpoints, site.repeat, ignore=shutil.ignore_patterns(".*"))
    checkpoints = Checkpoints(site.repeat)
    if len(paths := checkpoints.paths()) < 2:
        return [f"checkpoints: {len(paths)} of them, expected two or more to repeat the way between them"], {}
    *newer, oldest = paths
    expected = {path.name: (path / _TENSORS).read_bytes() for path in newer}
    for path in newer:
        shutil.rmtree(path)
    site.start("train-repeat")
    if not site.wait_until(lambda: "train-repeat" not in site.processes, stall_s=_STALL_S):
        return ["checkpoints: the repetition did not end"], {}
    # The last one may come after assignments that the first run did not see any more.
    repeated = [path for path in checkpoints.paths() if path.name in expected]
    events = [int(path.name) for path in repeated]
    figures = {"from_event": int(oldest.name), "compared_events": events}
    if not repeated:
        return [f"checkpoints: the repetition has none of the events {sorted(expected)}"], figures
    differing = [path.name for path in repeated if (path / _TENSORS).read_bytes() != expected[path.name]]
    return [f"checkpoints: event {int(name)} differs when it is repeated undisturbed" for name in differing], figures
