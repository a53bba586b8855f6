"""The last lines of a child's log, for the error message of a failed child."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

__all__ = ["log_tail"]


def log_tail(path: Path, num_lines: int = 12) -> str:
    """The last lines of a log, indented, without the frames of Java stack traces; a note if the log is empty."""
    with suppress(OSError):
        lines = path.read_text(errors="replace").splitlines()
        kept = [line for line in lines if line.strip() and not re.match(r"\s+(at |\.\.\. \d+ more)", line)]
        if kept:
            return "\n".join(f"  | {line[:300]}" for line in kept[-num_lines:])
    return "  | (its log is empty)"
