"""The final report of a command: a JSON object whose outer keys are the same for every command."""

from __future__ import annotations

import json
import math
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np

__all__ = ["Report", "describe_machine", "dry_run_option", "json_option"]

dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Check options, broker, rights and topics, print what would be run, and end."
)

json_option = click.option(
    "--json",
    "json_path",
    metavar="PATH",
    help="Write the final report as JSON to PATH; '-' for standard output.",
)


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def describe_machine() -> dict[str, Any]:
    """The machine that a report was measured on: processor, usable cores, memory, system and Python version."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None
    usable_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": _cpu_model(),
        "cores": usable_cores,
        "memory_bytes": memory_bytes,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _jsonable(value: Any) -> Any:
    """A copy that JSON can represent: numpy scalars become Python numbers, and non-finite numbers become null."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


class Report:
    """Measures the time of a command and writes its report at the end.

    Args:
        command: the command's name, for example `replay` or `bench sketch`.
    """

    def __init__(self, command: str) -> None:
        self._command = command
        self._started_s = time.perf_counter()

    def finish(self, path: str | None, *, ok: bool, **content: Any) -> dict[str, Any]:
        """Completes the report, writes it and returns it.

        Args:
            path: the file to write, `-` for standard output, None for no output.
            ok: whether the command succeeded.
            content: further keys of the report.
        """
        report = {
            "command": self._command,
            "version": version("hotstream"),
            "machine": describe_machine(),
            "ok": ok,
            "seconds": round(time.perf_counter() - self._started_s, 3),
            **content,
        }
        if path is not None:
            text = json.dumps(_jsonable(report), indent=2, allow_nan=False) + "\n"
            if path == "-":
                sys.stdout.write(text)
            else:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                Path(path).write_text(text)
        return report

    def show_plan(self, path: str | None, plan: dict[str, Any]) -> None:
        """Prints what a command would run, one line each, and writes it as the report of a dry run."""
        width = max(map(len, plan))
        for name, value in plan.items():
            text = ", ".join(f"{key} ({number})" for key, number in value.items()) if isinstance(value, dict) else value
            text = f"{text:,}" if type(text) is int else "-" if text is None else str(text)
            click.echo(f"{name.replace('_', ' '):<{width}}  {text}", err=path == "-")
        self.finish(path, ok=True, dry_run=True, **plan)
