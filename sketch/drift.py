"""DriftDetector: notices when the hot keys suddenly serve a smaller share of the stream than they used to."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["DriftDetector"]

_LEAST_FALL, _LEAST_DIPS = 0.03, 5.0
_RECENT, _MIDDLE, _USUAL = 1 / 16, 1 / 64, 1 / 256  # weight of one review in each average


@dataclass
class DriftDetector:
    """Running averages of the share of held events that hit a hot key. One observation covers 4096 events.

    Only events whose key has a slot count, so a flood of keys that occur once is no drift.

    Attributes:
        recent: the average over some 16 reviews.
        middle: over some 64.
        usual: over some 256.
        dips: the mean square of the dips of `recent` below `middle`, over some 256.
    """

    recent: float = 0.0
    middle: float = 0.0
    usual: float = 0.0
    dips: float = 0.0

    def observe(self, num_held: int, num_hot: int) -> bool:
        """Adds one review's events; returns whether the share has fallen.

        A share that goes up and down anyway, with the order of the keys in a record or with the hour of the day, must
        fall by more than its usual dips: by 3 % and by five times their root mean square.

        Args:
            num_held: events whose key had a slot.
            num_hot: those of them whose key was hot.
        """
        share = num_hot / num_held if num_held else self.recent
        self.recent += (share - self.recent) * _RECENT
        self.middle += (self.recent - self.middle) * _MIDDLE
        self.usual += (self.recent - self.usual) * _USUAL
        fall = self.usual - self.recent
        has_drifted = fall > max(_LEAST_FALL * self.usual, _LEAST_DIPS * math.sqrt(self.dips))
        self.dips += (min(self.recent - self.middle, 0.0) ** 2 - self.dips) * _USUAL
        return has_drifted

    def restart(self) -> None:
        """Makes the recent share the usual one."""
        self.usual = self.middle = self.recent
