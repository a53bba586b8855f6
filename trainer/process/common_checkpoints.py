"""`CommonCheckpoints`: the checkpoints of one rank, of which only those count that every rank has.

    RUN/rank-0-of-2/    rank 0: checkpoints and journal, as those of a run of one process
    RUN/rank-1-of-2/    rank 1

All ranks write a checkpoint after the same step, each its own shards, offsets and journal, and the dense part.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from trainer.errors import CheckpointError
from trainer.process.checkpoint import Checkpoint, Checkpoints, read_if_good
from trainer.process.directory_lock import DirectoryLock
from trainer.process.resharding import join_checkpoints
from trainer.ranks.group import Ranks

__all__ = ["CommonCheckpoints", "rank_directory", "steps_of"]

logger = logging.getLogger(__name__)

_NAME = re.compile(r"rank-(\d+)-of-(\d+)")


def rank_directory(run: Path, ranks: Ranks) -> Path:
    """The directory of a rank's checkpoints.

    Raises:
        CheckpointError: the run is one of a single process without `torchrun`.
    """
    if run.is_dir() and any(path.name.isdigit() for path in run.iterdir()):
        raise CheckpointError(
            f"--checkpoint-dir {run}: trained without torchrun, so its rows are not those of shards; go on without "
            "torchrun, or choose another directory"
        )
    return run / f"rank-{ranks.rank}-of-{ranks.world}"


def steps_of(path: Path) -> int | None:
    """The number of steps before a checkpoint; None if it cannot be read."""
    try:
        return int(json.loads((path / "state.json").read_bytes())["ranks"]["steps"])
    except (OSError, ValueError, KeyError) as error:
        logger.warning("checkpoint %s is damaged (%s)", path, error)
        return None


def _by_step(directory: Path) -> dict[int, Path]:
    """The checkpoints in a directory by their number of steps."""
    paths = [path for path in directory.glob("*") if path.name.isdigit()]
    return {steps: path for path in paths if (steps := steps_of(path)) is not None}


class CommonCheckpoints(Checkpoints):
    """The checkpoints of one rank.

    `load`, `agree` and `clear` are collectives. `save` deletes only what is older than the newest checkpoints of every
    rank, so it deletes nothing while another rank's disk is full.

    Args:
        directory: this rank's directory, created if missing.
        ranks: this rank and the others.
        keep: the number of newest checkpoints to keep.

    Attributes:
        replaced: the directories of another number of ranks, whose checkpoint `load` returned, cut anew.
    """

    def __init__(self, directory: Path, ranks: Ranks, *, keep: int = 3) -> None:
        super().__init__(directory, keep=keep)
        self._ranks = ranks
        self.replaced: list[Path] = []
        self._oldest_kept = -1  # steps; older checkpoints may go

    def agree(self) -> None:
        """Finds the newest checkpoints that every rank has, which `save` keeps, and all after them."""
        every = self._ranks.gather_objects(sorted(_by_step(self.directory)))
        common = sorted(set.intersection(*map(set, every)))
        self._oldest_kept = common[1 - self._keep :][0] if common else -1  # with the next one they are `keep`

    def _prune(self) -> None:
        for steps, path in _by_step(self.directory).items():
            if steps < self._oldest_kept:
                shutil.rmtree(path)
        for path in self.directory.glob(".*.old"):
            shutil.rmtree(path)

    def load(self) -> Checkpoint | None:
        """The newest checkpoint that every rank has intact; deletes this rank's newer ones.

        If the newest is one of another number of ranks, it is cut anew for these.

        Raises:
            CheckpointError: there are some, and no step of which every rank has an intact one.
        """
        others = self._find_other() if self._ranks.rank == 0 else None
        (found, *_) = self._ranks.gather_objects(others)
        if found is not None:
            return self._cut(*found)
        own = _by_step(self.directory)
        every = [set(steps) for steps in self._ranks.gather_objects(sorted(own))]
        for step in sorted(set.intersection(*every), reverse=True):
            checkpoint = read_if_good(own[step])
            if all(is_good for (is_good,) in self._ranks.gather([checkpoint is not None])):
                self._forget(own, step)
                return checkpoint
        if any(steps - {0} for steps in every):
            newest = {f"rank {rank}": sorted(steps, reverse=True) for rank, steps in enumerate(every)}
            raise CheckpointError(
                f"{self.directory.parent}: no step has an intact checkpoint of every rank ({newest}); start with "
                "--fresh"
            )
        self._forget(own, -1)
        return None

    def _forget(self, own: Mapping[int, Path], step: int) -> None:
        """Deletes the checkpoints after a step: another rank lacks them, so the steps after it happen again."""
        for newer, path in own.items():
            if newer > step:
                logger.warning("checkpoint %s is not one of every rank; deleted", path)
                shutil.rmtree(path)

    def _of_others(self) -> dict[int, list[Path]]:
        """The directories of other numbers of ranks, by this number."""
        found: dict[int, list[Path]] = {}
        for path in sorted(self.directory.parent.iterdir()):
            if (match := _NAME.fullmatch(path.name)) and int(match[2]) != self._ranks.world:
                found.setdefault(int(match[2]), []).append(path)
        return found

    def _find_other(self) -> tuple[int, int] | None:
        """The number of ranks and of steps of the newest checkpoint, if it is one of another number of ranks."""
        run, best = self.directory.parent, (self._newest(self._ranks.world), self._ranks.world)
        for world in self._of_others():
            best = max(best, (self._newest(world), world))
        steps, world = best
        if world == self._ranks.world or steps < 0:
            return None
        logger.info("%s: goes on with %d ranks from step %d of %d ranks", run, self._ranks.world, steps, world)
        return world, steps

    def _newest(self, world: int) -> int:
        """The newest step of which every one of so many ranks has a checkpoint; -1 for none."""
        every = [set(_by_step(path)) for path in self._paths_of(world)]
        return max(set.intersection(*every), default=-1)

    def _paths_of(self, world: int) -> list[Path]:
        return [self.directory.parent / f"rank-{rank}-of-{world}" for rank in range(world)]

    def _cut(self, world: int, steps: int) -> Checkpoint:
        """The part of this rank in the checkpoint of another number of ranks; it begins with an empty directory."""
        self.replaced = self._paths_of(world)
        if self._ranks.rank == 0:
            for path in self.replaced:
                DirectoryLock(path).release()  # raises while its rank runs
        super().clear()
        for journal in self.directory.glob("*.journal"):
            journal.unlink()
        parts = [read_if_good(_by_step(path)[steps]) for path in self.replaced]
        whole = [part for part in parts if part is not None]
        if len(whole) < world:
            raise CheckpointError(
                f"{self.directory.parent}: a checkpoint of step {steps} is damaged; start with --fresh"
            )
        return join_checkpoints(whole, self._ranks)

    def end_replacement(self) -> None:
        """Deletes what `load` has cut anew, after every rank has written its part."""
        self._ranks.gather([0])  # the others have written theirs
        if self._ranks.rank == 0:
            for path in self.replaced:
                shutil.rmtree(path)
        self.replaced = []

    def clear(self) -> None:
        """Deletes every checkpoint of these ranks and, together, those of other numbers of ranks.

        Raises:
            CheckpointError: another number of ranks runs; nothing was deleted.
        """
        others = self._of_others().values() if self._ranks.rank == 0 else ()
        with ExitStack() as locks:
            paths = [path for each in others for path in each]
            for path in paths:
                locks.callback(DirectoryLock(path).release)  # raises while its rank runs
            self._ranks.gather([0])  # nobody deletes before all have their locks
            super().clear()
            for path in paths:
                shutil.rmtree(path)
