"""`BrokerWaits`: what a process waits for while its broker does not answer, as one log line every few seconds.

Client libraries log up to 200 lines a second while a broker is away. `BrokerWaits` is also a logging filter that leaves
these out and counts them; every other message of theirs is logged as before.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from streams.errors import BrokerError

__all__ = ["BrokerWaits"]

logger = logging.getLogger(__name__)

_INTERVAL_S = 5.0
_NOTICE_S = 5.0  # a shorter wait is not worth a line: a new leader, a slow disk
_GRACE_S = 4.0
_ENDING = "faust.worker"  # it logs one error, after which the process ends
_LIBRARIES = ("kafka", "aiokafka", "faust", "mode")
# How the libraries report that a connection failed, was lost, or got no answer, and that they try again.
_CHATTER = re.compile(
    r"KafkaConnectionError|Invalid file descriptor|ECONN|Broken pipe|Connect call failed|Metadata refresh: failed"
    r"|NodeNotReady"
    r"|Connection (failed|lost|reset|refused)|Request timed out|socket disconnected|receiving network data"
    r"|: Abort |Fetch to node"
    r"|Bootstrap (failed: KafkaTimeoutError|connection to|attempt to|metadata response|\S+ not ready)"
    r"|Unable (to )?(connect|request metadata|update metadata)|Unable to connect"
    r"|Failed fetch (messages|offsets) from|[Mm]arking (the )?coordinator dead|Heartbeat (session expired|send request)"
    r"|Heartbeat failed for group|Heartbeat failed: local member_id|Group Coordinator Request failed"
    r"|Got error produce response|OffsetCommit failed (before join|for group)|Failed to commit on finallization"
    r"|LeaveGroup request failed"
    r"|NetworkSelector closed"  # kafka-python, of a connection that fails while its client closes
)
# What a broker that answers reports of a user or a certificate; waiting does not mend it.
_REFUSAL = re.compile(r"auth|sasl|ssl|certificate", re.IGNORECASE)


def _is_chatter(record: logging.LogRecord) -> bool:
    """Whether a library reports a connection that failed or was lost; not the error that ends the process."""
    if record.name == _ENDING:
        return False
    error = record.exc_info[1] if record.exc_info else None
    text = f"{record.getMessage()} {type(error).__name__} {error}"
    return (isinstance(error, OSError) or _CHATTER.search(text) is not None) and _REFUSAL.search(text) is None


class BrokerWaits(logging.Filter):
    """Collects from the clients of one broker who waits for it, and tells them when to stop waiting.

    Patience ends after `patience_s`, and once the process is asked to stop as soon as the broker has not answered for
    `grace_s`. All methods are thread-safe, and cheap while the broker answers.

    Args:
        servers: the broker's address in messages.
        should_stop: whether the process was asked to stop.
        patience_s: how long clients wait for a broker that does not answer.
        grace_s: how long a process that was asked to stop still waits.
        clock_s: seconds.
    """

    def __init__(
        self,
        servers: str,
        *,
        should_stop: Callable[[], bool] = lambda: False,
        patience_s: float = float("inf"),
        grace_s: float = _GRACE_S,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._servers = servers
        self._should_stop = should_stop
        self._patience_s, self._grace_s = patience_s, grace_s
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._since_s: float | None = None  # None while the broker answers
        self._answered_s = self._line_s = -float("inf")
        self._stop_s: float | None = None
        self._waiting: dict[int, int] = {}  # client -> records that it waits to send
        self._num_left_out = 0
        self._is_reported = False

    # ---- for clients -----------------------------------------------------------------------------------------------

    @property
    def is_suspected(self) -> bool:
        """Whether a client has got no answer, or lost a connection, since the last answer."""
        return self._since_s is not None

    @property
    def waited_s(self) -> float:
        """How long the clients have waited for an answer; 0 while the broker answers."""
        since_s = self._since_s
        return 0.0 if since_s is None else max(0.0, self._clock_s() - since_s)

    def note_answer(self) -> None:
        """Notes that the broker has answered a client."""
        self._answered_s = self._clock_s()
        if self._since_s is not None:
            self._end()

    def note_wait(self, client: object, since_s: float, num_records: int = 0) -> None:
        """Notes that a client has waited for an answer since `since_s` (of `time.monotonic`), with records to send."""
        with self._lock:
            self._waiting[id(client)] = num_records
        self._note_trouble(since_s)

    @property
    def may_reconnect(self) -> bool:
        """Whether a client that finds no broker tries again: the broker has answered, and patience has no limit."""
        return self._answered_s > -float("inf") and self._patience_s == float("inf")

    @property
    def is_stopping(self) -> bool:
        """Whether the process was asked to stop."""
        return self._should_stop()

    @property
    def is_over(self) -> bool:
        """Whether to stop waiting for a broker that does not answer."""
        now_s, since_s = self._clock_s(), self._since_s
        if since_s is None or not self.is_stopping:
            return since_s is not None and now_s - since_s >= self._patience_s
        if self._stop_s is None:
            self._stop_s = now_s
        return now_s - max(self._stop_s, self._answered_s) >= self._grace_s

    def check(self) -> None:
        """Ends a wait that is over.

        Raises:
            BrokerError: the broker does not answer, and patience has ended.
        """
        if self.is_over:
            raise BrokerError(f"{'stopped' if self.is_stopping else 'gave up'} while {self.describe()}")

    def describe(self) -> str:
        """The broker, since when it does not answer, and what waits for it."""
        with self._lock:
            return self._describe(self._clock_s())

    # ---- the log ---------------------------------------------------------------------------------------------------

    @contextmanager
    def filtering(self) -> Iterator[None]:
        """Leaves the libraries' reports of lost connections out of the log inside the `with`, unless it has debug."""
        handlers = list(logging.getLogger().handlers)
        for handler in handlers:
            handler.addFilter(self)
        try:
            yield
        finally:
            for handler in handlers:
                handler.removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log a record; counts one that is left out."""
        if record.name.partition(".")[0] not in _LIBRARIES or logging.getLogger().isEnabledFor(logging.DEBUG):
            return True
        if not _is_chatter(record):
            return True
        with self._lock:
            self._num_left_out += 1
        self._note_trouble(self._clock_s())
        return False

    def _note_trouble(self, since_s: float) -> None:
        now_s = self._clock_s()
        with self._lock:
            since_s = max(since_s, self._answered_s)
            self._since_s = since_s if self._since_s is None else min(self._since_s, since_s)
            if now_s - self._since_s < _NOTICE_S or now_s - self._line_s < _INTERVAL_S:
                return
            self._line_s, self._is_reported = now_s, True
            line = self._describe(now_s)
            if self._num_left_out:
                line += f"; left out {self._num_left_out} messages about connections (hotstream -v shows them)"
            self._num_left_out = 0
        logger.warning("%s", line)

    def _end(self) -> None:
        with self._lock:
            since_s, self._since_s = self._since_s, None
            is_reported, self._is_reported = self._is_reported, False
            self._waiting.clear()
            self._num_left_out = 0
        if is_reported and since_s is not None:
            logger.warning("the broker at %s answers again, after %.0f s", self._servers, self._clock_s() - since_s)

    def _describe(self, now_s: float) -> str:
        waited_s = now_s - (now_s if self._since_s is None else self._since_s)
        since = time.strftime("%H:%M:%S", time.localtime(time.time() - waited_s))
        num_records = sum(self._waiting.values())
        waiting = f"; {num_records} records wait to be sent" if num_records else ""
        return f"the broker at {self._servers} does not answer since {since} ({waited_s:.0f} s){waiting}"
