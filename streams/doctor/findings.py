"""`Finding`: one thing that was looked at, what was found, what needs it, and how to mend it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FAULT", "GOOD", "MISSING", "Finding"]

GOOD, MISSING, FAULT = "ok", "missing", "FAULT"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: the thing.
        state: `GOOD`; `MISSING`, if only `needed_for` does not work; `FAULT`, if hotstream does not work.
        found: what was found, and what was expected if that differs.
        needed_for: what does not work; empty for a good one.
        mend: the command that mends it, or what to do; empty for a good one.
    """

    name: str
    state: str
    found: str
    needed_for: str = ""
    mend: str = ""
