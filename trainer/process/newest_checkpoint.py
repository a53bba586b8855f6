"""`read_newest`: the newest checkpoint of a run that may be writing, for readers that only look."""

from __future__ import annotations

from pathlib import Path

from trainer.errors import CheckpointError
from trainer.process.checkpoint import Checkpoint, read_if_good
from trainer.process.common_checkpoints import common_steps, is_of_rank, ranks_in
from trainer.process.resharding import join_checkpoints
from trainer.ranks.group import Ranks

__all__ = ["read_newest"]


def read_newest(run: Path) -> Checkpoint:
    """The newest valid checkpoint of a run; nothing is locked, changed or deleted.

    Of a run of several ranks it is the newest that all of them have, joined as a single rank resumes from it.

    Raises:
        CheckpointError: there is none, or the directory is that of a single rank.
    """
    if is_of_rank(run):
        raise CheckpointError(f"{run}: has the shards of one rank only; give the folder of the run, {run.parent}")
    if worlds := ranks_in(run):
        return _read_common(run, worlds)
    paths = sorted((path for path in run.glob("*") if path.name.isdigit()), reverse=True)
    found = next((one for one in map(read_if_good, paths) if one is not None), None)
    if found is None:
        raise CheckpointError(f"{run}: got {len(paths)} checkpoints, expected an intact one")
    return found


def _read_common(run: Path, worlds: dict[int, list[Path]]) -> Checkpoint:
    steps = [(step, world, paths) for world in worlds for step, paths in common_steps(run, world).items()]
    for _, _, paths in sorted(steps, reverse=True):
        parts = [part for path in paths if (part := read_if_good(path)) is not None]
        if len(parts) == len(paths):
            return join_checkpoints(parts, Ranks())
    there = ", ".join(path.name for paths in worlds.values() for path in paths)
    raise CheckpointError(
        f"{run}: no step has an intact checkpoint of every rank, got the folders {there}; expected those of all ranks"
    )
