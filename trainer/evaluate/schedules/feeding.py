"""`Feeding`: the name of a schedule and its settings. This module names all schedules, and imports none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["SCHEDULES", "Feeding"]

SCHEDULES = ("plain", "lookahead", "hot-first", "skip-stale")


@dataclass(frozen=True, kw_only=True)
class Feeding:
    """How a cell is fed.

    Attributes:
        name: one of `SCHEDULES`.
        lookahead: L, the batches after the present one that are known, for `lookahead` and `hot-first`.
        hot_share: the share of a table's rows that `hot-first` keeps with the trainer.
        rest_below: the relative change of a row in one update under which it is calm, for `skip-stale`.
    """

    name: str = "plain"
    lookahead: int = 16
    hot_share: float = 0.1
    rest_below: float = 0.01

    @property
    def key(self) -> str:
        """The name in results."""
        return self.name.replace("-", "_")

    @property
    def settings(self) -> dict[str, float]:
        """The settings that the schedule has, by the names of their options."""
        names = {
            "plain": (),
            "lookahead": ("lookahead",),
            "hot-first": ("lookahead", "hot_share"),
            "skip-stale": ("rest_below",),
        }[self.name]
        return {name: getattr(self, name) for name in names}

    def describe(self) -> dict[str, Any]:
        """What a result depends on, as JSON values; nothing for `plain`."""
        settings = {
            "plain": None,
            "lookahead": self.lookahead,
            "hot-first": {"batches": self.lookahead, "hot_share": self.hot_share},
            "skip-stale": {"rest_below": self.rest_below},
        }[self.name]
        return {} if settings is None else {self.key: settings}
