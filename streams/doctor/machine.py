"""The machine: Java and Maven for Apache Kafka, room on the disks, the clock."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from streams.broker.jars import find_java
from streams.doctor.findings import GOOD, MISSING, Finding
from streams.errors import BrokerError

__all__ = ["check_disk", "look_at_machine"]

_APACHE = "`hotstream broker --engine apache`, and the tests on Apache Kafka"
_LEAST_FREE_BYTES = 2_000_000_000
_ANSWER_S = 10.0


def look_at_machine() -> Iterator[Finding]:
    """Yields Java, Maven, the disks and the clock."""
    yield _check_java()
    maven = shutil.which("mvn")
    yield Finding(
        name="maven",
        state=GOOD if maven else MISSING,
        found=maven or "not found in PATH",
        needed_for="" if maven else f"the first start of {_APACHE}",
        mend="" if maven else "apt-get install maven",
    )
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folders = {
        "this folder": Path.cwd(),
        "compiled code and Kafka's jars": cache,
        "brokers": Path(tempfile.gettempdir()),
    }
    for use, folder in folders.items():
        yield check_disk(use, folder)
    yield _check_clock()


def _check_java() -> Finding:
    try:
        return Finding(name="java", state=GOOD, found=find_java())
    except BrokerError as error:
        mend = "apt-get install openjdk-17-jre-headless"
        return Finding(name="java", state=MISSING, found=str(error), needed_for=_APACHE, mend=mend)


def check_disk(use: str, folder: Path, least_bytes: int = _LEAST_FREE_BYTES) -> Finding:
    """The room in a folder, or in the nearest one above it that exists."""
    while not folder.exists():
        folder = folder.parent
    free_bytes, may_write = shutil.disk_usage(folder).free, os.access(folder, os.W_OK)
    is_good = free_bytes >= least_bytes and may_write
    return Finding(
        name=f"disk, {use}",
        state=GOOD if is_good else MISSING,
        found=f"{free_bytes / 1e9:.1f} GB free in {folder}" + ("" if may_write else ", which cannot be written"),
        needed_for="" if is_good else "checkpoints, logs, a broker's data and compiled code",
        mend="" if is_good else f"free {least_bytes / 1e9:.0f} GB in {folder}, or use another folder",
    )


def _check_clock() -> Finding:
    """Whether the system keeps the clock; event times and latencies are by it."""
    program = shutil.which("timedatectl")
    answer = ""
    if program is not None:
        command = [program, "show", "--property=NTPSynchronized", "--value"]
        answer = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_ANSWER_S
        ).stdout.strip()  # empty without systemd
    if answer != "no":
        return Finding(
            name="clock", state=GOOD, found="kept by NTP" if answer else "the system does not tell who keeps it"
        )
    return Finding(
        name="clock",
        state=MISSING,
        found="not synchronised",
        needed_for="latencies and event times over several machines",
        mend="timedatectl set-ntp true",
    )
