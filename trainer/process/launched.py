"""`Launched`: the trainer's process as it was started: alone, or by `torchrun` as one of several ranks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from trainer.errors import PlanError
from trainer.process.common_checkpoints import require_all_ranks
from trainer.process.progress import Progress
from trainer.process.ranked_session import RankedSession
from trainer.process.run import TrainingRun
from trainer.process.session import Session
from trainer.process.session_config import SessionConfig
from trainer.ranks.attempts import Attempts
from trainer.ranks.group import RANK_TIMEOUT_S, Ranks, join_launched
from trainer.serving.checkpointed import export_checkpoint
from trainer.serving.export import export

__all__ = ["Launched"]


class Launched:
    """How this process trains.

    Args:
        ranks: this rank and the others; None for a process without `torchrun`.

    Attributes:
        is_restarted: whether an earlier attempt of `torchrun` began the run; then the ranks resume even with --fresh.
        reports: whether this process prints and writes the report.
    """

    def __init__(self, ranks: Ranks | None = None) -> None:
        self._ranks = ranks
        self.reports = ranks is None or ranks.rank == 0
        self._attempts = None if ranks is None else Attempts(ranks)
        self.is_restarted = self._attempts is not None and self._attempts.has_begun()

    @classmethod
    def join(
        cls,
        device: torch.device,
        *,
        timeout_s: float = RANK_TIMEOUT_S,
        is_dry: bool = False,
        lacks_directory: bool = False,
    ) -> Launched:
        """Joins the other ranks, if `torchrun` has started this process.

        Args:
            device: the device to train on.
            timeout_s: how long to wait for a rank.
            is_dry: whether only the plan is wanted, which needs no ranks.
            lacks_directory: whether an export is wanted and no checkpoints, from which ranks export.

        Raises:
            PlanError: ranks do not support an option.
            RankError: not all ranks came.
        """
        ranks = join_launched(device, timeout_s=timeout_s)
        if ranks is not None and is_dry:
            raise PlanError("--dry-run: not with torchrun; plan with one process, without it")
        if ranks is not None and lacks_directory:
            raise PlanError("--export: with torchrun it is made from the ranks' checkpoints; add --checkpoint-dir")
        return cls(ranks)

    def port_of(self, port: int | None) -> int | None:
        """The port of this process's metrics: rank r adds r."""
        return port if self._ranks is None or not port else port + self._ranks.rank

    def open(
        self, config: SessionConfig, *, should_stop: Callable[[], bool], on_progress: Callable[[TrainingRun], None],
        exports: bool = False,
    ) -> Session:  # fmt: skip
        """The session of this process.

        Raises:
            PlanError: an export is wanted, and rank 0 does not see the checkpoints of all ranks.
        """
        if self._ranks is None:
            return Session(config, should_stop=should_stop, on_progress=on_progress)
        session = RankedSession(config, self._ranks, should_stop=should_stop, on_progress=on_progress)
        if exports and self.reports and config.run.checkpoint_dir is not None:
            require_all_ranks(config.run.checkpoint_dir, self._ranks.world)
        if self._attempts is not None:
            self._attempts.note_beginning()  # checkpoints of before are cleared, or resumed from
        return session

    def report(self, session: Session) -> tuple[dict[str, Any], Progress]:
        """The figures of the final report, and the progress; of several ranks, over all of them."""
        if not isinstance(session, RankedSession):
            return session.report(), session.run.progress
        content = session.report_all()
        session.leave()
        return content

    def export(self, session: Session, directory: Path, checkpoints: Path | None) -> None:
        """Exports what was trained, after `report`; rank 0 does so for all, from the checkpoints at the end.

        Args:
            session: the session.
            directory: of the export.
            checkpoints: the folder of the run; several ranks need it.

        Raises:
            CheckpointError: nothing was trained, or the export cannot be written.
            DivergedError: a number is not finite.
        """
        if not isinstance(session, RankedSession):
            export(session.run, directory, session.published)
        elif self.reports:
            assert checkpoints is not None  # noqa: S101  `join` has refused it
            export_checkpoint(checkpoints, directory, published=session.published, option="--export")
