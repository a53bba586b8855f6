"""Hot records first, and updates of rows at rest left out: what they guarantee, and that what they count is true."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from trainer.commands.evaluate import command
from trainer.embedding.stores.registry import store_class
from trainer.embedding.stores.rows import RowOptimizer, RowSizes
from trainer.embedding.stores.store import Sums
from trainer.evaluate.cell import Cell, run_cell
from trainer.evaluate.methods.registry import METHODS
from trainer.evaluate.presets import PRESETS
from trainer.evaluate.schedules.feeding import SCHEDULES, Feeding
from trainer.evaluate.schedules.hot_first import HotFirst
from trainer.evaluate.schedules.registry import build_schedule
from trainer.evaluate.schedules.schedule import Schedule
from trainer.evaluate.schedules.skip_stale import RestingRows
from trainer.evaluate.sources.stream import GeneratorSource, load_stream

NUM_ROWS, BATCH_ROWS = 4096, 128
SOURCE = GeneratorSource(seed=3)


@pytest.fixture(autouse=True)
def one_thread():
    """Sums do not depend on the machine's cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def cell_of(method: str, **feeding: str | float) -> Cell:
    return Cell(
        source=SOURCE, num_rows=NUM_ROWS, preset=replace(PRESETS["reference"], batch_rows=BATCH_ROWS),
        model="dlrm", method=method, compression=1.0 if method == "full" else 5.0, seed=0,
        knobs=METHODS[method].default, feeding=Feeding(**feeding),
    )  # fmt: skip


def hot_first(name: str, window: int, hot_share: float) -> HotFirst:
    stream = load_stream(SOURCE, NUM_ROWS)
    method = METHODS[name].build(cell_of(name).brief(stream))
    return HotFirst(method, stream.ids, [*stream.batches(BATCH_ROWS, num_rows=NUM_ROWS)], window, hot_share)


def untimed(result: dict) -> dict:
    return {**result, "seconds": 0}


# ---- the registry --------------------------------------------------------------------------------------------------


def test_every_named_schedule_is_built_and_has_its_own_class_and_cell():
    stream = load_stream(SOURCE, NUM_ROWS)
    batches, built, names = [*stream.batches(BATCH_ROWS, num_rows=NUM_ROWS)], [], []
    for name in SCHEDULES:
        method = METHODS["hash"].build(cell_of("hash").brief(stream))
        built.append(type(build_schedule(Feeding(name=name), method, stream.ids, batches)))
        names.append(cell_of("hash", name=name).name)
    assert len(set(built)) == len(set(names)) == len(SCHEDULES)
    assert built[0] is Schedule


def test_the_name_of_a_cell_holds_the_settings_of_its_own_schedule_alone():
    assert cell_of("hash").name == cell_of("hash", hot_share=0.5, rest_below=1, lookahead=3).name
    assert cell_of("hash", name="hot-first").name != cell_of("hash", name="hot-first", hot_share=0.5).name
    assert cell_of("hash", name="skip-stale").name != cell_of("hash", name="skip-stale", rest_below=0.5).name


@pytest.mark.parametrize("name", ["hot-first", "skip-stale"])
def test_equal_cells_give_equal_results(name):
    assert untimed(run_cell(cell_of("hash", name=name))) == untimed(run_cell(cell_of("hash", name=name)))


@pytest.mark.parametrize("name", ["hot-first", "skip-stale"])
def test_a_method_whose_rows_move_is_infeasible(name):
    assert f"{name}: its rows move" in run_cell(cell_of("hotstream", name=name))["infeasible"]


