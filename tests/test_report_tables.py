"""The tables of a comparison: means, paired differences and closed shares, from files of any age."""

from __future__ import annotations

from typing import Any

import pytest

from trainer.evaluate.report.tables import closed_shares, closed_table, markdown, metric_table, paired_table, summarise
from trainer.evaluate.statistics import paired_difference


def made(method: str, compression: float, auc: float, seed: int = 0, **figures: float) -> dict[str, Any]:
    identity = {"method": method, "model": "dlrm", "compression": compression, "seed": seed, "knobs": {}}
    return {**identity, "auc": auc, "logloss": 0.5, **figures}


def test_a_closed_share_is_a_fraction_of_the_gap_between_the_reference_and_the_full_table() -> None:
    cells = [
        made("full", 1.0, 0.8),
        made("cafe", 10.0, 0.7),
        made("hotstream", 10.0, 0.77),
        made("hotstream", 10.0, 0.79, 1),
    ]
    summaries = summarise(cells)
    assert closed_shares(summaries, "hotstream", "cafe") == {("dlrm", 10.0): pytest.approx(0.8)}
    assert summaries[-1].error["auc"] == pytest.approx(0.01)
    assert "| hotstream of (full - cafe) | 80 % |" in closed_table(summaries, "dlrm")


def test_a_paired_difference_ignores_what_the_seeds_share() -> None:
    mean, error = paired_difference({0: 0.70, 1: 0.80, 2: 0.9}, {1: 0.79, 0: 0.68})
    assert (mean, error) == (pytest.approx(0.015), pytest.approx(0.005))
    with pytest.raises(ValueError, match="at least one in common"):
        paired_difference({0: 0.5}, {1: 0.5})


def test_hotstream_is_compared_by_seed_with_robe_the_oracle_and_the_best_of_the_others_at_each_ratio() -> None:
    cells = [made("full", 1.0, 0.9, seed) for seed in (0, 1)]
    for ratio, hashed in ((10.0, 0.76), (100.0, 0.72)):
        cells += [made("hash", ratio, hashed), made("hash", ratio, hashed, 1)]
        cells += [made("robe", ratio, 0.74), made("robe", ratio, 0.74, 1)]
        cells += [made("offline", ratio, 0.79), made("offline", ratio, 0.80, 1)]
        cells += [made("hotstream", ratio, 0.75), made("hotstream", ratio, 0.77, 1)]
        cells += [made("hotstream-remote", ratio, 0.9), made("hotstream-remote", ratio, 0.9, 1)]
    lines = paired_table(summarise(cells), "dlrm").splitlines()
    assert lines[2:] == [
        "| AUC: robe | +200.0 ± 100.0 | +200.0 ± 100.0 |",
        "| AUC: offline | -350.0 ± 50.0 | -350.0 ± 50.0 |",
        "| AUC: the best other | +0.0 ± 100.0 (hash) | +200.0 ± 100.0 (robe) |",
    ]


def test_the_tables_show_the_auc_of_all_rows_the_last_60_percent_and_the_last_seventh() -> None:
    figures = {"auc_last_60": 0.61, "auc_last": 0.62}
    text = markdown(summarise([made("hash", 10.0, 0.6, **figures), made("hotstream", 10.0, 0.7, **figures)]))
    for title, value in (("AUC", "0.6000"), ("AUC of the last 60 %", "0.6100"), ("AUC of the last seventh", "0.6200")):
        assert f"| dlrm: {title} | 10x |\n|---|---|\n| hash | {value} |" in text
    assert "| AUC of the last seventh: the best other | +0.0 (hash) |" in text


def test_a_file_from_before_a_metric_loads_and_shows_a_dash() -> None:
    summaries = summarise([made("hash", 10.0, 0.6, 0), made("hash", 10.0, 0.6, 1, auc_last_60=0.7)])
    assert "| hash | - |" in metric_table(summaries, "dlrm", "auc_last_60")
    assert "| hash | 0.6000 ± 0 |" in metric_table(summaries, "dlrm", "auc")
