"""The pages for users hold: the tutorial runs line by line, the sizes are printed, the reference is the code's."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from streams.broker.process import free_port
from streams.processes.parent_death import die_with_parent
from trainer.reference import command_reference

DOCS = Path(__file__).resolve().parent.parent / "docs"


def snippets(page: str, language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)
    assert found, page
    return found


@pytest.mark.broker
def test_the_tutorial_runs_from_its_first_line_to_its_last(tmp_path):
    script = "\n".join(snippets("tutorial.md", "sh")).replace("9092", str(free_port()))
    (tmp_path / "hotstream").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m trainer "$@"\n')
    (tmp_path / "hotstream").chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("KAFKA_", "HOTSTREAM_"))}
    with (tmp_path / "output").open("w") as output, subprocess.Popen(
        die_with_parent(["bash", "-euo", "pipefail", "-c", script]),
        cwd=tmp_path, stdout=output, stderr=output, start_new_session=True,
        env={**environment, "PATH": f"{tmp_path}:{environment['PATH']}"},
    ) as shell:  # fmt: skip
        try:
            code = shell.wait(240)
        finally:
            os.killpg(shell.pid, signal.SIGKILL)  # broker and agent run on
    printed = (tmp_path / "output").read_text()
    assert code == 0, printed[-4000:]
    assert re.search(r"^hot\s+(site|ad):", printed, re.MULTILINE), printed[-4000:]
    trained = json.loads((tmp_path / "train.json").read_text())
    assert trained["rows"]["trained"] == 20_000
    assert trained["assignments"]["verified"] is not False


def test_the_sizes_of_the_page_are_printed(capsys):
    for code in snippets("sizing.md", "python"):
        exec(code, {})  # noqa: S102
    assert re.match(r"10,000 hot features: [\d.]+ MB, [\d,]+ shared rows\n", capsys.readouterr().out)


def test_the_options_that_the_pages_name_exist():
    reference = command_reference()
    for page in ("tutorial.md", "sizing.md", "operations.md"):
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", (DOCS / page).read_text()))
        assert {option for option in named if option not in reference} <= {"--build", "--profile"}, page


def test_the_reference_is_that_of_the_code():
    # In a process of its own: click keeps the help option of a command that another test has run.
    program = "import sys; from trainer.reference import command_reference; sys.stdout.write(command_reference())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (DOCS / "commands.md").read_text() == done.stdout, "run `python -m trainer.reference`"
