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
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from trainer.errors import CheckpointError, PlanError
from trainer.process.checkpoint import Checkpoint, Checkpoints, read_if_good
from trainer.process.directory_lock import DirectoryLock
from trainer.process.resharding import join_checkpoints
from trainer.ranks.group import Ranks

__all__ = [
    "CommonCheckpoints",
    "common_steps",
    "is_of_rank",
    "rank_directory",
    "ranks_in",
    "require_all_ranks",
    "steps_of",
]

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
    """The checkpoints in a directory by their number of steps; of two after the same step, the later event's."""
    paths = sorted(path for path in directory.glob("*") if path.name.isdigit())
    return {steps: path for path in paths if (steps := steps_of(path)) is not None}


def is_of_rank(directory: Path) -> bool:
    """Whether a directory is named as that of a rank."""
    return _NAME.fullmatch(directory.resolve().name) is not None


def ranks_in(run: Path) -> dict[int, list[Path]]:
    """The directories of ranks in that of a run, by their number of ranks; not all of them need to be there."""
    found: dict[int, list[Path]] = {}
    for path in sorted(run.glob("rank-*-of-*")):
        if match := _NAME.fullmatch(path.name):
            found.setdefault(int(match[2]), []).append(path)
    return found


def require_all_ranks(run: Path, world: int) -> None:
    """Checks that the directories of all ranks, which are there by now, can be seen from here.

    Raises:
        PlanError: some are on other machines.
    """
    hidden = [str(rank) for rank in range(world) if not (run / f"rank-{rank}-of-{world}").is_dir()]
    if hidden:
        raise PlanError(
            f"--export: rank 0 does not see the folders of the ranks {', '.join(hidden)} in --checkpoint-dir {run}: "
            "have all machines share the folder, or start without --export"
        )


def common_steps(run: Path, world: int) -> dict[int, list[Path]]:
    """The steps of which all of so many ranks have a checkpoint, and these, in the order of the ranks."""
    every = [_by_step(run / f"rank-{rank}-of-{world}") for rank in range(world)]
    return {step: [one[step] for one in every] for step in sorted(set.intersection(*map(set, every)))}


class CommonCheckpoints(Checkpoints):
    """The checkpoints of one rank.

    `load`, `agree` and `clear` are collectives. `save` deletes only what is older than the newest checkpoints of every
    rank, so it deletes nothing while another rank's disk is full.

    Args:
        directory: this rank's directory, created if missing.
        ranks: this rank and the others.
        keep: the number of newest checkpoints to keep.

    Attributes:
        replaced: the directories of another number of ranks, whose checkpoint `load` returned, cut again.
    """

    def __init__(self, directory: Path, ranks: Ranks, *, keep: int = 3) -> None:
        super().__init__(directory, keep=keep)
        self._ranks = ranks
        self.replaced: list[Path] = []
        self._oldest_kept = -1  # steps; older checkpoints may go

    def agree(self) -> None:
        """Finds the newest checkpoints that every rank has, which `save` keeps, and all after them."""
        every = self._ranks.gather_objects(sorted(_by_step(self.directory)))
        self._keep_from(set.intersection(*map(set, every)))

    def _keep_from(self, common: Iterable[int]) -> None:
        self._oldest_kept = next(iter(sorted(common)[1 - self._keep :]), -1)  # with the next one they are `keep`

    def _prune(self) -> None:
        newest = _by_step(self.directory)
        for path in self.paths():
            steps = steps_of(path)
            if steps is not None and (steps < self._oldest_kept or path != newest[steps]):
                shutil.rmtree(path)
        for path in self.directory.glob(".*.old"):
            shutil.rmtree(path)

    def load(self) -> Checkpoint | None:
        """The newest checkpoint that every rank has intact; deletes this rank's newer ones.

        If the newest is one of another number of ranks, it is cut again for these; of two that are equally new, these
        ranks' own is taken.

        Raises:
            CheckpointError: there are some, and no step of which every rank has an intact one.
        """
        self._delete_unfinished()
        own = _by_step(self.directory)
        mine: Any = [sorted(own), self._steps_of_others() if self._ranks.rank == 0 else []]
        told = self._ranks.gather_objects(mine)
        every, others = [set(steps) for steps, _ in told], told[0][1]
        candidates = [(step, True, self._ranks.world) for step in set.intersection(*every)]
        candidates += [(step, False, world) for world, steps in others for step in steps]
        for step, is_own, world in sorted(candidates, reverse=True):
            paths = [own[step]] if is_own else [_by_step(path).get(step) for path in self._paths_of(world)]
            parts = [part for path in paths if path is not None and (part := read_if_good(path)) is not None]
            if not all(is_good for (is_good,) in self._ranks.gather([len(parts) == len(paths)])):
                continue
            if not is_own:
                return self._cut(world, parts)
            self._forget(step)
            self._keep_from([one for one, is_ours, _ in candidates if is_ours and one <= step])
            return parts[0]
        are_trained = any(trained for (trained,) in self._ranks.gather([self._sees_trained_others()]))
        if any(steps - {0} for steps in every) or others or are_trained:
            newest = {f"rank {rank}": sorted(steps, reverse=True) for rank, steps in enumerate(every)}
            hint = "".join(f"start with {world} ranks, whose checkpoints are there, or " for world, _ in others)
            raise CheckpointError(
                f"{self.directory.parent}: no step has an intact checkpoint of every rank ({newest}); {hint}start with "
                "--fresh"
            )
        self._forget(-1)
        return None

    def _forget(self, step: int) -> None:
        """Deletes the checkpoints after a step: another rank lacks them, so the steps after it happen again."""
        for path in self.paths():
            if (steps := steps_of(path)) is not None and steps > step:
                logger.warning("checkpoint %s is not one of every rank; deleted", path)
                shutil.rmtree(path)

    def _of_others(self) -> dict[int, list[Path]]:
        """The directories of other numbers of ranks, by this number."""
        run = self.directory.parent
        return {world: paths for world, paths in ranks_in(run).items() if world != self._ranks.world}

    def _sees_trained_others(self) -> bool:
        """Whether there are checkpoints of other numbers of ranks, which may lack those on other machines."""
        return any(set(_by_step(path)) - {0} for paths in self._of_others().values() for path in paths)

    def _steps_of_others(self) -> list[tuple[int, list[int]]]:
        """Other numbers of ranks, and the steps of which all of so many ranks have a checkpoint, if there are any."""
        every = [(world, list(common_steps(self.directory.parent, world))) for world in self._of_others()]
        return [(world, steps) for world, steps in every if steps]

    def _paths_of(self, world: int) -> list[Path]:
        return [self.directory.parent / f"rank-{rank}-of-{world}" for rank in range(world)]

    def _cut(self, world: int, parts: Sequence[Checkpoint]) -> Checkpoint:
        """The part of this rank in the checkpoint of another number of ranks; it begins with an empty directory."""
        self.replaced = self._paths_of(world)
        if self._ranks.rank == 0:
            for path in self.replaced:
                DirectoryLock(path).release()  # raises while its rank runs
        self._ranks.gather([0])
        logger.info("%s: goes on with %d ranks from %s of %d ranks", self.directory.parent, self._ranks.world,
                    parts[0].path.name, world)  # fmt: skip
        super().clear()
        for journal in self.directory.glob("*.journal"):
            journal.unlink()
        return join_checkpoints(parts, self._ranks)

    def end_replacement(self) -> None:
        """Deletes what `load` has cut again, after every rank has written its part."""
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
