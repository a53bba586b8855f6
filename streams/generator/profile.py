"""The generator's fitted parameters, loaded from `criteo_profile.toml`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any, TypeVar

from streams.errors import ConfigError
from streams.toml_parser import parse_toml

__all__ = ["DenseProfile", "FieldProfile", "Figures", "Profile", "load_profile"]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Statistics of the first rows of the fitted file, which generated rows must reproduce.

    A missing value counts as one value of its field.

    Args:
        rows: number of rows.
        distinct: number of distinct (field, value) pairs in them.
        once_share: share of the pairs that occur once.
        top_shares: shares of the lookups of the most frequent 0.1 %, 1 % and 10 % of the pairs.
    """

    rows: int
    distinct: int
    once_share: float
    top_shares: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class DenseProfile:
    """One dense column.

    Args:
        name: I1 to I13.
        missing_group: columns of one group are missing in the same rows.
        missing: share of the rows without a value.
        mean: mean of the values.
        offset: added to a value before the logarithm; the least value plus offset is at least 1.
        log_quantiles: quantiles of log(value + offset) at evenly spaced probabilities from 0 to 1.
    """

    name: str
    missing_group: int
    missing: float
    mean: float
    offset: int
    log_quantiles: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class FieldProfile:
    """One categorical column.

    Args:
        name: C1 to C26.
        missing_group: columns of one group are missing in the same rows.
        missing: share of the rows without a value.
        cardinality: number of distinct values.
        turnover_per_day: far swaps of a pair of ranks per day, see `popularity`.
        tail_mass: share of the lookups of present values that the tail receives.
        tail_exponent: exponent of the tail's density (rank + tail_shift)^-tail_exponent.
        tail_shift: shift of that density.
        head: shares of the most frequent values, falling; they and `tail_mass` add up to 1.
    """

    name: str
    missing_group: int
    missing: float
    cardinality: int
    turnover_per_day: float
    tail_mass: float
    tail_exponent: float
    tail_shift: float
    head: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The parameters of a log: D dense columns, F fields, and the figures to reproduce."""

    figures: Figures
    dense: tuple[DenseProfile, ...]
    fields: tuple[FieldProfile, ...]


Part = TypeVar("Part")


def _read(kind: Callable[..., Part], table: dict[str, Any]) -> Part:
    try:
        return kind(**{name: tuple(item) if isinstance(item, list) else item for name, item in table.items()})
    except TypeError as error:
        raise ConfigError(f"criteo_profile.toml: {error}; refit it with `python -m streams.generator.fit`") from error


@lru_cache(maxsize=1)
def load_profile() -> Profile:
    """The built-in profile, fitted by `streams.generator.fit`."""
    table = parse_toml((files("streams.generator") / "criteo_profile.toml").read_text())
    return Profile(
        figures=_read(Figures, table["figures"]),
        dense=tuple(_read(DenseProfile, column) for column in table["dense"]),
        fields=tuple(_read(FieldProfile, column) for column in table["field"]),
    )
