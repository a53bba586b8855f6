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
from faust.types import TP

from streams.agent.own_offsets import use_own_offsets
from streams.agent.worker import AgentConfig, AgentWorker, InputRecord
from streams.clients.config import KafkaConfig

__all__ = ["create_app", "run_agent"]

_MAX_FETCH_BYTES = 16 << 20
_CHECK_EVERY_S = 5.0


def run_agent(config: AgentConfig, kafka: KafkaConfig) -> None:
    """Runs an agent until the process is asked to stop; Faust then ends the process."""
    for noisy in ("faust", "mode", "streams.agent.own_offsets"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    app = create_app(config, kafka)
    gc.freeze()  # a collection that looks at all that imports made takes 0.1 s, and the records of a fill cause several
    faust.Worker(app, override_logging=False, redirect_stdouts=False, quiet=True).execute_from_commandline()


def create_app(config: AgentConfig, kafka: KafkaConfig) -> faust.App:
    """The Faust app of an agent, ready for `faust.Worker`."""
    worker = AgentWorker(config, kafka)
    app = faust.App(
        config.group,
        broker=[f"kafka://{server}" for server in kafka.servers],
        broker_credentials=_credentials(kafka),
        **({"broker_client_id": kafka.properties["client.id"]} if kafka.properties.get("client.id") else {}),
        autodiscover=False,
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        broker_session_timeout=config.session_timeout_s,
        broker_heartbeat_interval=config.session_timeout_s / 3,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=_MAX_FETCH_BYTES,
        stream_ack_exceptions=False,
        stream_ack_cancelled_tasks=False,
        stream_wait_empty=False,
    )
    _connect_shards(app, worker, kafka.consumer_arguments()["isolation_level"])
    _connect_topic(app, worker.topics.importance, worker.count_importance)
    if worker.computes_frequency:
        _connect_topic(app, worker.topics.clicks, worker.count_clicks, deliver=worker.deliver)

    @app.timer(interval=1.0)
    async def publish_metrics() -> None:
        await worker.publish_metrics()

    check = _or_crash(app, worker.check)

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


def _connect_shards(app: faust.App, worker: AgentWorker, isolation_level: str) -> None:
    """Loads assigned shards before their records arrive, and saves shards before they are revoked.

    A process whose partitions are all revoked counts nothing more: Faust calls nothing for an empty assignment.
    """
    topic = worker.topics.importance

    async def adopt(assigned: set[TP]) -> dict[TP, int]:
        await worker.adopt_all({partition.partition for partition in assigned if partition.topic == topic})
        return {TP(topic, number): offset for number, offset in worker.own_offsets().items()}

    async def save(_app: Any, _revoked: set[TP], **_: Any) -> None:
        await worker.release()

    async def stop(_app: Any, **_: Any) -> None:
        await worker.stop()

    use_own_offsets(app, _or_crash(app, adopt), isolation_level=isolation_level)
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
