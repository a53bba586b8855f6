"""The ablation: varies each default of `hotstream` alone.

Every variant is a cell of the grid with the same byte budget, and is compared with the default's cell of the same seed.
Both share rows, initial weights and hashes, so the difference has a smaller error than either AUC.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trainer.evaluate.cell import Cell, CellResult
from trainer.evaluate.grid import GridConfig, OnCell, run_all
from trainer.evaluate.methods.method import Knob
from trainer.evaluate.statistics import mean_and_error

__all__ = ["VARIANTS", "Effect", "ablation_table", "run_ablation"]

_METHOD = "hotstream"
_TITLES = {"auc": "AUC", "auc_last_60": "AUC of the last 60 %", "auc_last": "AUC of the last seventh"}

VARIANTS: dict[str, Mapping[str, Knob]] = {
    "rows in float32": {"row_format": "float32"},
    "rows in bfloat16": {"row_format": "bfloat16"},
    "hot rows in int4": {"hot_store": "int4"},
    "hot rows of half width": {"hot_store": "half_width"},
    "a tenth of all rows unique": {"unique_share": 0.1},
    "a third of all rows unique": {"unique_share": 1 / 3},
    "half of all rows unique": {"unique_share": 0.5},
    "no second level": {"unique_share": 1.0},
    "level 1 of 1 row a field": {"most_level_1": 1.0},
    "level 1 of up to 16 rows a field": {"most_level_1": 16.0},
    "initial values a fifth as large": {"first_values": 0.2},
    "initial values twice as large": {"first_values": 2.0},
    "sketch .2 buckets a unique row": {"buckets_per_row": 0.2},
    "sketch .5 buckets a unique row": {"buckets_per_row": 0.5},
    "sketch 1 bucket a unique row": {"buckets_per_row": 1.0},
    "half-life 100 events a row": {"half_life": 100.0},
    "half-life 300 events a row": {"half_life": 300.0},
    "half-life 3000 events a row": {"half_life": 3000.0},
    "scores without decay": {"half_life": 1e12},
}


@dataclass(frozen=True, kw_only=True)
class Effect:
    """The effect of a variant at one ratio.

    Attributes:
        variant: the variant's name; `default` for the default itself.
        compression: the compression ratio.
        metric: `auc`, `auc_last_60` (of the last 60 % of the rows) or `auc_last` (of the last seventh).
        auc: the mean over the seeds; NaN, like the gain, if the variant is infeasible.
        gain: the mean over the seeds of the AUC minus that of the default.
        error: the standard error of the gain; 0 for a single seed.
        knobs: the settings that differ from the default.
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
        """The gain and its error in units of 1e-4."""
        if math.isnan(self.gain):
            return "infeasible"
        return f"{self.gain * 1e4:+.0f}" + (f" ± {self.error * 1e4:.0f}" if self.error else "")


def run_ablation(
    config: GridConfig,
    out: Path,
    *,
    jobs: int = 1,
    on_cell: OnCell | None = None,
    variants: Mapping[str, Mapping[str, Knob]] | None = None,
) -> list[Effect]:
    """Runs the cells whose results `out` does not contain, and returns the effect of each variant.

    Args:
        config: source, rows, preset, model (the first one), ratios and seeds; its methods are ignored.
        out: the folder of the results.
        jobs: processes to use.
        on_cell: called with each result, the number of results so far, and the number of cells.
        variants: settings by the variant's name; `VARIANTS` by default.
    """
    model, names = config.models[0], {"default": {}, **(VARIANTS if variants is None else variants)}

    def cell(name: str, compression: float, seed: int) -> Cell:
        return config.cell((_METHOD, model, compression), seed, names[name])

    cells = [cell(name, ratio, seed) for ratio in config.compressions for name in names for seed in config.seeds]
    results = run_all(cells, out, jobs=jobs, on_cell=on_cell)

    def pairs(name: str, compression: float, metric: str) -> list[tuple[float, float]]:
        """Returns the metric of the variant and of the default for each seed; NaN if it is missing."""
        both = [[results[cell(one, compression, seed).name] for one in (name, "default")] for seed in config.seeds]
        return [(_value(variant, metric), _value(default, metric)) for variant, default in both]

    return [
        _effect(name, compression, metric, pairs(name, compression, metric), knobs)
        for compression in config.compressions
        for name, knobs in names.items()
        for metric in _TITLES
    ]


def _value(result: CellResult, metric: str) -> float:
    value = result.get(metric)
    return math.nan if value is None else value


def _effect(
    name: str, compression: float, metric: str, pairs: Sequence[tuple[float, float]], knobs: Mapping[str, Knob]
) -> Effect:
    gain, error = mean_and_error([variant - default for variant, default in pairs])
    return Effect(
        variant=name,
        compression=compression,
        metric=metric,
        auc=sum(variant for variant, _ in pairs) / len(pairs),
        gain=gain,
        error=error,
        knobs=knobs,
    )


def ablation_table(effects: Sequence[Effect]) -> str:
    """Returns a Markdown table for each metric: the default's AUC, then gains in 1e-4, largest mean gain first."""
    by_metric = {metric: [one for one in effects if one.metric == metric] for metric in _TITLES}
    return "\n".join(_table(found, metric) for metric, found in by_metric.items() if found)


def _table(effects: Sequence[Effect], metric: str) -> str:
    ratios = sorted({effect.compression for effect in effects})
    by_variant = {(effect.variant, effect.compression): effect for effect in effects}
    names = [name for name in dict.fromkeys(effect.variant for effect in effects) if name != "default"]

    def mean_gain(name: str) -> float:
        gains = [gain for ratio in ratios if not math.isnan(gain := by_variant[name, ratio].gain)]
        return sum(gains) / len(gains) if gains else -math.inf

    lines = [f"| {_TITLES[metric]} x 1e-4 over the default's | " + " | ".join(f"{ratio:g}x" for ratio in ratios) + " |"]
    lines.append("|---" * (len(ratios) + 1) + "|")
    defaults = [f"{by_variant['default', ratio].auc:.4f}" for ratio in ratios]
    lines.append(f"| *the default* | {' | '.join(defaults)} |")
    for name in sorted(names, key=mean_gain, reverse=True):
        cells = [by_variant[name, ratio].text for ratio in ratios]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
