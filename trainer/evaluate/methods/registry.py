"""The methods by name, and the settings to search for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from trainer.evaluate.methods import (
    adaembed,
    cafe,
    cafe_paper,
    cafe_plus,
    cce,
    cprec,
    dqrm,
    full,
    hashing,
    low_rank,
    mec,
    mixed_dim,
    mpe,
    offline,
    quotient,
    robe,
    saec,
    scma,
)
from trainer.evaluate.methods.method import Brief, Infeasible, Knob, Method

__all__ = ["METHODS", "Entry", "Variant"]

Variant = Mapping[str, Knob]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A method of the comparison.

    Attributes:
        build: builds the method, or returns why the budget is infeasible.
        about: a description in one line.
        knobs: settings that distinguish this entry from others of the same class.
        search: candidate values of further settings, the default first, in the order of the search.
        is_full: whether this is the uncompressed table, which has no compression ratio.
    """

    build: Callable[[Brief], Method | Infeasible]
    about: str
    knobs: Variant = field(default_factory=dict)
    search: Mapping[str, tuple[Knob, ...]] = field(default_factory=dict)
    is_full: bool = False

    @property
    def default(self) -> Variant:
        """The knobs, with the first value of every searched setting."""
        return {**self.knobs, **{name: values[0] for name, values in self.search.items()}}


_THRESHOLDS: tuple[Knob, ...] = (20.0, 5.0, 80.0)
_SCORES: tuple[Knob, ...] = ("field", "raw")
_SPLITS: tuple[Knob, ...] = ("proportional", "equal")
_LEARNING_RATES: Mapping[str, tuple[Knob, ...]] = {"rate_factor": (1.0, 0.5, 2.0)}
_ROWS: Mapping[str, tuple[Knob, ...]] = {"row_format": ("float32", "bfloat16", "int8"), **_LEARNING_RATES}
_PAPER: Mapping[str, tuple[Knob, ...]] = {
    "threshold": _THRESHOLDS,
    "score": _SCORES,
    "unique_share": (0.7, 0.5, 0.9),
    **_LEARNING_RATES,
}
_TIERED: Mapping[str, tuple[Knob, ...]] = {"unique_share": (0.5, 0.8), **_ROWS}
_PIECES: Mapping[str, tuple[Knob, ...]] = {"parts": (4.0, 2.0, 8.0)}
_OURS: Variant = {"row_format": "int8", "slots_per_row": 2.4, "split": "equal", "score": "raw"}

METHODS: dict[str, Entry] = {
    "full": Entry(build=full.build, about="a row for every feature", search=_LEARNING_RATES, is_full=True),
    "offline": Entry(
        build=offline.build,
        about="an oracle: rows for the most frequent of the whole run",
        search={"unique_share": (0.8, 0.5), **_ROWS},
    ),
    "hash": Entry(build=hashing.build, about="one hashed row", search={"split": _SPLITS, **_ROWS}),
    "double-hash": Entry(
        build=hashing.build_double,
        about="two hashed rows, no vocabulary",
        knobs={"split": "equal"},
        search={"operation": ("add", "multiply"), **_ROWS},
    ),
    "qr": Entry(
        build=quotient.build,
        about="quotient and remainder rows",
        search={"operation": ("multiply", "add"), **_ROWS},
    ),
    "robe": Entry(build=robe.build, about="blocks of one shared array", search={"block": (8.0, 16.0, 4.0), **_ROWS}),
    "mde": Entry(build=mixed_dim.build, about="shorter rows for larger fields", search=_ROWS),
    "adaembed": Entry(build=adaembed.build, about="rows for the most important, zero for the rest", search=_ROWS),
    "cafe": Entry(build=cafe_paper.build, about="CAFE as published", search=_PAPER),
    "cafe-ml": Entry(
        build=cafe_paper.build,
        about="CAFE as published, two levels",
        knobs={"levels": 2.0},
        search=_PAPER,
    ),
    "cafe-plus": Entry(
        build=cafe_plus.build,
        about="CAFE+: a window before the sketch, and a threshold that sets itself",
        search={
            "growth": (1.0000005, 1.001),
            "score": _SCORES,
            "unique_share": (0.7, 0.5, 0.9),
            **_LEARNING_RATES,
        },
    ),
    "cprec": Entry(build=cprec.build, about="nested widths by popularity within a field", search=_TIERED),
    "low-rank": Entry(
        build=low_rank.build, about="rare features in the principal directions of the frequent ones", search=_TIERED
    ),
    "dqrm": Entry(
        build=dqrm.build,
        about="hashed rows in four bits, with a scale for each field that is renewed periodically",
        search={"period": (200.0, 50.0), "split": ("equal", "proportional"), **_LEARNING_RATES},
    ),
    "mpe": Entry(build=mpe.build, about="precision by rank", search={"unique_share": (0.5, 0.8), **_LEARNING_RATES}),
    "mpe-low": Entry(
        build=mpe.build,
        about="precision by rank, down to two bits",
        knobs={"bits": "8-4-2"},
        search={"unique_share": (0.5, 0.8), **_LEARNING_RATES},
    ),
    "saec": Entry(
        build=saec.build, about="rows for the hottest, codes of their field's centroids for the next", search=_TIERED
    ),
    "mec": Entry(
        build=mec.build,
        about="rows for the hottest, product-quantised codes for the next, hashed codes for the rest",
        search={**_PIECES, **_TIERED},
    ),
    "cce": Entry(
        build=cce.build, about="a centroid and a hashed correction, clustered again", search={**_PIECES, **_TIERED}
    ),
    "scma": Entry(
        build=scma.build,
        about="blocks of one memory, shared by features that occur together",
        search={**_PIECES, "unique_share": (0.5, 0.2), **_ROWS},
    ),
    "cafe-bytes": Entry(
        build=cafe_paper.build,
        about="CAFE's rules over our row format, slots and raw norm",
        knobs=_OURS,
        search={"threshold": _THRESHOLDS, "unique_share": (0.85, 0.97, 0.7), **_LEARNING_RATES},
    ),
    "hotstream": Entry(build=cafe.build, about="ours: nothing of its own to tune", search=_LEARNING_RATES),
    "hotstream-remote": Entry(
        build=cafe.build_remote, about="ours, the agent's memory elsewhere and not counted", search=_LEARNING_RATES
    ),
}
