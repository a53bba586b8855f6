"""The Faust app of an agent: it passes records and rebalances to an `AgentWorker`, and makes no decisions.

When an agent function raises, Faust acknowledges the failed record, restarts the function and continues with the next
record. Here that would leave a gap in a shard's state, so every failure ends the process without an acknowledgement.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import faust
from faust.app.base import BootStrategy
from faust.types import TP

from streams.agent.own_offsets import use_own_offsets
from streams.agent.progress import AgentProgress
from streams.agent.worker import InputRecord
from streams.cli.stop_request import StopRequest
from streams.clients.config import KafkaConfig
from streams.clients.refusals import explain_refusal
from streams.errors import InvariantError, StreamsError
from streams.telemetry.broker_waits import BrokerWaits

__all__ = ["create_app", "run_agent"]

logger = logging.getLogger(__name__)

_MAX_FETCH_BYTES = 16 << 20
_CHECK_EVERY_S = 5.0
_LOOK_S = 0.2
_REBALANCE_TIMEOUT_S = (
    20.0  # the others wait so long for a member that is stopped; their snapshots must be written in it
)
_CRASH_SHUTDOWN_S = 8.0  # for a shutdown after an error, which has been logged
_ADOPTION_TIMEOUT_S = 86_400.0  # Faust ends the loading of shards after it, and then does nothing more


def run_agent(
    progress: AgentProgress, kafka: KafkaConfig, request: StopRequest, *, on_end: Callable[[bool], None]
) -> None:
    """Runs an agent until the process is asked to stop; Faust then ends the process.

    Args:
        progress: the worker, and what it reports.
        kafka: the broker, whose waits look at `request`.
        request: records SIGINT and SIGTERM.
        on_end: called at the end with whether the agent ended in order.

    Raises:
        SystemExit: always, at the end.
    """
    for noisy in ("faust", "mode", "streams.agent.own_offsets"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("mode.timers").setLevel(logging.ERROR)  # that a timer waits for the broker, is logged already
    app = create_app(progress, kafka)
    gc.freeze()  # a collection that looks at all that imports made takes 0.1 s, and the records of a fill cause several
    for handler in logging.getLogger().handlers:
        handler.addFilter(_OneLine())
    # It also raises what it logs.
    committing = logging.getLogger("aiokafka.consumer.group_coordinator")
    committing.addFilter(lambda record: not str(record.msg).startswith("OffsetCommit failed"))
    worker = _Worker(app, override_logging=False, redirect_stdouts=False, quiet=True)
    worker.spinner = None  # it writes the escapes of a terminal into files, too
    worker.request, worker.waits, worker.on_end = request, kafka.waits, on_end
    try:
        worker.execute_from_commandline()
    except SystemExit as end:
        on_end(not end.code)
        raise


class _OneLine(logging.Filter):
    """Logs the error that ends the process as one line, once; Faust logs it several times, with tracebacks.

    An `InvariantError`, and an error of another kind, keeps its traceback: it is a fault of hotstream.
    """

    def __init__(self) -> None:
        super().__init__()
        self._reported: BaseException | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Replaces the traceback by the message; False for a repetition."""
        # Faust names a service's logger after the module that makes it: its messages begin with the service's name.
        is_of_app = record.name == __name__ and str(record.msg).startswith("[^")
        if not is_of_app and not record.name.startswith(("faust", "mode", "streams.agent.own_offsets")):
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


class _Worker(faust.Worker):
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


class _BootStrategy(BootStrategy):
    """Faust's services without its producer, which the agent does not use.

    It would end the process if the broker went away just before it connects; all other clients wait.
    """

    enable_kafka_producer = False


class _App(faust.App):
    """Faust's app without the folders for tables, which agents do not have: `ID-data`, empty, where it was started."""

    BootStrategy = _BootStrategy

    def _create_directories(self) -> None:
        pass


def create_app(progress: AgentProgress, kafka: KafkaConfig) -> faust.App:
    """The Faust app of an agent, ready for `faust.Worker`."""
    worker, config = progress.worker, progress.worker.config
    app = _App(
        config.group,
        broker=[f"kafka://{server}" for server in kafka.servers],
        broker_credentials=_credentials(kafka),
        **({"broker_client_id": kafka.properties["client.id"]} if kafka.properties.get("client.id") else {}),
        autodiscover=False,
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        broker_request_timeout=_ADOPTION_TIMEOUT_S,
        broker_session_timeout=config.session_timeout_s,
        broker_rebalance_timeout=max(_REBALANCE_TIMEOUT_S, 2 * config.session_timeout_s),
        broker_heartbeat_interval=config.session_timeout_s / 3,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=_MAX_FETCH_BYTES,
        stream_ack_exceptions=False,
        stream_ack_cancelled_tasks=False,
        stream_wait_empty=False,
    )
    _connect_shards(app, progress, kafka)
    _connect_topic(app, worker.topics.importance, progress.count_importance)
    if worker.computes_frequency:
        _connect_topic(app, worker.topics.clicks, worker.count_clicks, deliver=worker.deliver)

    @app.timer(interval=1.0)
    async def publish_metrics() -> None:
        await worker.publish_metrics()

    look, check = _or_crash(app, progress.look), _or_crash(app, worker.check)

    @app.timer(interval=1.0)
    async def look_at_progress() -> None:
        await look()

    @app.timer(interval=_CHECK_EVERY_S)
    async def check_shards() -> None:
        await check()

    return app


