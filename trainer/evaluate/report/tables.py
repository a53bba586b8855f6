"""Markdown tables of a finished grid: means with errors, paired differences, shares of a gap, bytes and settings.

Each table is about one model and has a column for each ratio. The documents show single tables, `table.md` all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from trainer.evaluate.anchor import Anchor
from trainer.evaluate.cell import CellResult
from trainer.evaluate.statistics import mean_and_error, paired_difference

__all__ = [
    "AUC_TITLES",
    "Summary",
    "closed_shares",
    "closed_table",
    "markdown",
    "metric_table",
    "paired_differences",
    "paired_table",
    "settings_table",
    "summarise",
]

AUC_TITLES = {"auc": "AUC", "auc_last_60": "AUC of the last 60 %", "auc_last": "AUC of the last seventh"}
_TITLES = {**AUC_TITLES, "logloss": "log loss"}
_OURS = ("hotstream", "hotstream-remote")
_ORACLE = "offline"
_REFERENCES = ("hash", "cafe", "cafe-ml", "cafe-plus", "cafe-bytes")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The results of one method, model and ratio, summarised over the seeds.

    Attributes:
        method: the method's name.
        model: the model's name.
        compression: the compression ratio.
        seeds: the number of seeds.
        mean: the mean of each metric that all seeds have; empty if the method is infeasible.
        error: the standard error of each mean; 0 for a single seed.
        by_seed: the values of each metric of `mean`, by seed.
        nbytes: all bytes, the maximum over the seeds.
        paper_bytes: the bytes that the CAFE paper counts, the maximum over the seeds.
        knobs: the best settings.
        infeasible: why the method is infeasible at this ratio; None if it is feasible.
    """

    method: str
    model: str
    compression: float
    seeds: int
    mean: dict[str, float]
    error: dict[str, float]
    by_seed: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    nbytes: int
    paper_bytes: int
    knobs: dict[str, str | float]
    infeasible: str | None = None

    def cell(self, metric: str) -> str:
        """Returns the mean as text, with its error if there are several seeds."""
        if metric not in self.mean:
            return "infeasible" if self.infeasible else "-"
        error = f" ± {self.error[metric] * 1e4:.0f}" if self.seeds > 1 else ""
        return f"{self.mean[metric]:.4f}{error}"


def summarise(cells: Sequence[CellResult]) -> list[Summary]:
    """Summarises the cells by model, method and ratio, in their order."""
    groups: dict[tuple[str, str, float], list[CellResult]] = {}
    for cell in cells:
        groups.setdefault((cell["model"], cell["method"], cell["compression"]), []).append(cell)
    return [_summary(*point, members) for point, members in groups.items()]


def _summary(model: str, method: str, compression: float, members: Sequence[CellResult]) -> Summary:
    reasons = [member["infeasible"] for member in members if "infeasible" in member]
    by_seed = {
        metric: {member["seed"]: member[metric] for member in members}
        for metric in _TITLES
        if not reasons and all(member.get(metric) is not None for member in members)  # older files have fewer metrics
    }
    statistics = {metric: mean_and_error(list(values.values())) for metric, values in by_seed.items()}
    return Summary(
        method=method,
        model=model,
        compression=compression,
        seeds=len(members),
        mean={metric: mean for metric, (mean, _) in statistics.items()},
        error={metric: error for metric, (_, error) in statistics.items()},
        by_seed=by_seed,
        nbytes=max(member.get("bytes", 0) for member in members),
        paper_bytes=max(member.get("paper_bytes", 0) for member in members),
        knobs=members[0]["knobs"],
        infeasible=reasons[0] if reasons else None,
    )


def closed_shares(summaries: Sequence[Summary], method: str, reference: str) -> dict[tuple[str, float], float]:
    """Returns the share of AUC(full) - AUC(reference) that the method closes, by (model, ratio)."""
    auc = {(one.model, one.method, one.compression): one.mean["auc"] for one in summaries if "auc" in one.mean}
    shares = {}
    for (model, name, compression), value in auc.items():
        full, other = auc.get((model, "full", 1.0)), auc.get((model, reference, compression))
        if name == method and full is not None and other is not None and full > other:
            shares[model, compression] = (value - other) / (full - other)
    return shares


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _ratios(summaries: Sequence[Summary]) -> list[float]:
    return sorted({one.compression for one in summaries if one.compression != 1})


