"""Notices when the hot keys suddenly serve a smaller share of the stream than they used to.

Four running averages, a (4,) float64 array: `RECENT`, the share of held events that hit a hot key, over some 16
reviews; `MIDDLE`, the same over some 64; `USUAL`, over some 256; `DIPS`, the mean square of the dips of the recent
share below the middle one, over some 256. Only events whose key has a slot count, so a flood of keys that occur once is
no drift.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from numba import njit

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["DIPS", "MIDDLE", "NUM_AVERAGES", "RECENT", "USUAL", "has_drifted", "restart"]

RECENT, MIDDLE, USUAL, DIPS, NUM_AVERAGES = range(5)
_LEAST_FALL, _LEAST_DIPS = 0.03, 5.0
_RECENT_WEIGHT, _MIDDLE_WEIGHT, _USUAL_WEIGHT = 1 / 16, 1 / 64, 1 / 256  # of one review in each average


@njit(nogil=True, cache=True)
def has_drifted(averages: npt.NDArray[np.float64], num_held: int, num_hot: int) -> bool:
    """Adds one review's events; returns whether the share has fallen.

    A share that goes up and down anyway, with the order of the keys in a record or with the hour of the day, must fall
    by more than its usual dips: by 3 % and by five times their root mean square.

    Args:
        averages: changed in place.
        num_held: events whose key had a slot.
        num_hot: those of them whose key was hot.
    """
    share = num_hot / num_held if num_held else averages[RECENT]
    averages[RECENT] += (share - averages[RECENT]) * _RECENT_WEIGHT
    averages[MIDDLE] += (averages[RECENT] - averages[MIDDLE]) * _MIDDLE_WEIGHT
    averages[USUAL] += (averages[RECENT] - averages[USUAL]) * _USUAL_WEIGHT
    fall = averages[USUAL] - averages[RECENT]
    result = fall > max(_LEAST_FALL * averages[USUAL], _LEAST_DIPS * math.sqrt(averages[DIPS]))
    dip = min(averages[RECENT] - averages[MIDDLE], 0.0)
    averages[DIPS] += (dip * dip - averages[DIPS]) * _USUAL_WEIGHT
    return result


@njit(nogil=True, cache=True)
def restart(averages: npt.NDArray[np.float64]) -> None:
    """Makes the recent share the usual one."""
    averages[USUAL] = averages[MIDDLE] = averages[RECENT]
