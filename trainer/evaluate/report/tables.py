"""Markdown tables of a finished grid: means with standard errors, and shares of the AUC gap that a method closes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainer.evaluate.cell import CellResult
from trainer.evaluate.statistics import mean_and_error

__all__ = ["Summary", "closed_shares", "markdown", "summarise"]

_METRICS = ("auc", "logloss", "auc_last", "logloss_last")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The results of one method, model and ratio, summarised over the seeds.

    Attributes:
        method: the method's name.
        model: the model's name.
        compression: the compression ratio.
        seeds: the number of seeds.
        mean: the mean of each metric; empty if the method is infeasible.
        error: the standard error of each mean; 0 for a single seed.
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
    summaries = []
    for (model, method, compression), members in groups.items():
        reasons = [member["infeasible"] for member in members if "infeasible" in member]
        statistics = {
            metric: mean_and_error([member[metric] for member in members])
            for metric in _METRICS
            if not reasons and all(member[metric] is not None for member in members)
        }
        summaries.append(
            Summary(
                method=method,
                model=model,
                compression=compression,
                seeds=len(members),
                mean={metric: mean for metric, (mean, _) in statistics.items()},
                error={metric: error for metric, (_, error) in statistics.items()},
                nbytes=max(member.get("bytes", 0) for member in members),
                paper_bytes=max(member.get("paper_bytes", 0) for member in members),
                knobs=members[0]["knobs"],
                infeasible=reasons[0] if reasons else None,
            )
        )
    return summaries


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


def markdown(summaries: Sequence[Summary]) -> str:
    """Returns the tables of the metrics, of the closed shares, and of the bytes and settings."""
    ratios = sorted({one.compression for one in summaries if one.compression != 1})
    parts = []
    for model in dict.fromkeys(one.model for one in summaries):
        of_model = [one for one in summaries if one.model == model]
        methods = list(dict.fromkeys(one.method for one in of_model))
        by_point = {(one.method, one.compression): one for one in of_model}
        for metric, title in (("auc", "AUC"), ("logloss", "log loss"), ("auc_last", "AUC of the last seventh")):
            lines = [_row([f"{model}: {title}", *(f"{ratio:g}x" for ratio in ratios)])]
            lines.append("|---" * (len(ratios) + 1) + "|")
            for method in methods:
                row = [by_point.get((method, 1.0)) or by_point.get((method, ratio)) for ratio in ratios]
                lines.append(_row([method, *(one.cell(metric) if one else "-" for one in row)]))
            parts.append("\n".join(lines))
        parts.extend(_closed(of_model, model, ratios))
    return "\n\n".join([*parts, _details(summaries)]) + "\n"


def _closed(summaries: Sequence[Summary], model: str, ratios: Sequence[float]) -> list[str]:
    lines = []
    for method in ("hotstream", "hotstream-remote"):
        for reference in ("hash", "cafe", "cafe-ml", "cafe-bytes"):
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
        settings = one.infeasible or ", ".join(f"{name} {value}" for name, value in one.knobs.items()) or "-"
        sizes = ["-", "-"] if one.infeasible else [f"{one.nbytes:,}", f"{one.paper_bytes:,}"]
        lines.append(_row([one.method, one.model, f"{one.compression:g}x", *sizes, settings]))
    return "\n".join(lines)
