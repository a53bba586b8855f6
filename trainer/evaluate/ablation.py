"""The ablation: each default of `cafe` varied alone, everything else as it is.

Every variant is a cell of the same grid, made to fit the same bytes, and compared with the default's cell of the same
seed: rows, first weights and hashes are shared, so the difference is known better than either figure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.evaluate.cell import Cell, Measured
from trainer.evaluate.grid import GridConfig, run_cells
from trainer.evaluate.methods.method import Knob

__all__ = ["VARIANTS", "Effect", "ablation_table", "run_ablation"]

_METHOD = "cafe"
_METRICS = ("auc", "auc_last")
_TITLES = {"auc": "AUC", "auc_last": "AUC of the last seventh"}

VARIANTS: dict[str, Mapping[str, Knob]] = {
    "rows in float32": {"row_format": "float32"},
    "rows in bfloat16": {"row_format": "bfloat16"},
    "a tenth of all rows unique": {"unique_share": 0.1},
    "a third of all rows unique": {"unique_share": 1 / 3},
    "half of all rows unique": {"unique_share": 0.5},
    "no second level": {"unique_share": 1.0},
    "level 1 of 1 row a field": {"most_level_1": 1.0},
    "level 1 of up to 16 rows a field": {"most_level_1": 16.0},
    "first values a fifth as large": {"first_values": 0.2},
    "first values twice as large": {"first_values": 2.0},
    "sketch .2 buckets a unique row": {"buckets_per_row": 0.2},
    "sketch .5 buckets a unique row": {"buckets_per_row": 0.5},
    "sketch 1 bucket a unique row": {"buckets_per_row": 1.0},
    "half-life 100 events a row": {"half_life": 100.0},
    "half-life 300 events a row": {"half_life": 300.0},
    "half-life 3000 events a row": {"half_life": 3000.0},
    "scores never fade": {"half_life": 1e12},
    "score over the field's mean": {"score": "field"},
    "score is the count": {"score": "count"},
    "promotion from zero": {"promotion": "zero"},
    "promotion with the shared row's state": {"state": "shared"},
    "promotion with the state of its score": {"state": "own"},
    "demotion writes back": {"write_back": 1.0},
    "learned gate": {"gate": 1.0},
    "shared rows common to all fields": {"fields": "one"},
}


@dataclass(frozen=True, kw_only=True)
class Effect:
    """A variant at one ratio.

    Attributes:
        variant: by name; `default` for none.
        compression: ratio.
        metric: `auc`, or `auc_last` of the last seventh.
        auc: mean over the seeds; NaN, like the gain, if it is infeasible.
        gain: mean over the seeds of AUC less the default's.
        error: standard error of the gain; 0 for a single seed, which says nothing.
        knobs: what is varied.
    """

    variant: str
    compression: float
    metric: str
    auc: float
    gain: float
    error: float
    knobs: Mapping[str, Knob] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The gain in units of 1e-4."""
        if math.isnan(self.gain):
            return "infeasible"
        return f"{self.gain * 1e4:+.0f}" + (f" ± {self.error * 1e4:.0f}" if self.error else "")


def run_ablation(
    config: GridConfig,
    out: Path,
    *,
    jobs: int = 1,
    on_cell: Callable[[Measured, int, int], Any] | None = None,
    variants: Mapping[str, Mapping[str, Knob]] | None = None,
) -> list[Effect]:
    """Runs what is missing and says what each variant is worth.

    Args:
        config: source, rows, preset, models (the first counts), ratios and seeds; its methods do not matter.
        out: where cells are kept.
        jobs: processes.
        on_cell: as `run_grid`'s.
        variants: the knobs by name; `VARIANTS` by default.
    """
    model, names = config.models[0], {"default": {}, **(VARIANTS if variants is None else variants)}

    def cell(name: str, compression: float, seed: int) -> Cell:
        return config.cell((_METHOD, model, compression), seed, names[name])

    cells = [cell(name, ratio, seed) for ratio in config.compressions for name in names for seed in config.seeds]
    found: dict[str, Measured] = {}
    for done, (known, measured) in enumerate(run_cells(cells, out, jobs), 1):
        found[known.name] = measured
        if on_cell:
            on_cell(measured, done, len(cells))

    def pairs(name: str, compression: float, metric: str) -> list[tuple[float, float]]:
        """The variant's figure and the default's for each seed; NaN where there is none."""
        measured = [[found[cell(one, compression, seed).name] for one in (name, "default")] for seed in config.seeds]
        return [(_figure(one, metric), _figure(other, metric)) for one, other in measured]

    return [
        _effect(name, compression, metric, pairs(name, compression, metric), knobs)
        for compression in config.compressions
        for name, knobs in names.items()
        for metric in _METRICS
    ]


def _figure(measured: Measured, metric: str) -> float:
    figure = measured.get(metric)
    return math.nan if figure is None else figure


def _effect(
    name: str, compression: float, metric: str, figures: Sequence[tuple[float, float]], knobs: Mapping[str, Knob]
) -> Effect:
    count = len(figures)
    gains = [one - other for one, other in figures]
    mean = sum(gains) / count
    variance = sum((gain - mean) ** 2 for gain in gains) / (count - 1) if count > 1 else 0.0
    return Effect(
        variant=name,
        compression=compression,
        metric=metric,
        auc=sum(one for one, _ in figures) / count,
        gain=mean,
        error=math.sqrt(variance / count),
        knobs=knobs,
    )


def ablation_table(effects: Sequence[Effect]) -> str:
    """A Markdown table for each metric: the default's AUC, then gains in 1e-4, the largest mean effect first."""
    return "\n".join(_table([one for one in effects if one.metric == metric], metric) for metric in _METRICS)


def _table(effects: Sequence[Effect], metric: str) -> str:
    ratios = sorted({effect.compression for effect in effects})
    found = {(effect.variant, effect.compression): effect for effect in effects}
    names = [name for name in dict.fromkeys(effect.variant for effect in effects) if name != "default"]

    def mean_gain(name: str) -> float:
        gains = [found[name, ratio].gain for ratio in ratios if not math.isnan(found[name, ratio].gain)]
        return sum(gains) / len(gains) if gains else -math.inf

    lines = [f"| {_TITLES[metric]} x 1e-4 over the default's | " + " | ".join(f"{ratio:g}x" for ratio in ratios) + " |"]
    lines.append("|---" * (len(ratios) + 1) + "|")
    defaults = [f"{found['default', ratio].auc:.4f}" for ratio in ratios]
    lines.append(f"| *the default's own* | {' | '.join(defaults)} |")
    for name in sorted(names, key=mean_gain, reverse=True):
        cells = [found[name, ratio].text for ratio in ratios]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
