"""The comparison: methods stay within their budgets, cells repeat exactly, grids resume, tables list the runs."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from trainer.commands.evaluate import command
from trainer.evaluate import ablation
from trainer.evaluate import cell as cell_module
from trainer.evaluate import grid as grid_module
from trainer.evaluate.cell import Cell, run_cell
from trainer.evaluate.grid import GridConfig, run_grid
from trainer.evaluate.methods import hashing
from trainer.evaluate.methods.cafe_sketch import CafeSketch, Scorer
from trainer.evaluate.methods.full import Full
from trainer.evaluate.methods.method import Brief, Infeasible
from trainer.evaluate.methods.registry import METHODS, Entry
from trainer.evaluate.methods.row_hash import RowHash, split_rows
from trainer.evaluate.presets import PRESETS
from trainer.evaluate.recovery import Recovery, recoveries
from trainer.evaluate.sources.stream import GeneratorSource, load_stream
from trainer.evaluate.sources.tokens import TokenSource

NUM_ROWS = 8192
SOURCE = GeneratorSource(seed=3)
PRESET = replace(PRESETS["reference"], batch_rows=128)
LARGE_BATCHES = ("--batch-rows", "2048")  # few steps, as the tests look at the tables
TIERED = ("cce", "cprec", "low-rank", "mec", "saec", "scma")  # test_evaluate_tiered.py trains them in int8
RATIOS = (2.0, 10.0, 100.0, 1000.0, 10_000.0)


@pytest.fixture(autouse=True)
def one_thread():
    """Sums do not depend on the machine's cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_cell(method: str, compression: float, seed: int = 0, **knobs) -> Cell:
    return Cell(
        source=SOURCE,
        num_rows=NUM_ROWS,
        preset=PRESET,
        model="dlrm",
        method=method,
        compression=1.0 if METHODS[method].is_full else compression,
        seed=seed,
        knobs={**METHODS[method].default, **knobs},
    )


# ---- methods -------------------------------------------------------------------------------------------------------


def settings(name):
    """Each searched value alone, with defaults for the rest, in every row format of the method."""
    search = {knob: values for knob, values in METHODS[name].search.items() if knob != "rate_factor"}
    formats = search.pop("row_format", (None,))
    varied = [{}, *({knob: value} for knob, values in search.items() for value in values[1:])]
    return [{**one, **({"row_format": stored} if stored else {})} for one in varied for stored in formats]


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("optimizer", ["adagrad", "sgd"])
def test_a_method_never_exceeds_its_budget(name, ratio, optimizer):
    for knobs in settings(name):
        brief = make_cell(name, ratio, **knobs).brief(load_stream(SOURCE, NUM_ROWS))
        brief = Brief(**{**vars(brief), "optimizer": optimizer})
        brief = Brief(**{**vars(brief), "budget_bytes": int(brief.full_bytes / ratio)})
        method = METHODS[name].build(brief)
        if isinstance(method, Infeasible):
            assert str(brief.budget_bytes) in method.reason or "--embedding-bytes" in method.reason
        else:
            assert 0 < method.paper_bytes <= method.nbytes <= brief.budget_bytes


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("mde", "adaembed", "full")])
def test_a_method_leaves_little_of_its_budget_unused(name):
    brief = make_cell(name, 20.0).brief(load_stream(SOURCE, NUM_ROWS))
    method = METHODS[name].build(brief)
    assert not isinstance(method, Infeasible)
    assert method.nbytes > 0.95 * brief.budget_bytes


@pytest.mark.parametrize(("name", "ratio"), [("qr", 10_000), ("mde", 100), ("adaembed", 100), ("full", 2)])
def test_an_infeasible_ratio_is_reported_with_the_bytes_that_the_method_needs(name, ratio):
    brief = make_cell("hash", ratio).brief(load_stream(SOURCE, NUM_ROWS))
    method = METHODS[name].build(brief)
    assert isinstance(method, Infeasible)
    assert f"got {brief.budget_bytes}" in method.reason


