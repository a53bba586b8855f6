"""Renders the figures that `hotstream advise` shows (`trainer.advise.measured`) from the result files."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trainer.advise.measured import Measured, QualityCost
from trainer.evaluate.report.tables import summarise
from trainer.evaluate.statistics import paired_difference

__all__ = ["render_measured"]

_OURS, _FULL, _AUC = "hotstream", "full", "auc"


def render_measured(results: Path) -> str:
    """The text of `measured.json` from a folder of result files."""
    pipeline = json.loads((results / "pipeline.json").read_text())
    machine = pipeline["machine"]
    quality = [cost for path in sorted(results.glob("evaluate-*.json")) for cost in _costs(path)]
    measured = Measured(
        quality=tuple(quality),
        agent_features_per_s=pipeline["agent"]["features_per_s"],
        agent_clicks_features_per_s=pipeline["clicks_agent"]["features_per_s"],
        agent_source=f"pipeline.json, {machine['cpu']}, {pipeline['broker']} broker",
    )
    return json.dumps(asdict(measured), indent=2) + "\n"


def _costs(path: Path) -> list[QualityCost]:
    """The costs in one comparison of the preset `reference`, at every ratio; none if a method of the two is missing."""
    content = json.loads(path.read_text())
    if content.get("preset", {}).get("name") != "reference" or content.get("recovery"):
        return []
    summaries = {
        (one.method, one.compression): one for one in summarise(content.get("cells", [])) if one.model == "dlrm"
    }
    full = summaries.get((_FULL, 1.0))
    rows = max((cell["rows"] for cell in content.get("cells", [])), default=0)
    found = []
    for (method, compression), one in summaries.items():
        if method != _OURS or full is None or _AUC not in one.by_seed or _AUC not in full.by_seed:
            continue
        mean, error = paired_difference(full.by_seed[_AUC], one.by_seed[_AUC])
        found.append(
            QualityCost(
                source=path.name,
                stream=_stream(content["source"]),
                rows=rows,
                dim=content["preset"]["dim"],
                seeds=len(set(full.by_seed[_AUC]) & set(one.by_seed[_AUC])),
                compression=float(compression),
                auc=round(mean, 6),
                error=round(error, 6),
            )
        )
    return found


def _stream(source: dict[str, Any]) -> str:
    if source["kind"] == "generator":
        return f"generator, seed {source['world']}"
    return f"tokens of {source['root']}"
