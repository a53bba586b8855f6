"""Faust's worker and its log, as an agent needs them: the end of the process is prompt, and its reason one line."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable

import faust

from streams.cli.stop_request import StopRequest
from streams.clients.refusals import explain_refusal
from streams.errors import InvariantError, StreamsError
from streams.telemetry.broker_waits import BrokerWaits

__all__ = ["FaustWorker", "OneLine"]

logger = logging.getLogger(__name__)

# Faust names a service's logger after the module that makes it; its messages begin with the service's name.
_SERVICES = ("streams.agent.app", __name__)
_LOOK_S = 0.2
_CRASH_SHUTDOWN_S = 8.0  # for a shutdown after an error, which has been logged


class OneLine(logging.Filter):
    """Logs the error that ends the process as one line, once; Faust logs it several times, with tracebacks.

    An `InvariantError`, and an error of another kind, keeps its traceback: it is a fault of hotstream.
    """

    def __init__(self) -> None:
        super().__init__()
        self._reported: BaseException | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Replaces the traceback by the message; False for a repetition, and for what Faust says of its services."""
        is_of_service = record.name in _SERVICES and str(record.msg).startswith("[^")
        if is_of_service and record.levelno < logging.WARNING:
            return False
        if record.name == "asyncio":  # tells of a task of aiokafka that failed, too, and that nobody awaits any more
            return self._reported is None
        if not is_of_service and not record.name.startswith(("faust", "mode", "streams.agent.own_offsets")):
            return True
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            return self._reported is None
        if self._reported is not None:
            return False  # of the shutdown
        is_ours = isinstance(error, StreamsError) and not isinstance(error, InvariantError)
        if not is_ours and all(kind.__name__ != "KafkaError" for kind in type(error).__mro__):
            return True
        self._reported = error
        reason = explain_refusal(error, "READ")  # a producer's refusal is explained where it is raised
        record.msg, record.args, record.exc_info, record.exc_text = "%s", (reason,), None, None
        return True


class FaustWorker(faust.Worker):
    """Faust's worker, which does not wait in its shutdown for a broker that does not answer.

    Attributes:
        request: records a signal.
        waits: the waits for the broker.
        on_end: called before the process ends without a shutdown.
    """

    request: StopRequest
    waits: BrokerWaits
    on_end: Callable[[bool], None]

    def install_signal_handlers(self) -> None:
        """Handles the signals as Faust does, and limits the time of the shutdown."""
        super().install_signal_handlers()
        for number in (signal.SIGINT, signal.SIGTERM):
            self.loop.add_signal_handler(number, self._stop_by, number)

    def _stop_by(self, number: signal.Signals) -> None:
        self.request.signal = self.request.signal or number
        threading.Thread(target=self._end_in_time, name="shutdown", daemon=True).start()
        self._schedule_shutdown(number)

    def _crash(self, reason: BaseException) -> None:
        """Notes the error that ends the process, and limits the time of the shutdown after it.

        Faust waits in it for its own tasks, and one of them may wait for a consumer that has ended.
        """
        if not self.crashed:
            threading.Thread(target=self._end_soon, name="crash", daemon=True).start()
        super()._crash(reason)

    def _end_soon(self) -> None:
        time.sleep(_CRASH_SHUTDOWN_S)
        self.on_end(False)
        logging.shutdown()
        os._exit(1)

    def _end_in_time(self) -> None:
        """Ends the process once its patience is over: Faust's own requests may wait for minutes."""
        while not self.waits.is_over:
            time.sleep(_LOOK_S)
        logger.error("stopped while %s; the next start computes again what was not written", self.waits.describe())
        self.on_end(False)
        logging.shutdown()
        os._exit(1)
