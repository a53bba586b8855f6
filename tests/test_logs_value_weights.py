"""Weights of values in logs: every format gives the same, and refuses what does not fit its values."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from streams.bulk_keys import key_bags, keys
from streams.commands.schema import command
from streams.errors import ConfigError
from streams.keys import Field, make_key
from streams.logs.log_rows import LogRows
from streams.logs.reader import check_logs, read_log
from streams.logs.schema import LogSchema, load_schema
from streams.records import ClickBatch

SITES, SITE_WEIGHTS = ["x", "", "y"], [2.0, 9.0, 0.5]
TAGS = [["a", "b", "c"], None, ["b", None, "a"]]
TAG_WEIGHTS = [[0.5, -1.0, 0.0], None, [3.0, None, 4.0]]
FIELDS = (Field("site"), Field("other"), Field("tags"))
LOG = LogSchema(
    name="s", label="y", categorical=FIELDS, lists=("tags",), weights=(("site", "site_w"), ("tags", "tag_w"))
)
TOML = """[log]
label = "y"
categorical = [{ name = "site", weights = "site_w" }, "other", { name = "tags", list = true, weights = "tag_w" }]
"""


def key(number: int, text: str) -> int:
    return make_key(number, "hash", text)


def expected_values() -> list[dict[int, float]]:
    """The weight of each value of a row; a missing value has 1, whatever stands beside it."""
    rows = []
    for site, site_weight, tags, weights in zip(SITES, SITE_WEIGHTS, TAGS, TAG_WEIGHTS, strict=True):
        found = {key(1, site): site_weight if site else 1.0, key(2, "o"): 1.0}
        listed = [(tag, weight) for tag, weight in zip(tags or [], weights or [], strict=True) if tag]
        rows.append({**found, **{key(3, tag): weight for tag, weight in listed or [("", 1.0)]}})
    return rows


def values_of(batch: ClickBatch) -> list[dict[int, float]]:
    assert batch.key_weights is not None
    assert batch.more is not None
    assert batch.more.weights is not None
    rows = []
    for row, (begin, end) in enumerate(pairwise(batch.more.offsets.tolist())):
        words = [*batch.keys[row].tolist(), *batch.more.keys[begin:end].tolist()]
        weights = [*batch.key_weights[row].tolist(), *batch.more.weights[begin:end].tolist()]
        rows.append(dict(zip(words, weights, strict=True)))
    return rows


def read(path: Path, schema: LogSchema = LOG) -> LogRows:
    (block,) = read_log(path, schema, 100)
    return block.parse()


def write_json(path: Path) -> None:
    rows = zip(SITES, SITE_WEIGHTS, TAGS, TAG_WEIGHTS, strict=True)
    lines = [{"y": 1, "site": s, "other": "o", "site_w": w, "tags": t, "tag_w": v} for s, w, t, v in rows]
    path.write_text("\n".join(map(json.dumps, lines)))


def write_delimited(path: Path) -> None:
    def cell(values: list[object] | None) -> str:
        return "|".join("" if value is None else str(value) for value in values or [])

    rows = zip(SITES, SITE_WEIGHTS, TAGS, TAG_WEIGHTS, strict=True)
    lines = [f"1,{s},o,{w},{cell(t)},{cell(v)}" for s, w, t, v in rows]  # type: ignore[arg-type]
    path.write_text("\n".join(["y,site,other,site_w,tags,tag_w", *lines]))


def write_parquet(path: Path, kind: pa.DataType) -> None:
    columns = {
        "y": [1] * 3,
        "price": [0.9] * 3,
        "site": SITES,
        "other": ["o"] * 3,
        "site_w": SITE_WEIGHTS,
        "tags": TAGS,
    }
    pq.write_table(pa.table({**columns, "tag_w": pa.array(TAG_WEIGHTS, kind)}), path)


@pytest.mark.parametrize("kind", ["float", "double", "json", "delimited"])
def test_every_format_gives_the_weights_of_its_values(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "log"
    if kind == "json":
        write_json(path)
    elif kind == "delimited":
        write_delimited(path)
    else:
        write_parquet(path, pa.list_(pa.float32() if kind == "float" else pa.float64()))
    (tmp_path / "log.toml").write_text(TOML)
    schema = load_schema(str(tmp_path / "log.toml"))
    assert (schema.lists, schema.weights, schema.categorical) == (LOG.lists, LOG.weights, LOG.categorical)
    rows = read(path, schema)
    assert rows.bad == ()
    assert values_of(rows.batch) == expected_values()


def test_the_values_of_pairs_are_weights_in_libsvm_and_ffm(tmp_path: Path) -> None:
    (tmp_path / "svm.toml").write_text(
        '[log]\nformat = "libsvm"\nlabel = "y"\ndense = ["9"]\n'
        'categorical = [{ name = "a", weights = true }, { name = "b", list = true, weights = true }]\n'
    )
    (tmp_path / "ffm.toml").write_text(
        '[log]\nformat = "ffm"\nlabel = "y"\ndense = ["9"]\n'
        'categorical = [{ name = "a", column = "0", weights = true }, '
        '{ name = "b", column = "1", list = true, weights = true }]\n'
    )
    (tmp_path / "svm").write_text("1 3:2 17:0.5 9:8 18:-1 19:4\n0 4:1\n")
    (tmp_path / "ffm").write_text("1 0:3:2 1:17:0.5 9:1:8 1:18:-1 1:19:4\n0 0:4:1\n")
    listed = {key(2, "17"): 0.5, key(2, "18"): -1.0, key(2, "19"): 4.0}
    for name in ("svm", "ffm"):
        rows = read(tmp_path / name, load_schema(str(tmp_path / f"{name}.toml")))
        assert rows.bad == ()
        assert values_of(rows.batch) == [{key(1, "3"): 2.0, **listed}, {key(1, "4"): 1.0, key(2, ""): 1.0}]
        assert rows.batch.dense.tolist() == [[8.0], [0.0]]


def test_weights_that_do_not_fit_their_values_make_their_row_malformed_and_no_other(tmp_path: Path) -> None:
    values = [["a", "b"], ["a", "b"], ["a", "b"], ["a", "b"], ["a"]]
    weights = [[1.0, 2.0], [1.0], [1.0, None], [1.0, float("inf")], [5.0]]
    schema = LogSchema(name="s", label="y", categorical=(Field("t"),), lists=("t",), weights=(("t", "w"),))
    table = pa.table({"y": [1] * 5, "t": values, "w": weights})
    pq.write_table(table, tmp_path / "log")
    cells = ["1|2", "1", "1|", "1|x", "5"]
    lines = [f"1,{'|'.join(tags)},{cell}" for tags, cell in zip(values, cells, strict=True)]
    (tmp_path / "log.csv").write_text("\n".join(["y,t,w", *lines]))
    for name, first in (("log", 1), ("log.csv", 2)):
        rows = read(tmp_path / name, schema)
        assert [(bad.line - first, bad.error, bad.column) for bad in rows.bad] == [
            (n, "Weight", "w") for n in (1, 2, 3)
        ]
        assert all("expected finite numbers, one for each value" in bad.reason for bad in rows.bad)
        assert values_of(rows.batch) == [{key(1, "a"): 1.0, key(1, "b"): 2.0}, {key(1, "a"): 5.0}]


def test_a_hex_field_of_a_delimited_file_has_weights_too(tmp_path: Path) -> None:
    schema = LogSchema(name="s", label="y", categorical=(Field("t", "hex32"),), weights=(("t", "w"),))
    (tmp_path / "log.csv").write_text("y,t,w\n1,0000000a,0.5\n1,xyz,1\n0,,\n")
    rows = read(tmp_path / "log.csv", schema)
    assert [bad.error for bad in rows.bad] == ["Token"]
    assert rows.batch.key_weights is not None
    assert rows.batch.key_weights.tolist() == [[0.5], [1.0]]
    assert rows.batch.more is None


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"weights": (("u", "w"),)}, "weights of 'u', which is not a categorical column"),
        ({"weights": (("t", "t:value"),)}, "weights of 't': expected the name of a column of numbers"),
        ({"weights": (("t", "w"),), "format": "ffm"}, "weights of 't': expected true, for the pairs' values"),
    ],
)
def test_a_schema_whose_weights_cannot_be_is_refused(options: dict[str, object], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        LogSchema(name="s", categorical=(Field("t"),), **options)  # type: ignore[arg-type]


def test_columns_of_weights_that_are_absent_or_no_numbers_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"y": [1], "t": [["a"]], "w": [1.0], "v": [[["x"]]]}), tmp_path / "log")
    for column, why in (("none", "column 'none' of schema s is missing"), ("w", "is double, expected lists of numbers"),
                        ("v", "expected lists of numbers")):  # fmt: skip
        schema = LogSchema(name="s", label="y", categorical=(Field("t"),), lists=("t",), weights=(("t", column),))
        with pytest.raises(ConfigError, match=why):
            check_logs([tmp_path / "log"], schema)
    (tmp_path / "bad.toml").write_text('[log]\ncategorical = [{ name = "t", weights = 3 }]\n')
    with pytest.raises(ConfigError, match=r"weights of 't': got 3, expected a column's name"):
        load_schema(str(tmp_path / "bad.toml"))


def test_a_schema_without_weights_has_the_fingerprint_that_it_had() -> None:
    assert load_schema("criteo-kaggle").fingerprint() == "fc904b9465da3146"
    listed = LogSchema(name="s", categorical=(Field("t"),), lists=("t",))
    assert listed.fingerprint() == "761e0cebd0907594"
    weighted = LogSchema(name="s", categorical=(Field("t"),), lists=("t",), weights=(("t", "w"),))
    assert weighted.fingerprint() != listed.fingerprint()


def test_bags_of_raw_values_have_weights() -> None:
    columns = {"site": SITES, "other": ["o"] * 3, "site_w": SITE_WEIGHTS, "tags": TAGS, "tag_w": TAG_WEIGHTS}
    bags = key_bags(LOG, columns)
    assert bags.weights is not None
    ends = [*bags.offsets.tolist(), len(bags.keys)]
    found = [
        dict(zip(bags.keys[begin:end].tolist(), bags.weights[begin:end].tolist(), strict=True))
        for begin, end in zip(ends[:-3:3], ends[3::3], strict=True)
    ]
    assert found == expected_values()
    with pytest.raises(ConfigError, match="field 'site' has weights, expected none; call key_bags"):
        keys(LogSchema(name="s", categorical=FIELDS[:1], weights=(("site", "site_w"),)), columns)


def test_schema_check_shows_the_weights(tmp_path: Path) -> None:
    write_parquet(tmp_path / "log.parquet", pa.list_(pa.float32()))
    (tmp_path / "log.toml").write_text(TOML + 'dense = ["price"]\n')
    done = CliRunner().invoke(command, ["check", str(tmp_path / "log.parquet"), "--schema", str(tmp_path / "log.toml")])
    assert done.exit_code == 0, done.output
    first = done.output.splitlines()[0].split()
    assert first[first.index("price") + 1] == "0.9"
    assert [word.rpartition("*")[2] for word in first if "*" in word] == ["2", "1", "0.5", "-1", "0"]
    assert np.all([word.startswith(("site:", "other:", "tags:")) for word in first if "*" in word])
