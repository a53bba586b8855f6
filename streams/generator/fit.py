"""Fits the generator's profile to the head of a real Criteo log: `python -m streams.generator.fit FILE`.

The profile holds shares, exponents and quantiles; no row and no token. Per categorical column:

- the shares of its most frequent values (`head`), and
- for all others a Zipf-Mandelbrot tail, density ~ (rank + shift)^-exponent up to the column's cardinality. A grid
  search chooses its two parameters so that the expected numbers of values that occur 1, 2, 3-4, 5-8 and more times are
  those of the file, and so that a log of full length is expected to contain nearly all values.

Per dense column: quantiles of log(value + offset), the last of them chosen so that the mean is that of the file.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt

from streams.generator.bisection import bisect
from streams.generator.popularity import tail_shares

__all__ = ["fit_profile"]

Floats = npt.NDArray[np.float64]
# Criteo Kaggle, all values counted; the head of the log does not determine them.
CARDINALITIES = (
    *(1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194),
    *(27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572),
)
FULL_ROWS = 45_840_617
FITTED_ROWS = 10_000
HEAD_VALUES = 63
HEAD_MIN_COUNT = 12
NUM_DENSE = 13
NUM_QUANTILES = 33
# Fields with few values (a country, a banner position) do not drift. In the others one pair of ranks in ten makes a far
# swap a day: then 16 % of the lookups a day later are values that the first 10,000 rows do not contain.
STABLE_CARDINALITY = 400
TURNOVER_PER_DAY = 0.1


def count_spectrum(counts: Floats, weights: Floats) -> Floats:
    """The expected numbers of values that occur 1, 2, 3-4, 5-8 and more than 8 times, if counts are Poisson: (5,).

    Args:
        counts: (N,) means of the counts.
        weights: (N,) numbers of values with each mean.
    """
    pmf = [weights * np.exp(-counts)]
    for times in range(1, 9):
        pmf.append(pmf[-1] * counts / times)
    once, twice, few = pmf[1].sum(), pmf[2].sum(), (pmf[3] + pmf[4]).sum()
    some = sum(pmf[5:], np.zeros(1)).sum()
    return np.array([once, twice, few, some, weights.sum() - pmf[0].sum() - once - twice - few - some])


def fit_tail(
    observed: Floats, first: int, cardinality: int, lookups: float, full_lookups: float
) -> tuple[float, float]:
    """The exponent and shift of the tail whose expected count spectrum is nearest to the observed one.

    Args:
        observed: (5,) count spectrum of the values outside the head.
        first: rank of the tail's first value.
        cardinality: number of ranks, head included.
        lookups: lookups of the tail in the file.
        full_lookups: lookups of the tail in the whole log.
    """
    edges = np.unique(np.geomspace(1, cardinality - first + 1, 600).astype(np.int64)) + first - 1
    widths = np.diff(edges).astype(np.float64)

    def misfit(exponent: float, shift: float) -> float:
        means = tail_shares(edges, exponent, shift) / widths * lookups
        expected = count_spectrum(means, widths)
        coverage = (widths * -np.expm1(-means * full_lookups / lookups)).sum() / cardinality
        return float(((expected - observed) ** 2 / (observed + 3)).sum() + 4 * math.log(coverage) ** 2 * lookups / 100)

    best, span = (1.2, math.log(10.0 + first)), (1.1, 8.0)
    for _ in range(8):  # a grid that shrinks around its best point
        exponents = best[0] + span[0] * np.linspace(-1, 1, 15)
        log_shifts = best[1] + span[1] * np.linspace(-1, 1, 15)
        _, *point = min(
            (misfit(e, math.exp(s)), e, s) for e in exponents for s in log_shifts if 0.05 < e < 6 and -3 < s < 17
        )
        best, span = (point[0], point[1]), (span[0] * 0.45, span[1] * 0.45)
    return best[0], math.exp(best[1])


def fit_field(tokens: list[str], cardinality: int) -> dict[str, object]:
    """The popularity profile of one categorical column."""
    counts = np.sort(np.array(list(Counter(token for token in tokens if token).values()), np.float64))[::-1]
    present = counts.sum()
    is_small = cardinality <= HEAD_VALUES
    num_head = len(counts) if is_small else min(HEAD_VALUES, int((counts >= HEAD_MIN_COUNT).sum()))
    rest = counts[num_head:]
    tail_mass = max(rest.sum(), 0.5) / present if cardinality > num_head else 0.0
    head = counts[:num_head] / present
    exponent, shift = 2.0, 1.0
    if len(rest):
        bounds = [1, 2, 3, 5, 9, np.inf]
        observed = np.histogram(rest, bounds)[0].astype(np.float64)
        full = tail_mass * present / len(tokens) * FULL_ROWS
        exponent, shift = fit_tail(observed, num_head, cardinality, rest.sum(), full)
    return {
        "cardinality": cardinality,
        "missing": tokens.count("") / len(tokens),
        "turnover_per_day": 0.0 if cardinality < STABLE_CARDINALITY else TURNOVER_PER_DAY,
        "tail_mass": tail_mass,
        "tail_exponent": exponent,
        "tail_shift": shift,
        "head": (head * (1 - tail_mass) / head.sum()).tolist(),
    }


def fit_dense(cells: list[str]) -> dict[str, object]:
    """The quantile profile of one dense column."""
    numbers = np.array([int(cell) for cell in cells if cell], np.float64)
    offset = 1 - min(0, int(numbers.min()))
    logs = np.quantile(np.log(numbers + offset), np.linspace(0, 1, NUM_QUANTILES))

    def is_below(last: float) -> bool:
        logs[-1] = last
        steps = np.diff(logs)
        is_flat = steps < 1e-6
        areas = np.where(is_flat, np.exp(logs[:-1]), np.diff(np.exp(logs)) / np.where(is_flat, 1.0, steps))
        return bool(areas.mean() - offset < numbers.mean())

    logs[-1] = sum(bisect(is_below, logs[-2], logs[-2] + 12.0, num_steps=59)) / 2
    return {
        "missing": cells.count("") / len(cells),
        "mean": float(numbers.mean()),
        "offset": offset,
        "log_quantiles": logs.tolist(),
    }


def missing_groups(columns: list[list[str]]) -> list[int]:
    """For each column the index of the first column that is missing in (nearly) the same rows."""
    absent = [np.array([cell == "" for cell in column]) for column in columns]
    groups = []
    for number, rows in enumerate(absent):
        same = (other for other in range(number) if (rows & absent[other]).sum() > 0.98 * (rows | absent[other]).sum())
        groups.append(next(same, number) if rows.any() else number)
    return groups


def head_figures(columns: list[list[str]]) -> dict[str, object]:
    """The figures that generated rows must reproduce, see `profile.Figures`."""
    counts = np.sort(np.concatenate([list(Counter(column).values()) for column in columns]))[::-1]
    top = [float(counts[: round(len(counts) * share)].sum() / counts.sum()) for share in (0.001, 0.01, 0.1)]
    return {
        "rows": len(columns[0]),
        "distinct": len(counts),
        "once_share": float((counts == 1).mean()),
        "top_shares": top,
    }


def _lines(table: dict[str, object]) -> list[str]:
    def number(item: object) -> str:
        return f'"{item}"' if isinstance(item, str) else f"{item:.5g}" if isinstance(item, float) else f"{item}"

    def text(item: object) -> str:
        return f"[{', '.join(map(number, item))}]" if isinstance(item, list) else number(item)

    return [f"{name} = {text(item)}" for name, item in table.items()]


def fit_profile(path: Path) -> str:
    """The profile of the log's first 10,000 rows, as TOML."""
    with path.open() as lines:
        rows = [line.rstrip("\n").split("\t") for line, _ in zip(lines, range(FITTED_ROWS), strict=False)]
    columns = [list(column) for column in zip(*rows, strict=True)][1:]
    groups = missing_groups(columns)
    text = ["# Fitted by `python -m streams.generator.fit` to the head of Criteo's Kaggle log; see fit.py.", ""]
    text += ["[figures]", *_lines(head_figures(columns[NUM_DENSE:]))]
    for number, column in enumerate(columns[:NUM_DENSE]):
        names = {"name": f"I{number + 1}", "missing_group": groups[number]}
        text += ["", "[[dense]]", *_lines(names | fit_dense(column))]
    for number, (column, cardinality) in enumerate(zip(columns[NUM_DENSE:], CARDINALITIES, strict=True)):
        names = {"name": f"C{number + 1}", "missing_group": groups[NUM_DENSE + number]}
        text += ["", "[[field]]", *_lines(names | fit_field(column, cardinality))]
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    sys.stdout.write(fit_profile(Path(sys.argv[1])))
