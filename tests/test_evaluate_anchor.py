"""A regression stands beside the methods, batches follow the rows, and a log that is too short has no winner."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from click.testing import CliRunner
from test_report_tables import made

from trainer.commands.evaluate import command
from trainer.evaluate.anchor import Anchor, find_too_short, fit_regression, scaled_batch_rows
from trainer.evaluate.presets import PRESETS
from trainer.evaluate.report.tables import markdown, summarise
from trainer.evaluate.sources.stream import Stream
from trainer.learning.quality import Quality


def stream_of(rows: int, seed: int = 0) -> tuple[Stream, Quality]:
    """Rows, and the quality of their true scores; the label depends on one field and one dense column of two."""
    random = np.random.default_rng(seed)
    payloads = random.integers(1, 40, (rows, 2)).astype(np.uint64)
    dense = random.random((rows, 2), np.float32) * 9
    score = np.where(payloads[:, 0] % np.uint64(2), 1.5, -1.5) + dense[:, 0] / 3 - 1.5
    dense[:, 1] = np.nan
    label = (random.random(rows) < 1 / (1 + np.exp(-score))).astype(np.int8)
    truth = Quality()
    truth.add(score.astype(np.float32), label)
    return Stream(label=label, dense=dense, keys=payloads | (np.arange(1, 3, dtype=np.uint64) << np.uint64(56))), truth


def test_the_regression_comes_near_the_truth_of_a_linear_log_and_to_one_half_without_one():
    stream, truth = stream_of(6000)
    shown: list[tuple[int, int]] = []
    anchor = fit_regression(stream, lambda *progress: shown.append(progress))
    assert shown == [(done, stream.num_rows) for done in range(0, stream.num_rows, 8000)]
    assert anchor.rows == 6000
    assert 0 < (truth.auc or 0) - (anchor.auc or 0) < 0.04
    assert (truth.log_loss or 0) < (anchor.logloss or 0) < np.log(2)
    shuffled = dataclasses.replace(stream, label=np.random.default_rng(1).permutation(stream.label))
    assert abs((fit_regression(shuffled).auc or 0) - 0.5) < 0.03
    clicks = dataclasses.replace(stream, label=np.ones_like(stream.label))
    assert fit_regression(clicks).auc is None


@pytest.mark.parametrize(
    ("rows", "batch_rows"),
    [(2_000_000, 2048), (500_000, 2048), (409_600, 2048), (409_599, 1024), (23_000, 64), (100, 64)],
)
def test_a_short_log_has_smaller_batches_so_that_there_are_steps_to_learn_in(rows, batch_rows):
    assert scaled_batch_rows(PRESETS["reference"], rows) == batch_rows
    assert scaled_batch_rows(PRESETS["paper"], rows) == min(128, batch_rows)


def test_a_log_on_which_the_full_table_does_not_beat_the_regression_has_no_winner():
    cells = [
        made("full", 1.0, 0.598),
        made("hash", 10.0, 0.59),
        made("cafe", 10.0, 0.597),
        made("hotstream", 10.0, 0.6),
    ]
    anchor = Anchor(rows=23_000, auc=0.708, logloss=0.4)
    reason = find_too_short(cells, anchor)
    assert reason is not None
    text = markdown(summarise(cells), anchor=anchor, too_short=reason)
    assert "**Too short: on these 23,000 rows the uncompressed table reaches an AUC of 0.5980" in text
    assert "AUC 0.7080, log loss 0.4000" in text
    assert "share closed" not in text
    assert "minus the other" not in text
    longer = [made("full", 1.0, 0.75, logloss=0.39), *cells[1:]]
    assert find_too_short(longer, anchor) is None
    text = markdown(summarise(longer), anchor=anchor)
    assert "share closed" in text
    assert "oo short" not in text
    assert find_too_short(cells[1:], anchor) is None, "nothing to compare the regression with"
    assert find_too_short(cells, None) is None


@pytest.mark.parametrize(
    ("auc", "logloss", "why"),
    [
        (0.75, 0.39, None),
        (0.69, 0.39, "reaches an AUC of 0.6900, one pass of logistic regression 0.7080; so"),
        (0.75, 0.41, "reaches a log loss of 0.4100, one pass of logistic regression 0.4000; so"),
        (0.708, 0.4, "an AUC of 0.7080, one pass of logistic regression 0.7080, and a log loss of 0.4000, one pass"),
    ],
)
def test_the_full_table_must_beat_the_regression_by_both_measures(auc, logloss, why):
    cells = [made("full", 1.0, auc - 0.01, logloss=logloss), made("full", 1.0, auc + 0.01, 1, logloss=logloss)]
    reason = find_too_short(cells, Anchor(rows=23_000, auc=0.708, logloss=0.4))
    assert (reason is None) == (why is None)
    assert why is None or why in str(reason)


def test_a_measure_that_one_of_the_two_lacks_decides_nothing():
    cells = [made("full", 1.0, 0.75, logloss=0.39)]
    assert find_too_short(cells, Anchor(rows=10, auc=None, logloss=0.4)) is None
    assert find_too_short([{**cells[0], "auc": None}], Anchor(rows=10, auc=0.7, logloss=0.4)) is None
    assert "a log loss of 0.3900" in str(find_too_short(cells, Anchor(rows=10, auc=None, logloss=0.3)))


def test_the_command_says_that_a_log_is_too_short(tmp_path):
    random = np.random.default_rng(1)
    sites, ads = random.integers(0, 300, 1500), random.integers(0, 2000, 1500)
    lines = [
        f"{int(label)},s{site},a{ad}" for label, site, ad in zip(random.random(1500) < 0.3, sites, ads, strict=True)
    ]
    (tmp_path / "log.csv").write_text("click,site,ad\n" + "\n".join(lines) + "\n")
    (tmp_path / "log.toml").write_text('[log]\nlabel = "click"\ncategorical = ["site", "ad"]\n')
    options = ["--schema", str(tmp_path / "log.toml"), "--methods", "full,hash", "--compression", "3", "--no-search"]
    report = tmp_path / "report.json"
    arguments = [str(tmp_path / "log.csv"), *options, "--out", str(tmp_path / "out"), "--json", str(report)]
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 0, done.output
    content = json.loads(report.read_text())
    assert content["preset"]["batch"] == 64
    assert content["anchor"]["rows"] == 1500
    full, anchor = next(cell for cell in content["cells"] if cell["method"] == "full"), content["anchor"]
    is_beaten = full["auc"] > anchor["auc"] and full["logloss"] < anchor["logloss"]
    assert (content["too_short"] is None) == is_beaten
    assert ("oo short" in (tmp_path / "out" / "table.md").read_text()) == (content["too_short"] is not None)
