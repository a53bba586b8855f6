"""The `apache` engine: one node of Apache Kafka (KRaft) on the Java of this machine, with its data on disk."""

from __future__ import annotations

import base64
import os
import subprocess
import uuid
from pathlib import Path

from streams.broker.jars import find_java, resolve_jars
from streams.broker.process import BrokerCommand, free_port
from streams.errors import BrokerError

__all__ = ["apache_command", "default_data_dir", "server_properties"]

_PROPERTIES = """\
# `hotstream broker` writes this file at every start; changes are lost.
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{advertised_port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
# Relative to the data folder, which is the working directory, so that the folder can be moved.
log.dirs=log

# A client of a missing topic gets an error instead of a topic with the wrong settings.
auto.create.topics.enable=false
# One node: no replication, and no rebalance delay.
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
# After a SIGKILL the restarted node waits until its previous session has expired, 9 s by default.
broker.session.timeout.ms=4000
broker.heartbeat.interval.ms=500

message.max.bytes=8388608
replica.fetch.max.bytes=8388608
# The cleaner starts soon enough for topics with a short segment.ms; its buffer fits the heap.
log.cleaner.backoff.ms=500
log.cleaner.dedupe.buffer.size=33554432
# Enough threads for one machine.
num.network.threads=2
num.io.threads=4
"""


def server_properties(port: int, controller_port: int, *, advertised_port: int = 0) -> str:
    """The content of `server.properties` for a single node on these ports of 127.0.0.1.

    Clients connect to `advertised_port`, 0 for `port`: another one is that of a proxy.
    """
    return _PROPERTIES.format(port=port, controller_port=controller_port, advertised_port=advertised_port or port)


def default_data_dir() -> Path:
    """The default data folder: `$XDG_DATA_HOME/hotstream/kafka`; `XDG_DATA_HOME` defaults to `~/.local/share`."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "hotstream" / "kafka"


def apache_command(folder: Path, port: int, *, advertised_port: int = 0) -> BrokerCommand:
    """The command that runs Apache Kafka on `port` with its data in `folder`; clients connect to `advertised_port`.

    Its start formats a new folder and keeps the data of an existing one; the port may change between starts.

    Raises:
        BrokerError: Java or Maven is missing, or Maven cannot download the jars. The start of the command raises it if
            the folder cannot be formatted.
    """
    java = find_java()
    jars = resolve_jars()
    run = [java, "-Xms128m", "-Xmx512m", "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true"]
    run += ["-Dorg.apache.logging.log4j.level=WARN", "-cp", jars.classpath]

    def prepare() -> None:
        (folder / "server.properties").write_text(server_properties(port, free_port(), advertised_port=advertised_port))
        if not (folder / "log" / "meta.properties").exists():
            _format([*run, "kafka.tools.StorageTool"], folder)

    return BrokerCommand(
        name=f"Apache Kafka {jars.version}",
        arguments=[*run, "kafka.Kafka", "server.properties"],
        port=port,
        folder=folder,
        prepare=prepare,
    )


def _format(storage_tool: list[str], folder: Path) -> None:
    """Formats the folder as a Kafka storage with a new cluster id."""
    cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    done = subprocess.run(
        # With an equals sign, because an id may begin with a dash.
        [*storage_tool, "format", f"--cluster-id={cluster_id}", "--config=server.properties"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        raise BrokerError(
            f"the data folder {folder} cannot be formatted for Apache Kafka (exit code {done.returncode}); choose an "
            f"empty one. Output of the storage tool:\n  | {done.stdout.strip()[-600:]}"
        )
