"""The `apache` engine: a real Apache Kafka, one node, KRaft, run by this machine's Java. Data stay on disk."""

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
# Written by `hotstream broker` at every start; changes here are lost.
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
# Relative to the data folder, which is the working directory: the folder may be moved.
log.dirs=log

# A missing topic is an error, not a topic with the wrong settings.
auto.create.topics.enable=false
# One node: nothing to replicate to, and no second member worth waiting for.
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
# After a SIGKILL the restarted node waits until the session of its former self has ended: 9 s by default.
broker.session.timeout.ms=4000
broker.heartbeat.interval.ms=500

message.max.bytes=8388608
replica.fetch.max.bytes=8388608
# A topic that asks for quick compaction (segment.ms, min.cleanable.dirty.ratio) gets it; the buffer fits the heap.
log.cleaner.backoff.ms=500
log.cleaner.dedupe.buffer.size=33554432
# Threads for a laptop, not for a rack.
num.network.threads=2
num.io.threads=4
"""


def server_properties(port: int, controller_port: int) -> str:
    """The content of `server.properties` for a single node on these ports of 127.0.0.1."""
    return _PROPERTIES.format(port=port, controller_port=controller_port)


def default_data_dir() -> Path:
    """Where `hotstream broker` keeps Kafka's data: `$XDG_DATA_HOME/hotstream/kafka`, by default in `~/.local/share`."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "hotstream" / "kafka"


def apache_command(folder: Path, port: int) -> BrokerCommand:
    """How to run Apache Kafka on `port` with its data in `folder`, which is formatted if it is new.

    Whatever was in the folder stays; the port may be another one each time.

    Raises:
        BrokerError: no Java, no Maven, or jars that cannot be fetched; when it starts, a folder that cannot be used.
    """
    java = find_java()
    jars = resolve_jars()
    run = [java, "-Xms128m", "-Xmx512m", "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true"]
    run += ["-Dorg.apache.logging.log4j.level=WARN", "-cp", jars.classpath]

    def prepare() -> None:
        (folder / "server.properties").write_text(server_properties(port, free_port()))
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
    """Make the folder a Kafka storage with a cluster id of its own."""
    cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    done = subprocess.run(
        # With an equals sign: an id may begin with a dash.
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
            f"empty one. The storage tool said:\n  | {done.stdout.strip()[-600:]}"
        )
