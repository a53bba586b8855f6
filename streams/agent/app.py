"""The Faust app of an agent: it passes records and rebalances to an `AgentWorker`, and makes no decisions.

When an agent function raises, Faust acknowledges the failed record, restarts the function and continues with the next
record. Here that would leave a gap in a shard's state, so every failure ends the process without an acknowledgement.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import faust
from faust.app.base import BootStrategy
from faust.types import TP

from streams.agent.faust_worker import FaustWorker, OneLine
from streams.agent.input_record import InputRecord
from streams.agent.own_offsets import Adoption, use_own_offsets
from streams.agent.progress import AgentProgress
from streams.cli.stop_request import StopRequest
from streams.clients.config import KafkaConfig

__all__ = ["create_app", "run_agent"]

logger = logging.getLogger(__name__)

_MAX_FETCH_BYTES = 16 << 20
_CHECK_EVERY_S = 5.0
_REBALANCE_TIMEOUT_S = (
    20.0  # the others wait so long for a member that is stopped; their snapshots must be written in it
)
_HEARTBEAT_S = (
    1.0  # a member learns by its next heartbeat that another has come or gone; the others stand still until then
)
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
        handler.addFilter(OneLine())
    # It also raises what it logs.
    committing = logging.getLogger("aiokafka.consumer.group_coordinator")
    committing.addFilter(lambda record: not str(record.msg).startswith("OffsetCommit failed"))
    worker = FaustWorker(app, override_logging=False, redirect_stdouts=False, quiet=True)
    worker.spinner = None  # it writes the escapes of a terminal into files, too
    worker.request, worker.waits, worker.on_end = request, kafka.waits, on_end
    try:
        worker.execute_from_commandline()
    except SystemExit as end:
        on_end(not end.code)
        raise


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
        broker_heartbeat_interval=min(_HEARTBEAT_S, config.session_timeout_s / 3),
        consumer_auto_offset_reset="earliest",
        consumer_group_instance_id=config.group_instance_id,
        consumer_max_fetch_size=_MAX_FETCH_BYTES,
        stream_ack_exceptions=False,
        stream_ack_cancelled_tasks=False,
        stream_wait_empty=False,
    )
    begin_loaded = _connect_shards(app, progress, kafka)
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
        await begin_loaded()

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


def _connect_shards(app: faust.App, progress: AgentProgress, kafka: KafkaConfig) -> Callable[[], Awaitable[Any]]:
    """Loads assigned shards before their records arrive, and gives shards back before they are revoked.

    Returns a function that begins to read shards which were loaded since.

    A process whose partitions are all revoked counts nothing more: Faust calls nothing for an empty assignment.
    """
    worker, topic = progress.worker, progress.worker.topics.importance
    loading = set[asyncio.Future[None]]()  # an event loop keeps no reference to its tasks

    def own_offsets() -> dict[TP, int]:
        return {TP(topic, number): offset for number, offset in worker.own_offsets().items()}

    async def adopt(assigned: set[TP]) -> Adoption:
        shards = {partition for partition in assigned if partition.topic == topic}
        await worker.assign({shard.partition for shard in shards})
        progress.note()  # before the first record of a shard is counted
        task = asyncio.ensure_future(_or_crash(app, load)())
        loading.add(task)
        task.add_done_callback(loading.discard)
        offsets = own_offsets()
        return Adoption(offsets, shards - set(offsets))

    async def begin_loaded() -> None:
        progress.note()
        await app.consumer.begin_at(own_offsets)

    async def load() -> None:
        async for _ in worker.load():
            await begin_loaded()

    async def give_back(_app: Any, _revoked: set[TP], **_: Any) -> None:
        progress.note()
        await worker.release()

    async def stop(_app: Any, **_: Any) -> None:
        await worker.stop()

    isolation_level = kafka.consumer_arguments()["isolation_level"]
    use_own_offsets(app, _or_crash(app, adopt), isolation_level=isolation_level, waits=kafka.waits)
    app.on_partitions_revoked.connect(_or_crash(app, give_back), weak=False)
    app.on_before_shutdown.connect(_or_crash(app, stop), weak=False)
    return _or_crash(app, begin_loaded)


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