# ---- hot-first -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["full", "hash", "double-hash", "qr", "robe"])
@pytest.mark.parametrize("window", [0, 1, 16, 100])
def test_each_row_is_trained_exactly_once_and_no_further_away_than_the_window(method, window):
    plan, span = hot_first(method, window, 0.2), (window + 1) * BATCH_ROWS
    trained = np.concatenate([part for step in plan.steps for part in step])
    assert np.array_equal(np.sort(trained), np.arange(NUM_ROWS))
    assert np.array_equal(trained // span, np.arange(NUM_ROWS) // span)
    assert all(0 < sum(map(len, step)) <= BATCH_ROWS for step in plan.steps)


def test_hot_micro_batches_read_rows_that_lie_with_the_trainer_and_the_counts_are_those_of_the_steps():
    stream, window, share = load_stream(SOURCE, NUM_ROWS), 15, 0.4
    plan, method = hot_first("hash", window, share), METHODS["hash"].build(cell_of("hash").brief(stream))
    reads = method._row_hash(stream.ids.astype(np.int64))  # noqa: SLF001  (N, F)
    capacity, span = int(share * method.rows.padding), (window + 1) * BATCH_ROWS
    hot, moved, hot_records = set(), 0, 0
    for first in range(0, NUM_ROWS, span):
        if first:
            counts = np.bincount(reads[:first].reshape(-1), minlength=method.rows.padding)
            top = np.argsort(-counts, kind="stable")[:capacity]
            learned = set(top[counts[top] > 0].tolist())
            moved, hot = moved + len(hot ^ learned), learned
        is_hot = np.array([hot.issuperset(row.tolist()) for row in reads[first : first + span]])
        steps = [step for step in plan.steps if first <= step[0][0] < first + span]
        order = first + np.concatenate([np.flatnonzero(is_hot), np.flatnonzero(~is_hot)])
        assert np.array_equal(np.concatenate([part for step in steps for part in step]), order)
        moved += sum(2 * len(set(reads[part].reshape(-1).tolist()) - hot) for step in steps for part in step)
        hot_records += int(is_hot.sum())
    counts = plan.counts()
    plain = sum(2 * len(np.unique(reads[at : at + BATCH_ROWS])) for at in range(0, NUM_ROWS, BATCH_ROWS))
    assert hot_records > 0
    assert (counts["hot_records"], counts["hot_rows"]) == (hot_records, len(hot))
    assert (counts["rows_moved"], counts["rows_moved_plain"]) == (moved + len(hot), plain)
    assert counts["bytes_moved"] == 68 * counts["rows_moved"]


def test_a_batch_that_is_split_gives_the_figures_of_the_whole_batch_up_to_rounding():
    split, plain = run_cell(cell_of("hash", name="hot-first", lookahead=0, hot_share=0.5)), run_cell(cell_of("hash"))
    assert 0 < split["hot_first"]["hot_records"] < NUM_ROWS
    assert split["hot_first"]["steps"] == split["hot_first"]["steps_plain"]
    assert split["logloss"] == pytest.approx(plain["logloss"], abs=1e-4)
    assert split["auc"] == pytest.approx(plain["auc"], abs=1e-3)


def test_a_step_of_two_micro_batches_has_the_gradient_of_the_whole_batch():
    stream = load_stream(SOURCE, NUM_ROWS)
    found = []
    for parts in ([slice(0, 128)], [np.arange(0, 128, 3), np.setdiff1d(np.arange(128), np.arange(0, 128, 3))]):
        method = METHODS["hash"].build(replace(cell_of("hash").brief(stream), optimizer="sgd"))
        for rows in parts:
            vectors = method(torch.from_numpy(stream.ids[rows].astype(np.int64)))
            (vectors.square().mean() * (len(vectors) / 128)).backward()
        method.learn()
        found.append(method.rows.store.values.clone())
    assert torch.allclose(*found, rtol=1e-6, atol=1e-8)


# ---- skip-stale ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["full", "double-hash"])
def test_a_threshold_of_0_is_the_plain_run_bit_for_bit(method):
    plain, skipped = run_cell(cell_of(method)), run_cell(cell_of(method, name="skip-stale", rest_below=0))
    counts = skipped.pop("skip_stale")
    assert untimed(plain) == untimed(skipped)
    assert counts["updates"] == counts["updates_plain"] > 0
    assert counts["rows_at_rest"] == 0
    assert counts["bytes_moved"] == counts["bytes_moved_plain"]


def test_a_higher_threshold_leaves_out_more_updates():
    counts = [run_cell(cell_of("hash", name="skip-stale", rest_below=below))["skip_stale"] for below in (0.3, 10)]
    updates = [one["updates"] for one in counts]
    assert counts[0]["updates_plain"] > updates[0] > updates[1]
    for one in counts:
        left_out = one["updates_plain"] - one["updates"]
        assert one["bytes_moved_plain"] - one["bytes_moved"] == 68 * left_out
        assert one["gradient_bytes_plain"] - one["gradient_bytes"] == 64 * left_out


def one_row(below: float):
    sizes = RowSizes(num_rows=2, dim=4, optimizer="sgd", is_padded=True)
    initial = torch.Generator().manual_seed(0)
    store = store_class("float32")(sizes, optimizer=RowOptimizer(learning_rate=1.0), initial=initial)
    rest = RestingRows(3, below)

    def update(size: float) -> bool:
        before = store.values.clone()
        gradient = np.full((1, 4), size, np.float32)
        rest.step(store, Sums(rows=np.zeros(1, np.int32), gradients=gradient, padding=2))
        assert torch.equal(store.values[1:], before[1:])
        return not torch.equal(store.values[0], before[0])

    return rest, update


def test_a_row_rests_after_three_calm_updates_and_every_eighth_update_tests_it():
    rest, update = one_row(below=0.01)
    assert [update(1e-4) for _ in range(19)] == [True] * 3 + ([False] * 7 + [True]) * 2
    assert (rest.num_updates, rest.num_left_out, rest.num_at_rest) == (19, 14, 1)


def test_a_row_at_rest_wakes_within_eight_updates_after_its_gradient_grows():
    rest, update = one_row(below=0.01)
    for _ in range(3):
        update(1e-4)
    assert rest.num_at_rest == 1
    assert [update(0.5) for _ in range(12)] == [False] * 7 + [True] * 5
    assert rest.num_at_rest == 0


def test_one_lively_update_starts_the_count_of_calm_ones_anew():
    _, update = one_row(below=0.01)
    assert all(update(size) for size in (1e-4, 1e-4, 0.5, 1e-4, 1e-4, 1e-4))
    assert not update(1e-4)


# ---- the command ---------------------------------------------------------------------------------------------------


def test_the_command_offers_the_named_schedules():
    assert next(tuple(option.type.choices) for option in command.params if option.name == "schedule") == SCHEDULES


@pytest.mark.parametrize(
    ("options", "in_json", "in_table"),
    [
        (["--schedule", "plain"], None, ""),
        (
            ["--schedule", "hot-first", "--lookahead", "3", "--hot-share", "0.25", "--rest-below", "0.5"],
            {"name": "hot-first", "lookahead": 3, "hot_share": 0.25},
            "`--schedule hot-first --lookahead 3 --hot-share 0.25`\n\n",
        ),
    ],
)
def test_reports_name_the_schedule_and_only_the_settings_that_it_has(tmp_path, options, in_json, in_table):
    report, out = tmp_path / "report.json", tmp_path / "out"
    size = ["--rows", "1024", "--batch-rows", "128", "--methods", "hash", "--compression", "5", "--seeds", "0"]
    done = CliRunner().invoke(command, [*size, *options, "--out", str(out), "--json", str(report)])
    assert done.exit_code == 0, done.output
    assert json.loads(report.read_text()).get("schedule") == in_json
    table = (out / "table.md").read_text()
    assert table.startswith(in_table)
    assert ("--schedule" in table) == bool(in_table)