@pytest.mark.parametrize("name", METHODS)
def test_a_method_learns_and_repeats_itself(name):
    cell = make_cell(name, 5.0, rate_factor=0.2 / PRESET.learning_rate)
    if name == "mde":  # numba compiles kernels for each of its dimensions
        cell = replace(cell, preset=replace(PRESET, dim=4))
    first, again = run_cell(cell), run_cell(cell)
    if "infeasible" in first:
        assert name in ("mde",)
        return
    assert first["auc_last"] > 0.55
    assert {**first, "seconds": 0} == {**again, "seconds": 0}
    assert first["rows"] == NUM_ROWS
    assert first["bytes"] <= first["budget_bytes"]


@pytest.mark.parametrize("stored", ["bfloat16", "int8"])
@pytest.mark.parametrize(
    "name", [name for name, entry in METHODS.items() if "row_format" in entry.search and name not in TIERED]
)
def test_a_method_learns_in_every_row_format_on_part_of_the_rows(name, stored):
    cell = replace(make_cell(name, 5.0, row_format=stored), trained_rows=NUM_ROWS // 2)
    if name == "mde":  # as above
        cell = replace(cell, compression=2.0, preset=replace(PRESET, dim=4))
    measured = run_cell(cell)
    assert measured["rows"] == measured["curve"][-1][0] == NUM_ROWS // 2
    assert measured["bytes"] <= measured["budget_bytes"]
    assert measured["auc_last"] > 0.55


@pytest.mark.parametrize(("share", "same"), [(1.0, "auc"), (1 / 7, "auc_last")])
def test_the_auc_of_the_last_rows_covers_exactly_those_rows(share, same, monkeypatch):
    monkeypatch.setattr(cell_module, "_LAST_60_SHARE", share)
    measured = run_cell(make_cell("hash", 10.0))
    assert measured["auc_last_60"] == measured[same]
    assert measured["auc"] != measured["auc_last"]


def test_the_budget_of_a_search_is_that_of_the_whole_run():
    whole = make_cell("hash", 5.0)
    stream = load_stream(SOURCE, NUM_ROWS)
    assert replace(whole, trained_rows=64).brief(stream).budget_bytes == whole.brief(stream).budget_bytes
    assert replace(whole, trained_rows=64).name != whole.name


def test_another_seed_gives_other_figures():
    assert run_cell(make_cell("hash", 100, 0))["auc"] != run_cell(make_cell("hash", 100, 1))["auc"]


def test_evaluation_without_gradient_changes_nothing():
    stream = load_stream(SOURCE, NUM_ROWS)
    for name in ("hotstream", "cafe-ml", "adaembed", "qr"):
        method = METHODS[name].build(make_cell(name, 5.0).brief(stream))
        assert not isinstance(method, Infeasible)
        words = stream.ids if method.reads_ids else stream.keys.view(np.int64)
        read = torch.from_numpy(words[:64].astype(np.int64))
        with torch.no_grad():
            before = method(read)
            assert torch.equal(before, method(read))


def test_a_method_that_exceeds_its_budget_is_refused(monkeypatch):
    monkeypatch.setattr(cell_module, "METHODS", {"hash": Entry(build=Full, about="ignores its budget")})
    with pytest.raises(cell_module.BudgetError, match="takes"):
        run_cell(make_cell("hash", 2.0))


# ---- parts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["proportional", "equal"])
@pytest.mark.parametrize("total", [3, 17, 1000, 5000])
def test_shared_rows_are_split_within_the_total_and_the_fields_sizes(how, total):
    rows = split_rows(total, (2, 300, 4000), how)
    assert rows.sum() <= total
    assert (rows >= 1).all()
    assert (rows <= [2, 300, 4000]).all()
    assert rows.sum() >= min(total, 4302) - 3


def test_a_field_with_enough_rows_has_no_collisions_and_fields_have_disjoint_rows():
    row_hash = RowHash((4, 100), np.array([4, 10]), seed=1, first_row=7)
    ids = np.stack(np.broadcast_arrays(np.arange(4)[:, None] % 4, 4 + np.arange(100)), axis=-1).reshape(-1, 2)
    rows = row_hash(ids)
    assert set(rows[:, 0]) == {7, 8, 9, 10}
    assert set(rows[:, 1]) <= set(range(11, 21))
    assert len(set(rows[:, 1])) > 5
    assert (row_hash.of_fields(ids[:, 1], np.ones(len(ids), int)) == rows[:, 1]).all()


def oracle_insert(state, stream, num_rows, slots, threshold):
    """The published rule in plain Python, for one bucket."""
    free = list(range(num_rows))
    for feature, score in stream:
        if feature not in state:
            if len(state) == slots:
                least = min(state, key=lambda other: state[other][0])
                smallest, row = state.pop(least)
                if row is not None:
                    free.append(row)
                state[feature] = [smallest, None]
            else:
                state[feature] = [0.0, None]
        state[feature][0] += score
        if state[feature][0] > threshold and state[feature][1] is None and free:
            state[feature][1] = free.pop()
    return state


def test_the_published_sketch_equals_an_oracle_of_the_paper():
    rng = np.random.default_rng(5)
    features = rng.integers(0, 12, 400)
    scores = (rng.random(400) + np.arange(400) * 1e-6).astype(np.float32)  # no ties
    sketch = CafeSketch(1, 2, threshold=6.0, factor=1.0, seed=0)
    for start in range(0, 400, 37):
        sketch.insert(features[start : start + 37], scores[start : start + 37])
    expected = oracle_insert({}, zip(features.tolist(), scores, strict=True), 2, 4, 6.0)
    rows, found = sketch.find(np.arange(12))
    for feature in range(12):
        score, row = expected.get(feature, (0.0, None))
        assert found[feature] == pytest.approx(score, rel=1e-4)
        assert rows[feature] == (-1 if row is None else row)
    assert sketch.num_promoted - sketch.num_demoted == sketch.num_hot <= 2


def test_decay_frees_the_rows_of_what_falls_below_the_threshold():
    sketch = CafeSketch(1, 2, threshold=1.0, factor=0.1, seed=0)
    sketch.insert(np.array([1]), np.array([5.0], np.float32))
    assert sketch.num_hot == 1
    sketch.insert(np.array([1]), np.array([4.0], np.float32))  # 9 in all: not yet 10 W thresholds
    assert sketch.num_hot == 1
    sketch.insert(np.array([2]), np.array([1.5], np.float32))
    assert sketch.num_hot == 0


def test_published_scores_have_mean_one_in_every_field_and_raw_ones_overall():
    gradient = np.random.default_rng(0).random((10 * 3, 4), np.float32) * np.tile([[1], [10], [100]], (10, 1))
    gradient = gradient.astype(np.float32)
    assert Scorer("field", 3)(gradient).reshape(10, 3).mean(axis=0) == pytest.approx([1, 1, 1], rel=1e-5)
    raw = Scorer("raw", 3)(gradient).reshape(10, 3)
    assert raw.mean() == pytest.approx(1, rel=1e-5)
    assert raw[:, 2].mean() > 50 * raw[:, 0].mean()


# ---- grid and command ----------------------------------------------------------------------------------------------


def make_grid(**changes) -> GridConfig:
    settings = {
        "source": SOURCE,
        "num_rows": 8192,
        "preset": PRESETS["quick"],
        "methods": ("full", "hash", "qr", "hotstream"),
        "models": ("dlrm",),
        "compressions": (20.0, 10_000.0),
        "seeds": (0, 1),
    }
    return GridConfig(**{**settings, **changes})


@pytest.fixture
def small_search(monkeypatch):
    """The search uses a quarter of the rows, however few there are."""
    monkeypatch.setattr(grid_module, "_MIN_SEARCH_ROWS", 1)


@pytest.mark.usefixtures("small_search")
@pytest.mark.parametrize("num_finished", [3, 20])  # in the first round of the search, and in the last ones
def test_a_killed_run_repeats_no_finished_cell_and_ends_with_the_same_results(tmp_path, num_finished):
    config = make_grid(methods=("full", "qr"))
    whole = run_grid(config, tmp_path / "whole")
    calls = []

    class KilledError(Exception):
        pass

    def kill(measured, done, num_cells):
        if done == num_finished:
            raise KilledError

    with pytest.raises(KilledError):
        run_grid(config, tmp_path / "cut", on_cell=kill)
    cells = {path: path.stat().st_mtime_ns for path in (tmp_path / "cut" / "cells").glob("*.json")}
    assert len(cells) == num_finished
    resumed = run_grid(config, tmp_path / "cut", on_cell=lambda *call: calls.append(call))
    assert {path: path.stat().st_mtime_ns for path in cells} == cells
    for name in ("cells", "tried"):
        one, other = ([{**cell, "seconds": 0} for cell in getattr(grid, name)] for grid in (whole, resumed))
        assert one == other
    assert [call[1:] for call in calls] == [(done, len(calls)) for done in range(1, len(calls) + 1)]
    assert len(calls) == (3 + 2 + 1) + 2 * (6 + 2 + 1)
    assert not list((tmp_path / "cut" / "cells").glob("*partial*"))


def test_a_killed_run_of_every_method_that_has_tiers_or_codes_continues_with_equal_results(tmp_path):
    """What a grid keeps are whole cells: one that was cut off is trained from its first row again."""
    names = ("cafe-plus", "cce", "cprec", "dqrm", "low-rank", "mec", "mpe", "mpe-low", "saec", "scma")
    config = make_grid(methods=names, compressions=(20.0,), seeds=(0,), search=False)
    whole = run_grid(config, tmp_path / "whole")

    class KilledError(Exception):
        pass

    def kill(measured, done, num_cells):
        if done == len(names) // 2:
            raise KilledError

    with pytest.raises(KilledError):
        run_grid(config, tmp_path / "cut", on_cell=kill)
    (tmp_path / "cut" / "cells" / "mec.partial7").write_text("{")  # of a process that was killed as it wrote
    resumed = run_grid(config, tmp_path / "cut")
    assert [cell["method"] for cell in resumed.cells] == list(names)
    one, other = ([{**cell, "seconds": 0} for cell in grid.cells] for grid in (whole, resumed))
    assert one == other


def test_several_jobs_return_the_results_of_one(tmp_path):
    config = make_grid(methods=("hash",), compressions=(20.0,), seeds=(0,))
    one, two = run_grid(config, tmp_path / "one"), run_grid(config, tmp_path / "two", jobs=2)
    assert [{**cell, "seconds": 0} for cell in one.cells] == [{**cell, "seconds": 0} for cell in two.cells]


@pytest.mark.usefixtures("small_search")
def test_the_search_tunes_one_knob_after_another_and_runs_the_two_best_settings_over_all_rows(tmp_path):
    config = make_grid(methods=("hash",), compressions=(100.0,), preset=PRESET)
    grid = run_grid(config, tmp_path)
    searched = [cell for cell in grid.tried if cell["rows"] == NUM_ROWS // 4]
    finals = [cell for cell in grid.tried if cell["rows"] == NUM_ROWS]
    assert {cell["seed"] for cell in searched} == {0}
    assert [cell["seed"] for cell in finals] == [0, 0, 1]
    best, sizes = METHODS["hash"].default, [1, *(len(values) - 1 for values in METHODS["hash"].search.values())]
    assert len(searched) == sum(sizes)
    for index, knob in enumerate(METHODS["hash"].search, 1):
        so_far = sum(sizes[:index])
        for cell in searched[so_far : so_far + sizes[index]]:
            assert {**cell["knobs"], knob: None} == {**best, knob: None}
        best = max(searched[: so_far + sizes[index]], key=lambda cell: cell["auc"])["knobs"]
    assert finals[0]["knobs"] == best
    winner = max(finals[:2], key=lambda cell: cell["auc"])
    assert [cell["knobs"] for cell in grid.cells] == [winner["knobs"]] * 2
    assert [cell["rows"] for cell in grid.cells] == [NUM_ROWS] * 2


@pytest.mark.usefixtures("small_search")
def test_the_search_finds_the_better_setting(tmp_path, monkeypatch):
    search = {"split": ("proportional", "equal"), "rate_factor": (1e3, 1.0, 1e4)}
    monkeypatch.setitem(METHODS, "hash", Entry(build=hashing.build, about="a bad default", search=search))
    config = make_grid(methods=("hash",), compressions=(20.0,), preset=PRESET)
    searched, first = (run_grid(replace(config, search=how), tmp_path) for how in (True, False))
    assert [cell["knobs"]["rate_factor"] for cell in searched.cells] == [1.0, 1.0]
    assert [cell["knobs"] for cell in first.cells] == [METHODS["hash"].default] * 2
    assert min(cell["auc"] for cell in searched.cells) > max(cell["auc"] for cell in first.cells)
    assert len(searched.tried) == 4 + 2 + 1


def test_the_search_finds_the_row_format_that_makes_a_ratio_feasible(tmp_path):
    calls = []
    config = make_grid(methods=("qr",), compressions=(60.0, 10_000.0))
    grid = run_grid(config, tmp_path, on_cell=lambda *call: calls.append(call))
    feasible, infeasible = grid.cells[:2], grid.cells[2:]
    assert [cell["knobs"]["row_format"] for cell in feasible] == ["int8", "int8"]
    assert all("infeasible" not in cell and cell["rows"] == NUM_ROWS for cell in feasible)
    compared = [cell["knobs"]["operation"] for cell in grid.tried if "infeasible" not in cell and cell["seed"] == 0]
    assert set(compared) == {"multiply", "add"}
    assert [cell["seed"] for cell in infeasible] == [0, 1]
    assert all("infeasible" in cell and cell["rows"] == 0 for cell in infeasible)
    assert calls[-1][1:] == (len(calls), len(calls))


def test_the_command_reports_cells_tables_and_pictures(tmp_path, caplog):
    options = [
        "--methods",
        "full,hash,qr",
        "--compression",
        "50,10000x",
        "--rows",
        "8192",
        "--seeds",
        "0,1",
        *LARGE_BATCHES,
    ]
    out, report = tmp_path / "out", tmp_path / "report.json"
    caplog.set_level(logging.INFO)
    done = CliRunner().invoke(command, [*options, "--out", str(out), "--json", str(report)])
    assert done.exit_code == 0, done.output
    content = json.loads(report.read_text())
    assert (content["command"], content["ok"]) == ("evaluate", True)
    keys = {
        "method",
        "model",
        "compression",
        "seed",
        "rows",
        "bytes",
        "auc",
        "logloss",
        "auc_last_60",
        "auc_last",
        "logloss_last",
    }
    for cell in content["cells"]:
        assert "infeasible" in cell or keys <= set(cell)
    assert any("infeasible" in cell for cell in content["cells"] if cell["method"] == "qr")
    assert "| hash |" in (out / "table.md").read_text()
    assert (out / "auc-dlrm.png").stat().st_size > 1000
    assert {tuple(sorted(one["knobs"])) for one in content["tried"] if one["method"] == "full"} == {("rate_factor",)}
    assert all(one["rows"] == 8192 or one["infeasible"] for one in content["tried"])
    assert any("AUC" in record.message for record in caplog.records)


def test_the_dimension_of_a_preset_can_be_replaced(tmp_path):
    options = ["--methods", "full", "--rows", "2048", "--dim", "32", "--no-search", *LARGE_BATCHES]
    report = tmp_path / "report.json"
    done = CliRunner().invoke(command, [*options, "--out", str(tmp_path / "out"), "--json", str(report)])
    assert done.exit_code == 0, done.output
    content = json.loads(report.read_text())
    assert content["preset"]["dim"] == 32
    assert content["cells"][0]["paper_bytes"] == (content["cells"][0]["features"] + 1) * 4 * 32


def make_recovery(disturbed):
    rows = tuple(range(10, 10 * len(disturbed) + 1, 10))
    point = {"method": "hotstream", "model": "dlrm", "compression": 10.0, "rows": rows}
    return Recovery(**point, disturbed=tuple(disturbed), undisturbed=(1.0,) * len(rows), rotate_at=20)


def test_recovery_ends_at_the_first_three_windows_whose_mean_excess_is_small():
    assert make_recovery([1, 1, 1.5, 1.005, 1.2, 1.02, 1.0, 1.0, 1.0]).rows_until_near == 30
    assert make_recovery([1, 1, 1.0, 1.02, 1.0, 1.0]).rows_until_near == 0
    assert make_recovery([1, 1, 1.5, 1.2, 1.1, 1.05]).rows_until_near is None
    assert make_recovery([1, 1, 1.5, 1.1, 1.0]).lost == pytest.approx(6)


def test_recovery_averages_the_curves_of_the_seeds_and_omits_infeasible_cells():
    def made(method, *losses):
        return {"method": method, "model": "dlrm", "compression": 10.0, "curve": [[8, loss, 0.7] for loss in losses]}

    pairs = [(made("a", 1.0), made("a", 0.5)), (made("a", 2.0), made("a", 1.5)), ({"infeasible": ""}, {})]
    found = recoveries([one for one, _ in pairs], [other for _, other in pairs], 4)
    assert [(one.method, one.disturbed, one.undisturbed) for one in found] == [("a", (1.5,), (1.0,))]


def test_a_rotation_is_reported_against_the_undisturbed_run(tmp_path):
    options = [
        "--methods",
        "full,hotstream",
        "--compression",
        "20",
        "--rows",
        "8192",
        "--rotate-at",
        "4096",
        *LARGE_BATCHES,
    ]
    out, report = tmp_path / "out", tmp_path / "report.json"
    done = CliRunner().invoke(command, [*options, "--out", str(out), "--json", str(report)])
    assert done.exit_code == 0, done.output
    recovery = json.loads(report.read_text())["recovery"]
    assert [one["method"] for one in recovery] == ["full", "hotstream"]
    for one in recovery:
        before = sum(row <= 4096 for row in one["rows"])
        near = pytest.approx(one["undisturbed"][:before], rel=0.06)  # another size: other initial values, other hashes
        assert one["disturbed"][:before] == near
        assert one["disturbed"] != one["undisturbed"]
    assert "| hotstream |" in (out / "recovery.md").read_text()
    assert (out / "recovery-dlrm.png").stat().st_size > 1000


@pytest.mark.parametrize("name", ablation.VARIANTS)
def test_a_variant_fits_the_bytes_and_is_another_method(name):
    default, varied = (
        replace(make_cell("hotstream", 10.0, **knobs), num_rows=2048) for knobs in ({}, ablation.VARIANTS[name])
    )
    assert default.name != varied.name
    measured = run_cell(varied)
    assert measured["bytes"] <= measured["budget_bytes"]
    assert measured["auc"] > 0.5


def test_the_ablation_resumes_and_reports_the_gain_of_each_variant(tmp_path, monkeypatch):
    variants = {
        "rows in float32": {"row_format": "float32"},
        "no such size": {"row_format": "float32", "buckets_per_row": 1e6},
    }
    monkeypatch.setattr(ablation, "VARIANTS", variants)
    options = ["--ablation", "--compression", "20", "--rows", "8192", "--seeds", "0,1", *LARGE_BATCHES]
    options += ["--out", str(tmp_path / "out")]
    report = tmp_path / "report.json"
    for _ in range(2):
        done = CliRunner().invoke(command, [*options, "--json", str(report)])
        assert done.exit_code == 0, done.output
    assert len(list((tmp_path / "out" / "cells").iterdir())) == 6
    effects = {(one["variant"], one["metric"]): one for one in json.loads(report.read_text())["effects"]}
    assert effects["default", "auc"]["gain"] == 0
    varied = effects["rows in float32", "auc"]
    assert varied["auc"] - effects["default", "auc"]["auc"] == pytest.approx(varied["gain"])
    assert varied["error"] > 0
    table = (tmp_path / "out" / "ablation.md").read_text()
    assert "| no such size | infeasible |" in table


def test_the_command_compares_methods_on_files_of_any_schema(tmp_path):
    rng = np.random.default_rng(1)
    sites, ads = rng.integers(0, 50, 3000), rng.integers(0, 500, 3000)
    clicks = rng.random(3000) < 0.2 + 0.5 * (sites % 2)
    lines = [f"{int(click)},s{site},a{ad}" for click, site, ad in zip(clicks, sites, ads, strict=True)]
    (tmp_path / "log.csv").write_text("click,site,ad\n" + "\n".join(lines) + "\n")
    (tmp_path / "log.toml").write_text('[log]\nlabel = "click"\ncategorical = ["site", "ad"]\n')
    options = [
        "--schema",
        str(tmp_path / "log.toml"),
        "--methods",
        "full,hash,hotstream",
        "--compression",
        "3",
        *LARGE_BATCHES,
    ]
    files = [str(tmp_path / "log.csv"), "--models", "dlrm,wdl,dcn"]
    report = tmp_path / "report.json"
    done = CliRunner().invoke(command, [*files, *options, "--out", str(tmp_path / "out"), "--json", str(report)])
    assert done.exit_code == 0, done.output
    cells = json.loads(report.read_text())["cells"]
    assert {cell["model"] for cell in cells} == {"dlrm", "wdl", "dcn"}
    assert {cell["rows"] for cell in cells} == {3000}


def test_a_source_tree_becomes_a_log_with_learnable_labels(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "one.py").write_text("x = f(y)\n" * 700)
    (tmp_path / "a" / "b" / "two.c").write_text("int main ( ) { return 0 ; }\n" * 300)
    (tmp_path / "a" / "notes.txt").write_text("not source\n")
    stream = load_stream(TokenSource(root=tmp_path), None)
    assert stream.num_rows == 700 * 6 + 300 * 9 - 4
    assert stream.num_fields == 9
    assert 0.45 < stream.label.mean() < 0.55
    assert stream.field_sizes[7:] == (2, 2)  # folders, files
    assert (stream.keys[1:, 2] & np.uint64((1 << 56) - 1) == stream.keys[:-1, 1] & np.uint64((1 << 56) - 1)).all()
    truths = stream.keys[stream.label == 1, 0]
    assert len(np.unique(truths)) <= 15
    options = ["--schema", "tokens", str(tmp_path), "--methods", "full,hotstream", "--compression", "2", *LARGE_BATCHES]
    report = tmp_path / "report.json"
    done = CliRunner().invoke(command, [*options, "--out", str(tmp_path / "out"), "--json", str(report)])
    assert done.exit_code == 0, done.output
    assert json.loads(report.read_text())["source"]["files"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--schema", "tokens"], "one folder"),
        (["--methods", "caffe"], "caffe"),
        (["--models", "bert"], "bert"),
        (["--compression", "0.5"], "at least 1"),
        (["--compression", "ten"], "numbers"),
        (["--seeds", "-1"], "0 or more"),
        (["--ablation", "--methods", "hash"], "--methods"),
    ],
)
def test_wrong_usage_is_reported_before_anything_runs(options, message, tmp_path):
    done = CliRunner().invoke(command, [*options, "--out", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert message in done.output
    assert not Path(tmp_path / "out").exists()
