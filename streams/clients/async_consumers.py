"""Where consumers of aiokafka, also those of Faust, must work otherwise than they do by themselves."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from aiokafka.consumer import fetcher as async_fetcher
from aiokafka.errors import IllegalStateError as NotAssignedError
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.memory_records import MemoryRecords

from streams.clients.record_batches import ReadableRecords
from streams.errors import InvariantError

__all__ = ["NotAssignedError", "outlast_requests", "read_all_async_records"]


def read_all_async_records() -> None:
    """Makes every consumer of aiokafka in this process return what it cannot decode as records that say so.

    Raises:
        InvariantError: this version of aiokafka works differently.
    """
    if not hasattr(async_fetcher, "MemoryRecords"):
        raise InvariantError("aiokafka: got a fetcher without MemoryRecords, expected it; find its new name")
    async_fetcher.MemoryRecords = partial(ReadableRecords, make_batch=DefaultRecordBatch, make_records=MemoryRecords)
    async_fetcher.Fetcher._proc_fetch_request = _fetch_until_closed  # noqa: SLF001  also of Faust's consumers


_fetch = async_fetcher.Fetcher._proc_fetch_request  # noqa: SLF001


async def _fetch_until_closed(fetcher: Any, *arguments: Any) -> Any:
    """Fetches; a fetch that is cancelled while it waits for the broker ends, as aiokafka's others do.

    aiokafka cancels the fetches of a consumer that stops and awaits them. The error of this one would look as if the
    caller of `stop` were cancelled: its task would end without a word, and a thread of Faust with a traceback.
    """
    try:
        return await _fetch(fetcher, *arguments)
    except asyncio.CancelledError:
        return False


def outlast_requests(consumer: Any, request_timeout_ms: int) -> None:
    """Makes a consumer of aiokafka wait longer for offsets than its client waits for an answer.

    aiokafka uses one time for both. So the wait ends first and cancels the request, and only a request whose own time
    is over closes its connection: one that died without a word would be used for ever.

    Raises:
        InvariantError: this version of aiokafka works differently.
    """
    client: Any = getattr(consumer, "_client", None)
    if not hasattr(consumer, "_request_timeout_ms") or not hasattr(client, "_request_timeout_ms"):
        raise InvariantError("aiokafka: got a consumer without _request_timeout_ms, expected it; find its new name")
    client._request_timeout_ms = request_timeout_ms  # noqa: SLF001
    consumer._request_timeout_ms = 3 * request_timeout_ms  # noqa: SLF001  also waits for topics through that connection
