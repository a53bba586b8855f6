"""`hotstream advise`: on delimited, Avazu-shaped and Parquet logs, with lists, too; what it estimates, and that its
commands exist."""

from __future__ import annotations

import json
import shlex

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from click.testing import CliRunner

from streams.logs.schema import load_schema
from trainer.advise.measured import load_measured
from trainer.advise.sample import read_sample
from trainer.advise.sizing import full_bytes
from trainer.cli import cli
from trainer.commands.advise import command
from trainer.embedding.plans import plan

NUM_ROWS = 3000


def columns(first_ms=0):
    rng = np.random.default_rng(3)
    return {
        "click": rng.integers(0, 2, NUM_ROWS),
        "site": [f"s{int(200 * number**3)}" for number in rng.random(NUM_ROWS)],
        "ad": [f"a{int(2000 * number**3)}" for number in rng.random(NUM_ROWS)],
        "ms": first_ms + 5 * np.arange(NUM_ROWS),
    }


def write(folder, kind):
    """A log and the name of its schema."""
    made = columns(1_600_000_000_000)
    schema = folder / "log.toml"
    schema.write_text(
        '[log]\nlabel = "click"\ncategorical = ["site", "ad"]\ntime = "ms"\ntime_format = "ms"\n'
        if kind != "unlabelled"
        else '[log]\ncategorical = ["site", "ad"]\n'
    )
    if kind == "lists":
        schema.write_text('[log]\nlabel = "click"\ncategorical = ["site", { name = "ad", list = true }]\n')
        made["ad"] = [[ad] * (row % 3) + ["ever"] for row, ad in enumerate(made["ad"])]
        pyarrow.parquet.write_table(pa.table(made), folder / "log.parquet")
        return folder / "log.parquet", schema
    if kind == "parquet":
        pyarrow.parquet.write_table(pa.table(made), folder / "log.parquet")
        return folder / "log.parquet", schema
    if kind == "avazu":
        names = [one.name for one in load_schema("avazu").categorical]
        lines = [
            ",".join(
                [str(row), "1", "14102100", *(f"v{(row * field) % (7 * field)}" for field in range(1, len(names)))]
            )
            for row in range(NUM_ROWS)
        ]
        (folder / "log.csv").write_text(",".join(["id", "click", *names]) + "\n" + "\n".join(lines) + "\n")
        return folder / "log.csv", "avazu"
    rows = zip(*made.values(), strict=True)
    (folder / "log.csv").write_text(",".join(made) + "\n" + "".join(",".join(map(str, row)) + "\n" for row in rows))
    return folder / "log.csv", schema


def advise(folder, kind, *options):
    """What it prints, and its report."""
    log, schema = write(folder, kind)
    report = folder / "report.json"
    done = CliRunner().invoke(command, [str(log), "--schema", str(schema), "--json", str(report), *options])
    assert done.exit_code == 0, done.output
    return done.output, json.loads(report.read_text())


@pytest.mark.parametrize("kind", ["csv", "parquet", "avazu", "unlabelled", "lists"])
def test_every_log_gets_a_profile_sizes_and_commands_that_exist(kind, tmp_path):
    text, report = advise(tmp_path, kind, "--compression", "2,1000", "--full-features", "20000")
    assert report["profile"]["rows"] == report["log_rows"] == NUM_ROWS
    assert [size["compression"] for size in report["sizes"]] == [2.0, 1000.0]
    assert all(line in text for line in report["commands"])
    assert any(line.startswith("hotstream train") for line in report["commands"]) == (kind != "unlabelled")
    for line in report["commands"]:
        words = shlex.split(line, comments=True)
        if not words:
            continue
        program, name, *arguments = words
        assert program == "hotstream"
        found = cli.get_command(None, name)
        while hasattr(found, "get_command"):
            found = found.get_command(None, arguments.pop(0))
        found.make_context(name, arguments).close()


def test_the_sizes_are_those_of_the_plans_and_the_costs_those_that_were_measured(tmp_path):
    _, report = advise(tmp_path, "csv", "--full-features", "100000", "--rate", "500")
    measured = {(one.source, one.compression): one for one in load_measured().quality}
    assert report["full"]["bytes"] == full_bytes(100_000, 16) == 100_001 * (4 * 16 + 4)
    for size in report["sizes"]:
        planned = plan(int(report["full"]["bytes"] / size["compression"]), 16, 2, row_format="int8")
        assert size["embedding_bytes"] == planned.nbytes["total"] <= report["full"]["bytes"] / size["compression"]
        assert size["serving_bytes"] == size["embedding_bytes"] - planned.nbytes["optimizer"]
        assert size["unique_rows"] == planned.capacity_rows
        for cost in size["costs"]:
            one = measured[cost["source"], size["compression"]]
            assert (cost["auc"], cost["error"], cost["dim"]) == (one.auc, one.error, 16)
        tracked = size["tracked"]
        if tracked is not None:
            assert size["changes_per_s"] == pytest.approx(500 * tracked["changes_per_row"])
            assert tracked["hit_share"] <= size["best_share"] + 0.05
    assert {cost["source"] for cost in report["sizes"][1]["costs"]} >= {
        "evaluate-reference.json",
        "evaluate-tokens.json",
    }


