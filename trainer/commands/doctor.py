"""`hotstream doctor`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape

from streams.cli.options import kafka_options, open_kafka
from streams.cli.reports import Report, json_option

if TYPE_CHECKING:
    from streams.doctor.findings import Finding

__all__ = ["command"]

_COLOURS = {"ok": "green", "missing": "yellow", "FAULT": "bold red"}


@click.command(short_help="Show what is missing for what, and the command that mends it.")
@kafka_options
@json_option
def command(json_path: str | None, **kafka: Any) -> None:
    """Look at Python and the packages, Java, GPU, disks and clock, and at the broker: topics, groups, lag.

    Each line names what was found; for what is missing it names what needs it, and the command that mends it. What is
    `missing` concerns only what needs it. A FAULT stops hotstream, or its processes under this prefix, and the exit
    code is 1. Nothing is changed, and nothing is written to the broker.
    """
    from streams.doctor.findings import FAULT  # noqa: PLC0415 - `--help` does not need it

    report, console, findings = Report("doctor"), Console(stderr=json_path == "-", soft_wrap=True), []
    for finding in _look(kafka):
        findings.append(finding)
        colour = _COLOURS[finding.state]
        console.print(
            f"[{colour}]{finding.state:<8}[/]{escape(finding.name)}: {escape(finding.found)}", highlight=False
        )
        if finding.mend:
            console.print(f"          for {escape(finding.needed_for)}: {escape(finding.mend)}", highlight=False)
    ok = all(finding.state != FAULT for finding in findings)
    report.finish(json_path, ok=ok, findings=[vars(finding) for finding in findings])
    if not ok:
        raise click.exceptions.Exit(1)


def _look(kafka: dict[str, Any]) -> Iterator[Finding]:
    from streams.doctor.cluster import look_at_cluster  # noqa: PLC0415
    from streams.doctor.installation import look_at_installation  # noqa: PLC0415
    from streams.doctor.machine import look_at_machine  # noqa: PLC0415

    yield from look_at_installation()
    yield from look_at_machine()
    yield _look_at_gpu()
    with open_kafka(**kafka) as config:
        yield from look_at_cluster(config)


def _look_at_gpu() -> Finding:
    import torch  # noqa: PLC0415 - takes seconds to import

    from streams.doctor.findings import GOOD, MISSING, Finding  # noqa: PLC0415

    if torch.cuda.is_available():
        return Finding(name="gpu", state=GOOD, found=f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}")
    return Finding(
        name="gpu",
        state=MISSING,
        found=f"torch {torch.__version__} finds no CUDA device",
        needed_for="training on a GPU; everything works on the CPU",
        mend="a torch with CUDA (https://pytorch.org/get-started), and `nvidia-smi` that lists a device",
    )
