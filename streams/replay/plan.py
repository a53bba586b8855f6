"""`ReplayPlan`: the files of a replay, and how to send them; `name_replay` identifies a replay."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from streams.errors import ConfigError
from streams.logs.locations import LogFile, find_logs
from streams.logs.reader import check_logs
from streams.logs.schema import LogSchema
from streams.records import MAX_RECORD_BYTES, MAX_ROWS

__all__ = ["ReplayPlan", "name_replay"]

_ROOM_FOR_HEADERS_BYTES = 1 << 16


def name_replay(schema: LogSchema, paths: Sequence[str | Path], batch_rows: int) -> str:
    """16 hex digits that identify the assignment of rows to batches.

    Files are identified by name and size, not by content.
    """
    files = [[file.name, file.size_bytes] for file in find_logs(paths)]
    content = json.dumps([schema.fingerprint(), files, batch_rows])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class ReplayPlan:
    """The files of a replay, and how to send them.

    Args:
        paths: the files, in order; a folder, a pattern or a URI, too, and `-` for standard input.
        schema: the schema of the files.
        batch_rows: lines a record.
        rate_rows_s: rows a second; None for as fast as possible.
        speedup: seconds of event time a second, which needs a time column; None for as fast as possible.
        limit_rows: the number of lines, good and bad, to stop after, counted from the beginning of the first file.
        loop: whether to start over after the last file, until stopped or at the limit.
        resume: whether to continue the newest run of the same replay where its last committed transaction ended.
    """

    paths: tuple[str | Path, ...]
    schema: LogSchema
    batch_rows: int = 2048
    rate_rows_s: float | None = None
    speedup: float | None = None
    limit_rows: int | None = None
    loop: bool = False
    resume: bool = False

    def __post_init__(self) -> None:
        if not self.paths:
            raise ConfigError("files: got none, expected at least one click log")
        row_bytes = 9 + 4 * len(self.schema.dense) + 8 * len(self.schema.categorical)
        most = min(MAX_ROWS, (MAX_RECORD_BYTES - _ROOM_FOR_HEADERS_BYTES) // row_bytes)
        if not 1 <= self.batch_rows <= most:
            raise ConfigError(f"--batch-rows: got {self.batch_rows}, expected 1 to {most} for {self.schema}")
        for name, value in (("rate", self.rate_rows_s), ("speedup", self.speedup), ("limit", self.limit_rows)):
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"--{name}: got {value}, expected more than 0")
        if self.speedup is not None and self.schema.time is None:
            raise ConfigError(f"--speedup: {self.schema} has no time column; use --rate, or name its time column")
        if self.speedup is not None and self.rate_rows_s is not None:
            raise ConfigError("--rate and --speedup: got both, expected one of them")
        if self.loop and "-" in map(str, self.paths):
            raise ConfigError("--loop: standard input can be read once only; name a file, or leave --loop out")

    @cached_property
    def files(self) -> tuple[LogFile, ...]:
        """The files that the paths name.

        Raises:
            ConfigError: a path names no file.
            InputError: a folder or an object store cannot be listed.
        """
        return find_logs(self.paths)

    def check_files(self) -> None:
        """Checks the files before a connection to a broker is made; raises as `check_logs` does."""
        check_logs(self.paths, self.schema)
