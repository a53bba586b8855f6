"""`hotstream bench trainer`."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from streams.cli.renamed_options import RenamedOptions
from streams.cli.reports import Report, json_option
from trainer.embedding.stores.registry import DEFAULT_ROW_FORMAT, ROW_FORMATS

if TYPE_CHECKING:
    from trainer.bench.step import Case

__all__ = ["command"]

PARTS = ("tables", "dense", "precision")
_COUNTS = (1_000, 10_000, 100_000, 1_000_000)
_STEP_BOUND, _EMBEDDING_BOUND = 1.10, 1.40


def _print_cases(console: Console, cases: list[Case]) -> None:
    table = Table(title="adaptive embedding against a plain hash table of equal size (medians, ms)")
    for column in ("D", "batch", "step: hash", "adaptive", "ratio", "embedding: hash", "adaptive", "ratio", "limit",
                   "samples/s", "changes/step"):  # fmt: skip
        table.add_column(column, justify="right")
    for case in cases:
        table.add_row(
            str(case.dim), str(case.batch_rows),
            f"{case.step_ms['hash']:.2f}", f"{case.step_ms['adaptive']:.2f}", f"{case.step_ratio:.3f}",
            f"{case.embedding_ms['hash']:.2f}", f"{case.embedding_ms['adaptive']:.2f}", f"{case.embedding_ratio:.3f}",
            f"{case.limit_ms:.2f}", f"{case.samples_per_s['adaptive']:,.0f}", f"{case.changes_per_step:.0f}",
        )  # fmt: skip
    console.print(table)


def _print_parts(console: Console, case: Case) -> None:
    table = Table(title=f"time by part of a step, D {case.dim}, batch {case.batch_rows} (ms, data in the cache)")
    table.add_column("part")
    table.add_column("ms", justify="right")
    for name, ms in case.parts_ms.items():
        table.add_row(name, f"{ms:.3f}")
    for name, ms in case.beside_ms.items():
        table.add_row(f"second thread: {name}", f"{ms:.3f}")
    table.add_row("between steps: apply changes", f"{case.apply_ms_per_step:.3f}")
    table.add_row("copy of the tensors for a checkpoint", f"{case.checkpoint_copy_ms:.3f}")
    console.print(table)
    burst = case.burst
    console.print(
        f"a burst of {burst['changes']:,.0f} changes: applied between {burst['steps']:.0f} steps, longest pause "
        f"{burst['longest_pause_ms']:.1f} ms, one step takes {case.step_ms['adaptive']:.1f} ms"
    )


def _print_applying(console: Console, figures: list[dict[str, float]], step_ms: float) -> None:
    table = Table(title="time to apply a batch of changes")
    for column in ("changes", "ms", "us per change", "ms / ms per step"):
        table.add_column(column, justify="right")
    for figure in figures:
        steps = figure["ms"] / step_ms
        table.add_row(
            f"{figure['changes']:,.0f}", f"{figure['ms']:.2f}", f"{figure['us_per_change']:.2f}", f"{steps:.2f}"
        )
    console.print(table)


def _draw(path: Path, cases: list[Case]) -> None:
    """Draws two bars for each case and part, hash and adaptive, and their ratio."""
    import matplotlib as mpl  # noqa: PLC0415 - `--help` does not need it

    mpl.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    labels = [f"D {case.dim}\nbatch {case.batch_rows}" for case in cases]
    for axis, title, attribute in zip(axes, ("whole step", "embedding part"), ("step", "embedding"), strict=True):
        for shift, name, colour in ((-0.2, "hash", "#9aa5b1"), (0.2, "adaptive", "#1f6feb")):
            heights = [getattr(case, f"{attribute}_ms")[name] for case in cases]
            axis.bar([group + shift for group in range(len(cases))], heights, 0.4, label=name, color=colour)
        for group, case in enumerate(cases):
            top = max(getattr(case, f"{attribute}_ms").values())
            axis.text(group, top * 1.05, f"{getattr(case, f'{attribute}_ratio'):.2f} x", ha="center")
        axis.set_xticks(range(len(cases)), labels)
        axis.set_yscale("log")
        axis.margins(y=0.2)
        axis.set_title(f"{title}, ms")
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


@click.command(
    cls=RenamedOptions,
    renamed={"--batch": "--batch-rows"},
    short_help="A training step against a plain hash table of equal size.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="auto: CUDA if torch finds a CUDA device.",
)
@click.option(
    "--dim",
    "dims",
    type=click.IntRange(1),
    multiple=True,
    help="Dimension of the vectors; repeatable.  [default: 16, 128]",
)
@click.option(
    "--batch-rows",
    "batches",
    type=click.IntRange(1, 1 << 20),
    multiple=True,
    help="Rows per step; repeatable.  [default: 2048, 128; on CUDA 2048, 16384, 65536]",
)
@click.option(
    "--hot",
    "capacities",
    type=click.IntRange(1),
    multiple=True,
    help="Rows of a synthetic hot set; repeatable; only on CUDA.  [default: 10000, 100000, 1000000, 10000000]",
)
@click.option(
    "--part",
    "parts",
    type=click.Choice(PARTS),
    multiple=True,
    help="Of the figures on CUDA, only these; repeatable.  [default: all]",
)
@click.option(
    "--dense-mode",
    "mode",
    type=click.Choice(["auto", "eager", "compile", "graph"]),
    default="auto",
    show_default=True,
    help="How the dense part of a whole step runs; only on CUDA.",
)
@click.option(
    "--model",
    type=click.Choice(["dlrm", "wdl", "dcn"]),
    default="dlrm",
    show_default=True,
    help="Model over the embedding.",
)
@click.option(
    "--row-format",
    type=click.Choice(ROW_FORMATS),
    default=DEFAULT_ROW_FORMAT,
    show_default=True,
    help="Storage format of the rows.",
)
@click.option("--compression", type=click.FloatRange(1), default=1000.0, show_default=True,
              help="Size of Criteo's full table over that of the embedding.")  # fmt: skip
@click.option(
    "--steps",
    type=click.IntRange(3),
    default=30,
    show_default=True,
    help="Pairs of steps per case; each case is measured twice.",
)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads of torch.")
@click.option(
    "--picture",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="PNG",
    help="Write a plot of the results to this file.",
)
@json_option
def command(
    device: str,
    dims: tuple[int, ...],
    batches: tuple[int, ...],
    threads: int,
    picture: Path | None,
    json_path: str | None,
    capacities: tuple[int, ...],
    parts: tuple[str, ...],
    mode: str,
    **options: Any,
) -> None:
    """Measure a complete training step against that of a plain hash table of equal size.

    The steps of the two alternate. Both sides of a ratio are measured in one run on this machine; run nothing else
    meanwhile. On CUDA the rows and the hot sets are synthetic, so that they can be large, and the tables are also
    compared with torch's EmbeddingBag, FBGEMM's (where installed) and the bandwidth of the memory.
    """
    import torch  # noqa: PLC0415 - takes seconds to import, and `--help` does not need it

    from trainer.bench.step import BenchConfig, measure_applying, measure_case  # noqa: PLC0415
    from trainer.learning.building import choose_device  # noqa: PLC0415

    torch.set_num_threads(threads)
    load_before = os.getloadavg()[0] if hasattr(os, "getloadavg") else None  # shows whether other processes ran
    console, report = Console(stderr=json_path == "-", width=120), Report("bench trainer")
    if choose_device(device).type == "cuda":
        from trainer.bench.device.runs import DeviceBench  # noqa: PLC0415

        bench = DeviceBench(
            device=choose_device(device), dims=dims, batches=batches, capacities=capacities, parts=parts or PARTS,
            model=options["model"], row_format=options["row_format"], mode=mode,
        )  # fmt: skip
        report.finish(json_path, **bench.run(console, picture))
        return
    config = BenchConfig(device=choose_device(device), **options)
    chosen = [(dim, batch) for dim in dims or (16, 128) for batch in batches or (2048, 128)]
    cases = []
    for dim, batch in chosen:
        console.print(f"measuring D {dim}, batch {batch}")
        cases.append(measure_case(config, dim, batch))
    applying = measure_applying(config, chosen[0][0], _COUNTS)
    _print_cases(console, cases)
    _print_parts(console, cases[0])
    _print_applying(console, applying, cases[0].step_ms["adaptive"])
    if picture is not None:
        _draw(picture, cases)
    report.finish(
        json_path, **_summary(config.device.type, cases, applying), threads=threads, load_before=load_before, **options
    )


def _summary(device: str, cases: list[Case], applying: list[dict[str, float]]) -> dict[str, Any]:
    """Returns the content of the report: the first case, whether it meets the bounds, then all cases."""
    first = cases[0]
    burst = next(figure for figure in applying if figure["changes"] == 100_000)
    checks = {
        f"whole step at most {_STEP_BOUND} x": first.step_ratio <= _STEP_BOUND,
        f"embedding part at most {_EMBEDDING_BOUND} x": first.embedding_ratio <= _EMBEDDING_BOUND,
        "100,000 changes in less than 20 steps' time": burst["ms"] < 20 * first.step_ms["adaptive"],
        "no pause longer than a step": first.burst["longest_pause_ms"] <= first.step_ms["adaptive"],
    }
    return {
        "ok": all(checks.values()),
        "checks": checks,
        "device": device,
        "step_ms": first.step_ms,
        "embedding_ms": first.embedding_ms,
        "samples_per_s": first.samples_per_s,
        "cases": [asdict(case) for case in cases],
        "applying": applying,
    }