def _or_crash(app: faust.App, function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Runs the function in the app's event loop (rebalances use the consumer's); its failure ends the process."""

    async def guarded_here(*args: Any, **kwargs: Any) -> Any:
        try:
            return await function(*args, **kwargs)
        except Exception as error:
            await app.crash(error)
            raise

    @functools.wraps(function)
    async def guarded(*args: Any, **kwargs: Any) -> Any:
        if asyncio.get_running_loop() is app.loop:
            return await guarded_here(*args, **kwargs)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(guarded_here(*args, **kwargs), app.loop))

    return guarded


def _connect_topic(
    app: faust.App,
    topic: str,
    handle: Callable[[InputRecord], Awaitable[None]],
    *,
    deliver: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Passes every record of a topic to `handle`, in order.

    Records are acknowledged in order: after `handle` has returned, or, with `deliver`, after a later `deliver` has
    returned. `handle` processes the next records meanwhile.
    """
    handle = _or_crash(app, handle)

    async def consume(stream: Any) -> None:
        if deliver is None:
            async for event in stream.events():
                await handle_event(event)
            return
        manual, handled = stream.noack(), asyncio.Queue[Any]()
        acknowledging = asyncio.ensure_future(_or_crash(app, acknowledge)(manual, handled))
        try:
            async for event in manual.events():
                await handle_event(event)
                handled.put_nowait(event)
        finally:
            acknowledging.cancel()

    async def handle_event(event: Any) -> None:
        message = event.message
        await handle(
            InputRecord(
                topic=message.topic,
                partition=message.partition,
                offset=message.offset,
                timestamp=int(message.timestamp * 1000),
                key=message.key,
                value=message.value,
                headers=list(message.headers or []),
            )
        )

    async def acknowledge(stream: Any, handled: asyncio.Queue[Any]) -> None:
        while True:
            events = [await handled.get()]
            while not handled.empty():
                events.append(handled.get_nowait())
            await deliver()  # type: ignore[misc]
            for event in events:
                await stream.ack(event)

    source = app.topic(topic, key_serializer="raw", value_serializer="raw")
    # With concurrency above 1 Faust can commit past a record in flight (faust-streaming issue 606).
    app.agent(source, concurrency=1, name=topic)(consume)


def _connect_shards(app: faust.App, progress: AgentProgress, kafka: KafkaConfig) -> None:
    """Loads assigned shards before their records arrive, and saves shards before they are revoked.

    A process whose partitions are all revoked counts nothing more: Faust calls nothing for an empty assignment.
    """
    worker, topic = progress.worker, progress.worker.topics.importance

    async def adopt(assigned: set[TP]) -> dict[TP, int]:
        await worker.adopt_all({partition.partition for partition in assigned if partition.topic == topic})
        progress.note()  # before the first record of a shard is counted
        return {TP(topic, number): offset for number, offset in worker.own_offsets().items()}

    async def save(_app: Any, _revoked: set[TP], **_: Any) -> None:
        progress.note()
        await worker.release()

    async def stop(_app: Any, **_: Any) -> None:
        await worker.stop()

    isolation_level = kafka.consumer_arguments()["isolation_level"]
    use_own_offsets(app, _or_crash(app, adopt), isolation_level=isolation_level, waits=kafka.waits)
    app.on_partitions_revoked.connect(_or_crash(app, save), weak=False)
    app.on_before_shutdown.connect(_or_crash(app, stop), weak=False)


def _credentials(kafka: KafkaConfig) -> Any:
    """Faust's credentials for TLS and SASL; None for a plain connection."""
    arguments = kafka.client_arguments()
    protocol = arguments.get("security_protocol", "PLAINTEXT")
    if protocol == "PLAINTEXT":
        return None
    context = arguments.get("ssl_context")
    if not protocol.startswith("SASL"):
        return faust.SSLCredentials(context)
    return faust.SASLCredentials(
        username=arguments["sasl_plain_username"],
        password=arguments["sasl_plain_password"],
        mechanism=arguments["sasl_mechanism"],
        ssl_context=context,
    )
