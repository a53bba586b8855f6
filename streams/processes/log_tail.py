"""The end of a child's log: its last lines for the error of a failed child, its last message for its progress."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

__all__ = ["last_message", "log_tail"]

_END_BYTES = 4096
_LINE = re.compile(r"\d\d:\d\d:\d\d \w+ +[\w.]+: (.*)")  # of `streams.cli.log_lines`


def log_tail(path: Path, num_lines: int = 12) -> str:
    """The last lines of a log, indented, without the frames of Java stack traces; a note if the log is empty."""
    with suppress(OSError):
        lines = path.read_text(errors="replace").splitlines()
        kept = [line for line in lines if line.strip() and not re.match(r"\s+(at |\.\.\. \d+ more)", line)]
        if kept:
            return "\n".join(f"  | {line[:300]}" for line in kept[-num_lines:])
    return "  | (its log is empty)"


def last_message(path: Path) -> str:
    """The message of the last log line, without time, level and logger; empty if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _END_BYTES))
            messages = _LINE.findall(file.read().decode(errors="replace"))
    except OSError:
        return ""
    return messages[-1] if messages else ""