@pytest.mark.parametrize("options", [("--dim", "24"), ("--row-format", "float32")])
def test_what_was_not_measured_has_no_cost(options, tmp_path):
    text, report = advise(tmp_path, "csv", *options)
    assert all(size["costs"] == [] for size in report["sizes"])
    assert "nothing was measured at D" in text


def test_a_ratio_for_which_nothing_fits_is_infeasible_with_its_reason(tmp_path):
    text, report = advise(tmp_path, "csv", "--compression", "10,100000")
    assert "infeasible" in text
    assert "too few for 2 fields" in report["sizes"][1]["infeasible"]
    assert "--compression 10\n" in text


def test_the_pace_is_that_of_the_time_column_unless_it_is_too_coarse_or_given(tmp_path):
    for kind, options, expected in (("csv", (), 200.0), ("csv", ("--rate", "7"), 7.0), ("avazu", (), 10_000.0)):
        folder = tmp_path / f"{kind}{len(options)}"
        folder.mkdir()
        assert advise(folder, kind, *options)[1]["pace"]["rows_per_s"] == pytest.approx(expected, rel=0.01)


def test_part_of_a_log_estimates_its_rows_from_the_bytes(tmp_path):
    log, schema = write(tmp_path, "csv")
    (tmp_path / "other.csv").write_bytes(log.read_bytes())
    sample = read_sample([str(log), str(tmp_path / "other.csv")], load_schema(str(schema)), 1000)
    assert sample.num_rows == 1000
    assert sample.log_rows == 2 * NUM_ROWS
    assert sample.click_bytes > 2 * 8


def test_a_picture_of_the_skew_is_drawn(tmp_path):
    advise(tmp_path, "csv", "--picture", str(tmp_path / "skew.png"))
    assert (tmp_path / "skew.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("options", "message"), [(["--compression", "ten"], "numbers separated"), (["--compression", "0.5"], "at least 1")]
)
def test_wrong_ratios_are_refused(options, message, tmp_path):
    log, schema = write(tmp_path, "csv")
    done = CliRunner().invoke(command, [str(log), "--schema", str(schema), *options])
    assert done.exit_code == 2
    assert message in done.output


def test_every_value_of_a_list_is_counted_and_weighs_in_the_topics(tmp_path):
    text, report = advise(tmp_path, "lists", "--compression", "2")
    site, ad = report["profile"]["fields"]
    assert (site["lookups_per_row"], ad["lookups_per_row"], ad["top"]) == (1.0, 2.0, 0.5)
    assert "in a row" in text
    sample = read_sample([str(tmp_path / "log.parquet")], load_schema(str(tmp_path / "log.toml")), 10)
    assert len(sample.lookups.keys) == 10 + sum(row % 3 + 1 for row in range(10))
    single = tmp_path / "single"
    single.mkdir()
    plain_text, plain = advise(single, "parquet", "--compression", "2")
    assert "in a row" not in plain_text
    assert report["pace"]["clicks_bytes_per_s"] > plain["pace"]["clicks_bytes_per_s"]


@pytest.mark.parametrize(("rows", "is_explained"), [(300, True), (10_000, False)])
def test_a_sample_that_is_too_short_for_a_change_says_so(rows, is_explained, tmp_path):
    (tmp_path / "log.toml").write_text('[log]\nlabel = "click"\ncategorical = ["ad"]\n')
    ads = np.random.default_rng(1).integers(0, 3000, rows)
    (tmp_path / "log.csv").write_text("click,ad\n" + "".join(f"1,{ad}\n" for ad in ads))
    options = ["--schema", str(tmp_path / "log.toml"), "--compression", "5"]
    done = CliRunner().invoke(command, [str(tmp_path / "log.csv"), *options])
    assert done.exit_code == 0, done.output
    note = "lookups hot is 0 where the agent made no change: its first one comes after 4,096 features"
    assert (note in done.output) == is_explained