def _table(title: str, ratios: Sequence[float], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table with a column for each ratio; each row begins with its name."""
    head = [_row([title, *(f"{ratio:g}x" for ratio in ratios)]), "|---" * (len(ratios) + 1) + "|"]
    return "\n".join([*head, *(_row(row) for row in rows)])


def metric_table(summaries: Sequence[Summary], model: str, metric: str) -> str:
    """Returns the means of a metric by method and ratio; the full table's value is repeated at every ratio."""
    ratios = _ratios(summaries)
    by_point = {(one.method, one.compression): one for one in summaries if one.model == model}
    rows = []
    for method in dict.fromkeys(method for method, _ in by_point):
        points = [by_point.get((method, 1.0)) or by_point.get((method, ratio)) for ratio in ratios]
        rows.append([method, *(one.cell(metric) if one else "-" for one in points)])
    return _table(f"{model}: {_TITLES[metric]}", ratios, rows)


def paired_differences(summaries: Sequence[Summary], model: str, other: str) -> dict[float, tuple[float, float]]:
    """Returns mean and standard error of AUC(hotstream) - AUC(other) by seed in units of 1e-4, by ratio."""
    by_point = {(one.method, one.compression): one for one in summaries if one.model == model}
    found = {
        ratio: _difference(by_point.get(("hotstream", ratio)), by_point.get((other, ratio)), "auc")
        for ratio in _ratios(summaries)
    }
    return {ratio: difference for ratio, difference in found.items() if difference}


def _difference(ours: Summary | None, other: Summary | None, metric: str) -> tuple[float, float] | None:
    """Returns mean and standard error of the difference in units of 1e-4; None without a common seed."""
    one, two = (side.by_seed.get(metric, {}) if side else {} for side in (ours, other))
    if not set(one) & set(two):
        return None
    mean, error = paired_difference(one, two)
    return mean * 1e4, error * 1e4


def paired_table(summaries: Sequence[Summary], model: str) -> str:
    """Returns `hotstream` minus other methods in units of 1e-4, by seed: mean and standard error of the difference.

    The others are `robe`, the oracle, and at each ratio the best of all other compressed methods, which is named.
    Returns an empty text if there is nothing to compare.
    """
    ratios = _ratios(summaries)
    of_model = [one for one in summaries if one.model == model]
    rows = [row for metric in AUC_TITLES for row in _paired_rows(of_model, ratios, metric)]
    return _table(f"{model}: hotstream minus the other, x 1e-4", ratios, rows) if rows else ""


def _paired_rows(summaries: Sequence[Summary], ratios: Sequence[float], metric: str) -> Iterator[list[str]]:
    by_point = {(one.method, one.compression): one for one in summaries if metric in one.mean}
    others = [one for one in by_point.values() if one.compression != 1 and one.method not in (*_OURS, _ORACLE)]
    best = {
        ratio: max((one for one in others if one.compression == ratio), key=lambda one: one.mean[metric], default=None)
        for ratio in ratios
    }
    columns = {name: {ratio: by_point.get((name, ratio)) for ratio in ratios} for name in ("robe", _ORACLE)}
    for name, found in {**columns, "the best other": best}.items():
        cells = [_paired_cell(by_point.get(("hotstream", ratio)), found[ratio], metric, name) for ratio in ratios]
        if any(cell != "-" for cell in cells):
            yield [f"{AUC_TITLES[metric]}: {name}", *cells]


def _paired_cell(ours: Summary | None, other: Summary | None, metric: str, name: str) -> str:
    difference = _difference(ours, other, metric)
    if difference is None or other is None:
        return "-"
    mean, error = difference
    text = f"{mean:+.1f}" + (f" ± {error:.1f}" if error else "")
    return text if name == other.method else f"{text} ({other.method})"


def closed_table(summaries: Sequence[Summary], model: str) -> str:
    """Returns the shares of AUC(full) - AUC(reference) that our methods close; an empty text if there are none."""
    ratios = _ratios(summaries)
    rows = []
    for method in _OURS:
        for reference in _REFERENCES:
            shares = closed_shares(summaries, method, reference)
            cells = [f"{100 * shares[model, ratio]:.0f} %" if (model, ratio) in shares else "-" for ratio in ratios]
            if any(cell != "-" for cell in cells):
                rows.append([f"{method} of (full - {reference})", *cells])
    return _table(f"{model}: share closed", ratios, rows) if rows else ""


def settings_table(summaries: Sequence[Summary]) -> str:
    """Returns bytes and best settings of every method, model and ratio."""
    lines = [_row(["method", "model", "ratio", "all bytes", "paper's bytes", "settings"]), "|---" * 6 + "|"]
    for one in summaries:
        settings = one.infeasible or ", ".join(f"{name} {value}" for name, value in one.knobs.items()) or "-"
        sizes = ["-", "-"] if one.infeasible else [f"{one.nbytes:,}", f"{one.paper_bytes:,}"]
        lines.append(_row([one.method, one.model, f"{one.compression:g}x", *sizes, settings]))
    return "\n".join(lines)


def markdown(summaries: Sequence[Summary], *, anchor: Anchor | None = None, too_short: str | None = None) -> str:
    """Returns all tables: the metrics, paired differences and closed shares of each model, then the settings.

    Args:
        summaries: the results.
        anchor: the regression on the same rows, which gets a line of its own.
        too_short: why the results compare nothing; then there are no differences and no shares.
    """
    parts: list[str] = []
    if too_short is not None:
        parts.append(f"**{too_short[0].upper()}{too_short[1:]}.**")
    if anchor is not None and anchor.auc is not None and anchor.logloss is not None:
        parts.append(
            f"One pass of logistic regression over the same {anchor.rows:,} rows, a weight for every feature: AUC "
            f"{anchor.auc:.4f}, log loss {anchor.logloss:.4f}."
        )
    for model in dict.fromkeys(one.model for one in summaries):
        parts.extend(metric_table(summaries, model, metric) for metric in _TITLES)
        if too_short is None:
            parts.extend([paired_table(summaries, model), closed_table(summaries, model)])
    return "\n\n".join(part for part in [*parts, settings_table(summaries)] if part) + "\n"
