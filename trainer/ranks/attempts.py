"""`Attempts`: what the attempts of one `torchrun --max-restarts` know of each other."""

from __future__ import annotations

import os

from trainer.ranks.group import Ranks, open_launchers_store

__all__ = ["Attempts"]

_BEGUN = "hotstream.begun"


class Attempts:
    """This attempt and those before it.

    The launcher's store keeps what they tell each other. Ranks on several machines have a new one in each attempt, so
    there every attempt after the first counts as one after a beginning.

    Args:
        ranks: this rank and the others of this attempt.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        store, is_common = open_launchers_store()
        self._store = store if is_common else None

    def has_begun(self) -> bool:
        """Whether an earlier attempt noted a beginning; a collective."""
        if self._store is not None:
            known = self._store.check([_BEGUN])
        else:
            known = os.environ["TORCHELASTIC_RESTART_COUNT"] != "0"
        return any(begun for (begun,) in self._ranks.gather([known]))

    def note_beginning(self) -> None:
        """Tells later attempts that this one has begun the run."""
        if self._store is not None and self._ranks.rank == 0:
            self._store.set(_BEGUN, "1")
