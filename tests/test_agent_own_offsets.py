"""The agent's Faust consumer, whose own thread takes the fetched records that a seek of the event loop discards."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import faust
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import Fetcher, FetchResult
from aiokafka.consumer.subscription_state import SubscriptionState
from faust.types import TP
from silent_connection import find_end

from streams.agent.own_offsets import use_own_offsets
from streams.telemetry.broker_waits import BrokerWaits

PARTITION = TopicPartition("importance", 1)
FETCHED, OWN = 5, 3  # the offset after the records that are fetched, and the one to read from


class Records:
    """The records of a fetch, during whose decoding the event loop begins to seek."""

    next_fetch_offset = FETCHED - 1

    def __init__(self, seek: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._seek, self._loop = seek, loop

    def __iter__(self) -> Iterator[str]:
        self.sought = asyncio.run_coroutine_threadsafe(self._seek(), self._loop)
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self._loop).result()  # it has begun by now
        yield "record"
        self.next_fetch_offset = FETCHED


def make_consumer(loop: asyncio.AbstractEventLoop) -> Any:
    """The agent's consumer, not connected."""

    async def adopt(_assigned: set[TP]) -> dict[TP, int]:
        return {}

    async def ignore(*_: Any) -> None:
        pass

    app = faust.App("agent", broker="kafka://localhost:1", loop=loop)
    use_own_offsets(app, adopt, isolation_level="read_committed", waits=BrokerWaits("localhost:1"))
    callbacks = {"on_partitions_revoked": ignore, "on_partitions_assigned": ignore}
    return app.transport.create_consumer(callback=ignore, **callbacks)


async def make_fetcher() -> Fetcher:
    """A fetcher of aiokafka that reads one partition, and fetches nothing by itself."""
    subscriptions = SubscriptionState()
    client = SimpleNamespace(_loop=asyncio.get_running_loop(), _metadata_max_age_ms=1000)
    fetcher = Fetcher(client, subscriptions)
    fetcher._fetch_task.cancel()  # noqa: SLF001
    subscriptions.assign_from_user({PARTITION})
    subscriptions.seek(PARTITION, FETCHED - 1)
    return fetcher


@contextmanager
def running(thread: Any) -> Iterator[None]:
    """Runs the thread's queue of calls as Faust does, without a connection."""
    worker = threading.Thread(target=thread.thread_loop.run_forever)
    worker.start()
    run(thread.method_queue.start(), thread.thread_loop)
    try:
        yield
    finally:
        run(thread.method_queue.stop(), thread.thread_loop)
        thread.thread_loop.call_soon_threadsafe(thread.thread_loop.stop)
        worker.join()
        thread.thread_loop.close()


def run(coroutine: Any, loop: asyncio.AbstractEventLoop) -> Any:
    return asyncio.run_coroutine_threadsafe(coroutine, loop).result(30)


def test_a_seek_waits_until_the_consumers_thread_has_taken_the_records_that_it_discards():
    async def seek_while_records_are_taken() -> None:
        loop = asyncio.get_running_loop()
        consumer = make_consumer(loop)
        thread = consumer._thread  # noqa: SLF001
        with running(thread):
            fetcher = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(make_fetcher(), thread.thread_loop))
            thread._consumer = SimpleNamespace(seek=fetcher.seek_to)  # noqa: SLF001
            subscriptions = fetcher._subscriptions  # noqa: SLF001
            assignment = subscriptions.subscription.assignment
            records = Records(lambda: consumer.seek(TP(*PARTITION), OWN), loop)
            fetcher._records[PARTITION] = FetchResult(  # noqa: SLF001
                PARTITION, assignment=assignment, partition_records=records, backoff=0.0
            )
            taken = await thread.call_thread(fetcher.fetched_records, {PARTITION})
            await asyncio.wrap_future(records.sought)
        assert taken == {PARTITION: ["record"]}
        assert assignment.state_value(PARTITION).position == OWN

    asyncio.run(seek_while_records_are_taken())


def test_a_connection_of_fausts_consumer_that_died_without_a_word_is_made_again():
    async def find() -> int:
        consumer = make_consumer(asyncio.get_running_loop())
        thread = consumer._thread  # noqa: SLF001
        thread.thread_loop.close()  # nothing runs in it
        return await find_end(thread._create_worker_consumer(consumer.transport), 7)  # noqa: SLF001

    assert asyncio.run(find()) == 7
