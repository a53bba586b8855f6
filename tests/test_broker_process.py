"""Brokers as child processes: what every engine does, the lifetime of the process, and the command."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import require_java
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

from streams.broker import BrokerCommand, BrokerProcess, open_broker, run_broker
from streams.broker.apache import server_properties
from streams.broker.process import free_port
from streams.commands.broker import command
from streams.errors import BrokerError, ConfigError
from streams.processes.log_tail import log_tail

RECORDS = [
    (b"k1", b"v1", [("seq", b"1"), ("shard", b"\x00\xff")], 1_700_000_000_000),
    (b"k2", b"", [], 1_700_000_001_000),
    (b"k1", None, [("seq", b"3")], 1_700_000_002_000),  # a tombstone keeps its headers
]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until_dead(pid: int, deadline_s: float = 10.0) -> bool:
    deadline = time.monotonic() + deadline_s
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not is_alive(pid)


def create_topic(bootstrap_servers: str, topic: str, **configs: str) -> None:
    with KafkaAdminClient(bootstrap_servers=bootstrap_servers) as admin:
        admin.create_topics({topic: {"num_partitions": 2, "replication_factor": 1, "configs": configs}})


def produce(bootstrap_servers: str, topic: str, partition: int = 1) -> None:
    producer = KafkaProducer(bootstrap_servers=bootstrap_servers)
    try:
        for key, value, headers, timestamp_ms in RECORDS:
            producer.send(
                topic, key=key, value=value, headers=headers, timestamp_ms=timestamp_ms, partition=partition
            ).get(20)
    finally:
        producer.close()


def consume(bootstrap_servers: str, topic: str, partition: int = 1) -> list[tuple[object, ...]]:
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap_servers, group_id=None, enable_auto_commit=False, auto_offset_reset="none"
    )
    try:
        assigned = TopicPartition(topic, partition)
        consumer.assign([assigned])
        consumer.seek(assigned, consumer.beginning_offsets([assigned])[assigned])
        end = consumer.end_offsets([assigned])[assigned]
        found: list[tuple[object, ...]] = []
        deadline = time.monotonic() + 20
        while consumer.position(assigned) < end and time.monotonic() < deadline:
            for records in consumer.poll(200).values():
                found += [(record.key, record.value, list(record.headers), record.timestamp) for record in records]
        return found
    finally:
        consumer.close()


# Behaviour that every engine must have, because the agents rely on it.


def test_records_come_back_with_key_headers_timestamp_and_partition(bootstrap_servers: str, topic_prefix: str) -> None:
    topic = f"{topic_prefix}.clicks"
    create_topic(bootstrap_servers, topic)
    produce(bootstrap_servers, topic)
    assert consume(bootstrap_servers, topic) == RECORDS
    assert consume(bootstrap_servers, topic, partition=0) == []


def test_topic_settings_can_be_read_back(bootstrap_servers: str, topic_prefix: str) -> None:
    topic = f"{topic_prefix}.assignments"
    create_topic(bootstrap_servers, topic, **{"cleanup.policy": "compact"})
    resource = ConfigResource(ConfigResourceType.TOPIC, topic)
    with KafkaAdminClient(bootstrap_servers=bootstrap_servers) as admin:
        [described] = admin.describe_topics([topic])
        # "all": the embedded broker lists a topic's own settings as defaults
        configs = admin.describe_configs([resource], config_filter="all")["topic"][topic]
    assert len(described["partitions"]) == 2
    assert configs["cleanup.policy"]["value"] == "compact"


def test_a_record_of_six_megabytes_passes(bootstrap_servers: str, topic_prefix: str) -> None:
    topic = f"{topic_prefix}.snapshots"
    create_topic(bootstrap_servers, topic, **{"max.message.bytes": str(8 << 20)})
    producer = KafkaProducer(bootstrap_servers=bootstrap_servers, max_request_size=8 << 20)
    try:
        assert producer.send(topic, value=bytes(6 << 20), partition=0).get(20).offset == 0
    finally:
        producer.close()
    [(_, value, _, _)] = consume(bootstrap_servers, topic, partition=0)
    assert value == bytes(6 << 20)


@pytest.mark.broker
def test_apache_does_not_create_topics_by_itself(apache_broker: BrokerProcess, topic_prefix: str) -> None:
    producer = KafkaProducer(bootstrap_servers=apache_broker.bootstrap_servers, max_block_ms=300)
    try:
        with pytest.raises(Exception, match="Failed to update metadata"):
            producer.send(f"{topic_prefix}.missing", b"x").get(5)
    finally:
        producer.close()


# The lifetime of the process.


@pytest.mark.broker
@pytest.mark.parametrize("engine", ["embedded", "apache"])
def test_open_broker_leaves_no_process_and_no_listener(engine: str) -> None:
    if engine == "apache":
        require_java()
    with run_broker(engine) as broker:
        pid, port, folder = broker.pid, broker.port, broker.log_path.parent
        assert is_alive(pid)
        with open_broker(broker.bootstrap_servers) as bootstrap_servers:
            assert bootstrap_servers == broker.bootstrap_servers
    assert not is_alive(pid)
    assert not folder.exists()
    with pytest.raises(BrokerError, match=r"no broker answers .*127\.0\.0\.1"), open_broker(f"127.0.0.1:{port}"):
        pass


@pytest.mark.broker
def test_apache_keeps_its_data_over_stop_and_over_sigkill(tmp_path: Path, topic_prefix: str) -> None:
    require_java()
    topic = f"{topic_prefix}.kept"
    with run_broker("apache", data_dir=tmp_path) as broker:
        create_topic(broker.bootstrap_servers, topic)
        produce(broker.bootstrap_servers, topic)
        port = broker.port
    with run_broker("apache", data_dir=tmp_path, port=port) as broker:
        assert broker.port == port
        assert consume(broker.bootstrap_servers, topic) == RECORDS
        produce(broker.bootstrap_servers, topic)
        broker.kill()
        assert not broker.is_running
        broker.start()
        assert consume(broker.bootstrap_servers, topic) == RECORDS * 2


@pytest.mark.broker
def test_embedded_broker_starts_again_on_its_port_and_is_empty(tmp_path: Path, topic_prefix: str) -> None:
    with run_broker("embedded", data_dir=tmp_path) as broker:
        create_topic(broker.bootstrap_servers, f"{topic_prefix}.gone")
        first = broker.pid
        broker.kill()
        broker.start()
        assert broker.pid != first
        with KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers) as admin:
            assert admin.list_topics() == []


@pytest.mark.broker
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills a child when its parent is killed")
def test_a_broker_dies_with_the_process_that_started_it() -> None:
    script = (
        "from streams.broker import run_broker\n"
        "with run_broker('embedded') as broker:\n    print(broker.pid, flush=True)\n    broker.wait()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert is_alive(pid)
        owner.kill()
        owner.wait(10)
    assert wait_until_dead(pid)


def test_the_error_of_a_broker_that_exits_holds_the_end_of_its_log(tmp_path: Path) -> None:
    script = "print('fatal: disk on fire'); print('\\tat a.Java.frame'); raise SystemExit(7)"
    broker = BrokerProcess(
        BrokerCommand(name="a bad broker", arguments=[sys.executable, "-c", script], port=free_port(), folder=tmp_path)
    )
    with pytest.raises(BrokerError, match=r"a bad broker ended with exit code 7(?s:.*)\| fatal: disk on fire$"):
        broker.start()
    assert not broker.is_running


def test_a_broker_that_misses_the_deadline_is_killed(tmp_path: Path) -> None:
    script = "import signal; print('dreaming', flush=True); signal.pause()"
    broker = BrokerProcess(
        BrokerCommand(name="a mute broker", arguments=[sys.executable, "-c", script], port=free_port(), folder=tmp_path)
    )
    with pytest.raises(BrokerError, match=r"did not answer on 127\.0\.0\.1:\d+ within 0\.5 s(?s:.*)dreaming"):
        broker.start(deadline_s=0.5)
    assert not is_alive(broker.pid)


def test_a_response_of_another_protocol_is_not_a_brokers(tmp_path: Path) -> None:
    port = free_port()
    script = (
        "import socket\n"
        f"s = socket.create_server(('127.0.0.1', {port}))\n"
        "while True:\n    c, _ = s.accept()\n    c.sendall(b'HTTP/1.1 400 Bad Request')\n    c.close()"
    )
    broker = BrokerProcess(
        BrokerCommand(name="a web server", arguments=[sys.executable, "-c", script], port=port, folder=tmp_path)
    )
    try:
        with pytest.raises(BrokerError, match="did not answer"):
            broker.start(deadline_s=0.5)
    finally:
        broker.kill()


def test_the_error_of_a_port_in_use_names_the_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(BrokerError, match=rf"cannot listen on port {port}: Address already in use; .*--port"),
            run_broker("embedded", data_dir=tmp_path, port=port),
        ):
            pass


@pytest.mark.broker
def test_a_folder_holds_one_broker_at_a_time(tmp_path: Path) -> None:
    with run_broker("embedded", data_dir=tmp_path) as broker:
        with (
            pytest.raises(BrokerError, match=r"cannot use .*: another broker runs there; .*--data-dir"),
            run_broker("embedded", data_dir=tmp_path),
        ):
            pass
        broker.kill()
        with run_broker("embedded", data_dir=tmp_path) as second:  # the lock ended with the process
            assert second.is_running


def test_the_error_of_a_read_only_folder_names_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(BrokerError, match=r"file/data cannot be written"),
        run_broker("embedded", data_dir=tmp_path / "file" / "data"),
    ):
        pass


def test_an_invalid_specification_is_refused() -> None:
    for spec in ("redpanda", "", "host:", "host:port"):
        with pytest.raises(ConfigError, match="expected"), open_broker(spec):
            pass
    with pytest.raises(ConfigError, match="expected apache or embedded"), run_broker("redpanda"):
        pass


def test_log_tail_keeps_the_last_lines_and_survives_a_missing_file(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert log_tail(log) == "  | (its log is empty)"
    log.write_bytes(b"\n".join(b"line %d \xff" % number for number in range(30)))
    assert log_tail(log, num_lines=2) == "  | line 28 \ufffd\n  | line 29 \ufffd"


def test_apache_listens_on_the_loopback_interface_only() -> None:
    listeners = [line for line in server_properties(9092, 9093).splitlines() if "listeners=" in line]
    assert listeners
    assert all("//127.0.0.1:" in part for line in listeners for part in line.split(","))


# The command.


def test_the_help_describes_both_engines() -> None:
    output = CliRunner().invoke(command, ["--help"]).output
    assert "embedded  starts at once" in output
    assert "apache    one node of Apache Kafka" in output
    assert "export KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:9092" in output


def start_command(tmp_path: Path, port: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(Path(sys.executable).with_name("hotstream")), "broker", "--data-dir", str(tmp_path), f"--port={port}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.broker
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_foreground_broker_stops_with_exit_0(tmp_path: Path, number: signal.Signals) -> None:
    port = free_port()
    with start_command(tmp_path, port) as foreground:
        assert foreground.stdout is not None
        assert foreground.stdout.readline() == f"the embedded broker answers at 127.0.0.1:{port}\n"
        foreground.send_signal(number)
        _, stderr = foreground.communicate(timeout=20)
    assert foreground.returncode == 0
    assert stderr.endswith("stopped\n")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)


@pytest.mark.broker
def test_a_foreground_broker_that_is_killed_exits_1_with_the_end_of_its_log(tmp_path: Path) -> None:
    with start_command(tmp_path, free_port()) as foreground:
        assert foreground.stdout is not None
        foreground.stdout.readline()
        [child] = Path(f"/proc/{foreground.pid}/task/{foreground.pid}/children").read_text().split()
        os.kill(int(child), signal.SIGKILL)
        _, stderr = foreground.communicate(timeout=20)
    assert foreground.returncode == 1
    assert "was killed by SIGKILL; the end of its log" in stderr
    assert "| listening on" in stderr
