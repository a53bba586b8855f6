"""What our own runs measured, for the estimates of `hotstream advise`: `measured.json`, from `benchmarks/results`.

`make figures` writes it (`trainer.evaluate.report.advice`), and a test fails while it differs from the result files.
Nothing in it is interpolated: a ratio, a dimension or a stream that was not run has no figure.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

__all__ = ["Measured", "QualityCost", "load_measured"]

_ROW_FORMAT = "int8"  # of `hotstream evaluate --methods hotstream`
_PATH = Path(__file__).with_name("measured.json")


@dataclass(frozen=True, kw_only=True)
class QualityCost:
    """What one compression cost on one stream.

    Attributes:
        source: the result file in `benchmarks/results`.
        stream: what the rows were.
        rows: the number of rows.
        dim: D.
        seeds: the number of seeds.
        compression: the ratio.
        auc: the AUC over all rows that the uncompressed table reaches minus that of `hotstream`, mean over the seeds.
        error: its standard error.
    """

    source: str
    stream: str
    rows: int
    dim: int
    seeds: int
    compression: float
    auc: float
    error: float


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The figures.

    Attributes:
        quality: what the ratios cost.
        agent_features_per_s: features of importance records that an agent counts on one core, Kafka included.
        agent_clicks_features_per_s: the same from click records (`--signal frequency`).
        agent_source: the result file and the machine of the two.
    """

    quality: tuple[QualityCost, ...]
    agent_features_per_s: float
    agent_clicks_features_per_s: float
    agent_source: str

    def costs(self, dim: int, row_format: str) -> tuple[QualityCost, ...]:
        """The costs at this dimension; none for another row format than the one that was measured."""
        return tuple(one for one in self.quality if one.dim == dim and row_format == _ROW_FORMAT)


@lru_cache(maxsize=1)
def load_measured() -> Measured:
    """The figures that came with this version."""
    content = json.loads(_PATH.read_text())
    return Measured(**{**content, "quality": tuple(QualityCost(**one) for one in content["quality"])})
