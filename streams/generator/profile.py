"""The fitted numbers that the generator draws from, read from `criteo_profile.toml`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any, TypeVar

from streams.errors import ConfigError

__all__ = ["DenseProfile", "FieldProfile", "Figures", "Profile", "load_profile"]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What the fitted file's first rows show, and generated rows are held to; missing is one value per field.

    Args:
        rows: how many rows were looked at.
        distinct: distinct (field, value) pairs in them.
        once_share: share of the distinct that is met once.
        top_shares: share of the lookups that the commonest .1 %, 1 % and 10 % of the distinct take.
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
        offset: what is added before the logarithm, so that the least value becomes 0.
        log_quantiles: log(value + offset) at evenly spaced shares from 0 to 1.
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
        cardinality: distinct values.
        turnover_per_day: share of the values that trade places with the field's far tail in a day.
        tail_mass: share of the present values' lookups that are not the head's.
        tail_exponent: of the density (rank + tail_shift)^-tail_exponent.
        tail_shift: see there.
        head: shares of the commonest values, falling; with the tail they make 1.
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
    """A whole log: D dense columns, F fields, and the figures to be met."""

    figures: Figures
    dense: tuple[DenseProfile, ...]
    fields: tuple[FieldProfile, ...]


Part = TypeVar("Part")


def _read(kind: Callable[..., Part], table: dict[str, Any]) -> Part:
    try:
        return kind(**{name: tuple(item) if isinstance(item, list) else item for name, item in table.items()})
    except TypeError as error:
        raise ConfigError(f"criteo_profile.toml: {error}; fit it again with streams.generator.fit") from error


@lru_cache(maxsize=1)
def load_profile() -> Profile:
    """The built-in profile, fitted by `streams.generator.fit`."""
    toml: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    table = toml.loads((files("streams.generator") / "criteo_profile.toml").read_text())
    return Profile(
        figures=_read(Figures, table["figures"]),
        dense=tuple(_read(DenseProfile, column) for column in table["dense"]),
        fields=tuple(_read(FieldProfile, column) for column in table["field"]),
    )
