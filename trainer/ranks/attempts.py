"""`Attempts`: what the attempts of one `torchrun --max-restarts` know of each other."""

from __future__ import annotations

import os

from trainer.ranks.group import Ranks, open_launchers_store

__all__ = ["Attempts"]

_BEGUN, _ATTEMPTED = "hotstream.begun", "hotstream.attempted"


class Attempts:
    """This attempt and those before it.

    The launcher's store keeps what they tell each other. If ranks on several machines find a new store after a restart,
    what was before is unknown, and counts as a beginning.

    Args:
        ranks: this rank and the others of this attempt.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._store, self._is_single = open_launchers_store()

    def has_begun(self) -> bool:
        """Whether an earlier attempt noted a beginning; a collective."""
        known, is_first = self._store.check([_BEGUN]), os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
        is_lost = not self._is_single and not is_first and not self._store.check([_ATTEMPTED])
        self._store.set(_ATTEMPTED, "1")
        return any(begun for (begun,) in self._ranks.gather([known or is_lost]))

    def note_beginning(self) -> None:
        """Tells later attempts that this one has begun the run."""
        if self._ranks.rank == 0:
            self._store.set(_BEGUN, "1")
