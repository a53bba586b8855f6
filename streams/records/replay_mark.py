"""What a click record says of the replay that sent it."""

from __future__ import annotations

from dataclasses import dataclass

from streams.records.headers import Headers, header_int

__all__ = ["Mark"]


@dataclass(frozen=True, kw_only=True)
class Mark:
    """What a record says of the replay that sent it.

    Attributes:
        replay: the name of the replay, see `name_replay`.
        run: when its run was started, milliseconds since 1970.
        batch: the running number of the batch, over all files and passes.
    """

    replay: str
    run: int
    batch: int

    def headers(self) -> list[tuple[str, bytes]]:
        """The mark as record headers."""
        return [("replay", self.replay.encode()), ("run", b"%d" % self.run), ("batch", b"%d" % self.batch)]

    @classmethod
    def read(cls, headers: Headers) -> Mark | None:
        """The mark among a record's headers; None if there is none to be believed."""
        named = dict(headers)
        try:
            return cls(replay=named["replay"].decode(), run=header_int(named, "run"), batch=header_int(named, "batch"))
        except (KeyError, ValueError):
            return None
