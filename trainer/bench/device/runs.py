"""All figures of `bench trainer --device cuda`, their tables and the content of the report."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from trainer.bench.device.cases import DeviceCase, DeviceConfig, measure_tables
from trainer.bench.device.clock import measure_bandwidth
from trainer.bench.device.dense import measure_dense, measure_precision
from trainer.bench.device.picture import draw_roofline
from trainer.bench.device.tables import ADAPTIVE, BAG, HASH

__all__ = ["DeviceBench"]

_DIMS, _BATCHES, _CAPACITIES = (16, 128), (2048, 16_384, 65_536), (10_000, 100_000, 1_000_000, 10_000_000)
_PRECISION_STEPS = 300
_STEP_BOUND, _LIMIT_SHARE, _MEMORY_BOUND = 1.10, 0.60, 0.10


@dataclass(frozen=True, kw_only=True)
class DeviceBench:
    """The benchmark on a device.

    Args:
        device: the device.
        dims: dimensions; the defaults if empty, as for batches (rows) and capacities (rows of hot sets).
        batches: rows of a step.
        capacities: rows of hot sets.
        parts: `tables`, `dense`, `precision`.
        model: the model over the embedding.
        row_format: the format of our rows.
        mode: the mode of the dense part in whole steps.
        backend: the body of our embeddings; None for the default of the device.
        seed: the seed of inputs and weights.
        turns: measurements of each figure, of `repeats` repetitions.
        repeats: None for 20, with large batches 5.
    """

    device: torch.device
    parts: Sequence[str]
    dims: Sequence[int] = ()
    batches: Sequence[int] = ()
    capacities: Sequence[int] = ()
    model: str = "dlrm"
    row_format: str = "float32"
    mode: str = "auto"
    backend: str | None = None
    seed: int = 0
    turns: int = 6
    repeats: int | None = None

    def run(self, console: Console, picture: Path | None) -> dict[str, Any]:
        """Measures everything, prints it, draws the picture; returns the content of the report."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else platform.processor()
        bandwidth = measure_bandwidth(self.device, 1 << (30 if self.device.type == "cuda" else 24))
        console.print(f"{name or self.device}: a copy moves {bandwidth / 1e9:,.0f} GB/s")
        content: dict[str, Any] = {
            "device": name,
            "torch": torch.__version__,
            "bytes_per_s": bandwidth,
            "dense_mode": self.mode,
        }
        if "dense" in self.parts:
            content["dense"] = self._dense(console)
        if "precision" in self.parts:
            content["precision"] = self._precision(console)
        if "tables" in self.parts:
            cases = self._tables(console, bandwidth)
            checks = _check(cases)
            content |= {"ok": all(checks.values()), "checks": checks, "cases": [asdict(case) for case in cases]}
            if picture is not None:
                draw_roofline(picture, cases, bandwidth, f"{name or self.device}, {self.row_format} rows")
        return content

    def _tables(self, console: Console, bandwidth: float) -> list[DeviceCase]:
        config = DeviceConfig(
            device=self.device,
            model=self.model,
            row_format=self.row_format,
            backend=self.backend,
            mode=self.mode,
            turns=self.turns,
            repeats=self.repeats,
            seed=self.seed,
        )
        cases: list[DeviceCase] = []
        for dim in self.dims or _DIMS:
            for capacity in self.capacities or _CAPACITIES:
                console.print(f"measuring D {dim}, hot set of {capacity:,}")
                try:
                    cases += measure_tables(config, dim, capacity, self.batches or _BATCHES, bandwidth)
                except torch.cuda.OutOfMemoryError as error:
                    console.print(f"D {dim}, hot set of {capacity:,}: too large for the device ({error})")
        _print_cases(console, cases)
        return cases

    def _dense(self, console: Console) -> list[dict[str, Any]]:
        figures = measure_dense(self.device, self.dims or _DIMS, self.batches or _BATCHES, self.model, self.turns)
        _print_rows(console, "dense part: forward, backward, optimizer (medians)", figures)
        return figures

    def _precision(self, console: Console) -> list[dict[str, Any]]:
        figures = measure_precision(self.device, _PRECISION_STEPS)
        _print_rows(console, "precision of the dense part", figures)
        return figures


def _check(cases: Sequence[DeviceCase]) -> dict[str, bool]:
    """Whether the figures meet the bounds."""
    wide = [case for case in cases if case.dim == max(one.dim for one in cases)]
    large = [case for case in cases if case.nbytes[ADAPTIVE] > 1e8]
    return {
        f"whole step at most {_STEP_BOUND} x EmbeddingBag of equal bytes at the largest D": all(
            case.step_ms[ADAPTIVE] <= _STEP_BOUND * case.step_ms[BAG] for case in wide
        ),
        f"embedding part at least {_LIMIT_SHARE:.0%} of the bandwidth limit": all(
            case.limit_ms[ADAPTIVE] >= _LIMIT_SHARE * case.embedding_ms[ADAPTIVE] for case in cases
        ),
        f"allocated memory within {_MEMORY_BOUND:.0%} of nbytes": all(
            abs(case.allocated_bytes / case.nbytes[ADAPTIVE] - 1) <= _MEMORY_BOUND for case in large
        ),
    }


def _print_cases(console: Console, cases: Sequence[DeviceCase]) -> None:
    table = Table(title="adaptive, plain hash of our rows, torch's EmbeddingBag, in equal bytes (medians, ms)")
    names = list(dict.fromkeys(name for case in cases for name in case.step_ms))
    columns = [f"{part} {name}" for part in ("step:", "embedding:") for name in names]
    for column in ("D", "hot rows", "batch", *columns, "limit", "share", "limit hash", "share", "samples/s", "MB"):
        table.add_column(column, justify="right")
    for case in cases:
        times = [f"{part[name]:.3f}" for part in (case.step_ms, case.embedding_ms) for name in names]
        limits = [
            text
            for name in (ADAPTIVE, HASH)
            for text in (f"{case.limit_ms[name]:.3f}", f"{case.limit_ms[name] / case.embedding_ms[name]:.0%}")
        ]
        table.add_row(
            str(case.dim), f"{case.capacity_rows:,}", f"{case.batch_rows:,}", *times, *limits,
            f"{case.samples_per_s[ADAPTIVE]:,.0f}", f"{case.nbytes[ADAPTIVE] / 1e6:,.0f}",
        )  # fmt: skip
    console.print(table)
    for name, reason in (cases[0].skipped if cases else {}).items():
        console.print(f"{name}: not measured: {reason}")


def _print_rows(console: Console, title: str, figures: Sequence[dict[str, Any]]) -> None:
    table = Table(title=title)
    for column in figures[0]:
        table.add_column(column, justify="right")
    for figure in figures:
        table.add_row(*(f"{value:.5g}" if isinstance(value, float) else str(value) for value in figure.values()))
    console.print(table)
