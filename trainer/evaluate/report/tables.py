"""What a finished grid says: means and standard errors, shares of the gap that are closed, as Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from trainer.evaluate.cell import Measured

__all__ = ["Summary", "closed_shares", "markdown", "summarise"]

_METRICS = ("auc", "logloss", "auc_last", "logloss_last")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One method, model and ratio over its seeds.

    Attributes:
        method: by name.
        model: likewise.
        compression: ratio.
        seeds: how many.
        mean: of each metric; empty if it is infeasible.
        error: standard error of each mean; 0 for a single seed, which says nothing.
        nbytes: all bytes, of the largest seed.
        paper_bytes: what the CAFE paper would count.
        knobs: the settings that were best.
        infeasible: why there are no figures.
    """

    method: str
    model: str
    compression: float
    seeds: int
    mean: dict[str, float]
    error: dict[str, float]
    nbytes: int
    paper_bytes: int
    knobs: dict[str, str | float]
    infeasible: str | None = None

    def cell(self, metric: str) -> str:
        """The mean, with its error where there are seeds enough."""
        if metric not in self.mean:
            return "infeasible" if self.infeasible else "-"
        error = f" ± {self.error[metric] * 1e4:.0f}" if self.seeds > 1 else ""
        return f"{self.mean[metric]:.4f}{error}"


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, 0.0
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))


def summarise(cells: Sequence[Measured]) -> list[Summary]:
    """The cells grouped by model, method and ratio, in their order."""
    groups: dict[tuple[str, str, float], list[Measured]] = {}
    for cell in cells:
        groups.setdefault((cell["model"], cell["method"], cell["compression"]), []).append(cell)
    summaries = []
    for (model, method, compression), members in groups.items():
        reasons = [member["infeasible"] for member in members if "infeasible" in member]
        figures = {
            metric: _mean_and_error([member[metric] for member in members])
            for metric in _METRICS
            if not reasons and all(member[metric] is not None for member in members)
        }
        summaries.append(
            Summary(
                method=method,
                model=model,
                compression=compression,
                seeds=len(members),
                mean={metric: mean for metric, (mean, _) in figures.items()},
                error={metric: error for metric, (_, error) in figures.items()},
                nbytes=max(member.get("bytes", 0) for member in members),
                paper_bytes=max(member.get("paper_bytes", 0) for member in members),
                knobs=members[0]["knobs"],
                infeasible=reasons[0] if reasons else None,
            )
        )
    return summaries


def closed_shares(summaries: Sequence[Summary], method: str, reference: str) -> dict[tuple[str, float], float]:
    """By (model, ratio): the share of AUC(full) - AUC(reference) that the method closes, where all three are known."""
    auc = {(one.model, one.method, one.compression): one.mean["auc"] for one in summaries if "auc" in one.mean}
    shares = {}
    for (model, name, compression), value in auc.items():
        full, other = auc.get((model, "full", 1.0)), auc.get((model, reference, compression))
        if name == method and full is not None and other is not None and full > other:
            shares[model, compression] = (value - other) / (full - other)
    return shares


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def markdown(summaries: Sequence[Summary]) -> str:
    """The tables: AUC of every method and ratio, what is closed, and each place's bytes and settings."""
    ratios = sorted({one.compression for one in summaries if one.compression != 1})
    parts = []
    for model in dict.fromkeys(one.model for one in summaries):
        here = [one for one in summaries if one.model == model]
        methods = list(dict.fromkeys(one.method for one in here))
        found = {(one.method, one.compression): one for one in here}
        for metric, title in (("auc", "AUC"), ("logloss", "log loss"), ("auc_last", "AUC of the last seventh")):
            lines = [_row([f"{model}: {title}", *(f"{ratio:g}x" for ratio in ratios)])]
            lines.append("|---" * (len(ratios) + 1) + "|")
            for method in methods:
                ones = [found.get((method, 1.0)) or found.get((method, ratio)) for ratio in ratios]
                lines.append(_row([method, *(one.cell(metric) if one else "-" for one in ones)]))
            parts.append("\n".join(lines))
        parts.extend(_closed(here, model, ratios))
    return "\n\n".join([*parts, _details(summaries)]) + "\n"


def _closed(summaries: Sequence[Summary], model: str, ratios: Sequence[float]) -> list[str]:
    lines = []
    for method in ("cafe", "cafe-remote"):
        for reference in ("hash", "cafe-paper", "cafe-paper-2", "cafe-paper-bytes"):
            shares = closed_shares(summaries, method, reference)
            if shares:
                cells = [f"{100 * shares[model, ratio]:.0f} %" if (model, ratio) in shares else "-" for ratio in ratios]
                lines.append(_row([f"{method} of (full - {reference})", *cells]))
    if not lines:
        return []
    head = [_row([f"{model}: share closed", *(f"{ratio:g}x" for ratio in ratios)]), "|---" * (len(ratios) + 1) + "|"]
    return ["\n".join([*head, *lines])]


def _details(summaries: Sequence[Summary]) -> str:
    lines = [_row(["method", "model", "ratio", "all bytes", "paper's bytes", "settings"]), "|---" * 6 + "|"]
    for one in summaries:
        said = one.infeasible or ", ".join(f"{name} {value}" for name, value in one.knobs.items()) or "-"
        sizes = ["-", "-"] if one.infeasible else [f"{one.nbytes:,}", f"{one.paper_bytes:,}"]
        lines.append(_row([one.method, one.model, f"{one.compression:g}x", *sizes, said]))
    return "\n".join(lines)
