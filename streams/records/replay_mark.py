"""`Mark`: the headers of a click record that identify the replay that sent it."""

from __future__ import annotations

from dataclasses import dataclass

from streams.records.headers import Headers, header_int, read_headers

__all__ = ["Mark"]


@dataclass(frozen=True, kw_only=True)
class Mark:
    """The replay, run and batch that a click record belongs to.

    Attributes:
        replay: the name of the replay, see `name_replay`.
        run: when the run was started, in milliseconds since 1970.
        batch: the number of the batch, counted over all files and passes.
    """

    replay: str
    run: int
    batch: int

    def headers(self) -> list[tuple[str, bytes]]:
        """The mark as record headers."""
        return [("replay", self.replay.encode()), ("run", b"%d" % self.run), ("batch", b"%d" % self.batch)]

    @classmethod
    def read(cls, headers: Headers) -> Mark | None:
        """The mark in a record's headers; None if it is missing or malformed."""
        try:
            named = read_headers(headers)
            return cls(
                replay=(named["replay"] or b"").decode(), run=header_int(named, "run"), batch=header_int(named, "batch")
            )
        except (KeyError, ValueError):
            return None
