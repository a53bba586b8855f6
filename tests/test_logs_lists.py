"""Lists of values in logs: every format gives the same keys and further values, and refuses what is no list."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streams.bulk_keys import key_bags, keys
from streams.errors import ConfigError
from streams.keys import MISSING, Field, make_key
from streams.logs.bad_lines import BadLines
from streams.logs.locations import find_logs
from streams.logs.log_rows import LogRows
from streams.logs.reader import check_logs, read_log
from streams.logs.schema import LogSchema, load_schema
from streams.logs.value_finder import find_values
from streams.logs.value_lists import MAX_VALUES
from streams.records import ClickBatch

TAGS = [["a", "b"], [], None, ["c"], ["b", None, "", "b", "a"], [None, ""]]
IDS = [["0000000a"], ["0000000b", "0000000c"], None, ["0000000a"], [], ["0000000d", "0000000e"]]
SITES = ["x", "y", "x", "y", "", "x"]
FIELDS = (Field("site"), Field("tags"), Field("ids", "hex32"))
LOG = LogSchema(name="s", label="y", categorical=FIELDS, lists=("tags", "ids"))


def key(number: int, text: str) -> int:
    return make_key(number, FIELDS[number - 1].kind, text)


def present(values: list[str | None] | None) -> list[str]:
    return [value for value in values or [] if value]


def expected_rows() -> list[tuple[list[int], list[int]]]:
    rows = []
    for site, tags, ids in zip(SITES, TAGS, IDS, strict=True):
        values = [[site] if site else [], present(tags), present(ids)]
        first = [key(number, listed[0] if listed else "") for number, listed in enumerate(values, 1)]
        rows.append((first, [key(number, text) for number, listed in enumerate(values, 1) for text in listed[1:]]))
    return rows


def rows_of(batch: ClickBatch) -> list[tuple[list[int], list[int]]]:
    if batch.more is None:
        return [(row, []) for row in batch.keys.tolist()]
    lists = [batch.more.keys[begin:end].tolist() for begin, end in pairwise(batch.more.offsets.tolist())]
    return list(zip(batch.keys.tolist(), lists, strict=True))


def read(path: Path, schema: LogSchema = LOG) -> LogRows:
    (block,) = read_log(path, schema, 100)
    return block.parse()


def write_parquet(path: Path, tags: pa.DataType) -> None:
    ids = pa.array(IDS, pa.list_(pa.string()))
    pq.write_table(pa.table({"y": [1] * 6, "site": SITES, "tags": pa.array(TAGS, tags), "ids": ids}), path)


@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.string()), pa.large_list(pa.string()), pa.list_(pa.dictionary(pa.int32(), pa.string()))],
    ids=str,
)
def test_list_columns_of_parquet_are_several_values(kind: pa.DataType, tmp_path: Path) -> None:
    write_parquet(tmp_path / "log", kind)
    rows = read(tmp_path / "log")
    assert rows.bad == ()
    assert rows_of(rows.batch) == expected_rows()
    cut = [block.parse() for block in read_log(tmp_path / "log", LOG, 4)]  # a column that is cut has an offset
    assert [row for part in cut for row in rows_of(part.batch)] == expected_rows()


def test_a_list_of_numbers_has_the_keys_of_their_digits(tmp_path: Path) -> None:
    table = pa.table({"y": [1, 0], "n": [[5, 6], [7]], "f": pa.array([[5.0, None], None], pa.list_(pa.float64(), 2))})
    pq.write_table(table, tmp_path / "log")
    rows = read(
        tmp_path / "log", LogSchema(name="s", label="y", categorical=(Field("n"), Field("f")), lists=("n", "f"))
    )
    five, six, seven = (make_key(1, "hash", text) for text in "567")
    nothing = 2 << 56 | MISSING
    assert rows_of(rows.batch) == [([five, make_key(2, "hash", "5")], [six]), ([seven, nothing], [])]


def test_arrays_of_json_lines_are_several_values(tmp_path: Path) -> None:
    lines = [{"y": 1, "site": site, "tags": tags, "ids": ids} for site, tags, ids in zip(SITES, TAGS, IDS, strict=True)]
    lines[3]["tags"] = "c"  # one value needs no brackets
    (tmp_path / "log").write_text("\n".join(map(json.dumps, lines)))
    assert rows_of(read(tmp_path / "log").batch) == expected_rows()


def test_cells_of_delimited_files_are_split(tmp_path: Path) -> None:
    def cell(values: list[str | None] | None) -> str:
        return ";".join(value or "" for value in values or [])

    lines = [f"1,{s},{cell(t)},{cell(i)}" for s, t, i in zip(SITES, TAGS, IDS, strict=True)]
    (tmp_path / "log").write_text("\n".join(["y,site,tags,ids", *lines]))
    (tmp_path / "log.toml").write_text(
        '[log]\nlabel = "y"\nlist_separator = ";"\ncategorical = ["site", { name = "tags", list = true },'
        '{ name = "ids", kind = "hex32", list = true }]\n'
    )
    schema = load_schema(str(tmp_path / "log.toml"))
    assert (schema.lists, schema.list_columns) == (("tags", "ids"), {"tags", "ids"})
    rows = read(tmp_path / "log", schema)
    assert rows.bad == ()
    assert rows_of(rows.batch) == expected_rows()


def test_the_pairs_of_a_field_of_an_ffm_file_are_its_values(tmp_path: Path) -> None:
    schema = LogSchema(name="s", label="y", categorical=(Field("a"), Field("b")), renamed=(("a", "0"), ("b", "1")),
                       format="ffm", lists=("b",))  # fmt: skip
    (tmp_path / "log").write_text("1 0:3:1 1:17:1 1:18:1\n0 0:4:1\n")
    hashed = [make_key(2, "hash", text) for text in ("17", "18")]
    rows = rows_of(read(tmp_path / "log", schema).batch)
    assert rows == [
        ([make_key(1, "hash", "3"), hashed[0]], [hashed[1]]),
        ([make_key(1, "hash", "4"), 2 << 56 | MISSING], []),
    ]


def test_a_malformed_value_of_a_list_makes_its_row_malformed_and_no_other(tmp_path: Path) -> None:
    table = pa.table({"y": [1, 1, 1], "ids": [["0000000a", "0000000b"], ["0000000a", "xyz"], ["0000000c"] * 3]})
    pq.write_table(table, tmp_path / "log")
    schema = LogSchema(name="s", label="y", categorical=(Field("ids", "hex32"),), lists=("ids",))
    rows = read(tmp_path / "log", schema)
    assert [(bad.line, bad.error) for bad in rows.bad] == [(2, "Token")]
    assert "column 'ids': got \"['0000000a', 'xyz']\"" in rows.bad[0].reason or "xyz" in rows.bad[0].reason
    assert [[k & 0xFF for k in [*first, *more]] for first, more in rows_of(rows.batch)] == [[10, 11], [12, 12, 12]]
    (tmp_path / "log.csv").write_text("y,ids\n1,0000000a|0000000b\n1,0000000a|xyz\n1,0000000c|0000000c|0000000c\n")
    text = read(tmp_path / "log.csv", schema)
    assert [(bad.line, bad.error) for bad in text.bad] == [(3, "Token")]
    assert rows_of(text.batch) == rows_of(rows.batch)


def test_a_list_that_is_too_long_is_malformed(tmp_path: Path) -> None:
    schema = LogSchema(name="s", label="y", categorical=(Field("t"),), lists=("t",))
    values = [["a"] * MAX_VALUES, ["a"] * (MAX_VALUES + 1)]
    pq.write_table(pa.table({"y": [1, 1], "t": values}), tmp_path / "log")
    (tmp_path / "log.csv").write_text("y,t\n" + "".join(f"1,{'|'.join(one)}\n" for one in values))
    for path in ("log", "log.csv"):
        rows = read(tmp_path / path, schema)
        assert [bad.error for bad in rows.bad] == ["Values"]
        assert f"at most {MAX_VALUES} values in a list" in rows.bad[0].reason
        assert len(rows_of(rows.batch)[0][1]) == MAX_VALUES - 1


def test_what_is_no_list_or_not_named_as_one_is_refused_with_the_remedy(tmp_path: Path) -> None:
    pq.write_table(pa.table({"y": [1], "tags": [["a"]], "site": ["x"], "deep": [[["a"]]]}), tmp_path / "log")
    fields = (Field("tags"),)
    with pytest.raises(ConfigError, match=r'to read all values of its lists: \{ name = "tags", list = true \}'):
        check_logs([tmp_path / "log"], LogSchema(name="s", label="y", categorical=fields))
    for name in ("site", "deep"):
        schema = LogSchema(name="s", label="y", categorical=(Field(name),), lists=(name,))
        with pytest.raises(ConfigError, match=r"expected lists of strings.*leave out list = true"):
            check_logs([tmp_path / "log"], schema)
    (tmp_path / "log.json").write_text('{"y": 1, "tags": ["a"]}\n{"y": 1, "tags": "a"}\n{"y": 0, "tags": "b"}\n')
    rows = read(tmp_path / "log.json", LogSchema(name="s", label="y", categorical=fields))
    assert "read them all with list = true, or name a part of it, such as tags[0]" in rows.bad[0].reason
    (tmp_path / "log.json").write_text('{"y": 1, "tags": [{"id": 1}]}\n{"y": 1, "tags": ["a"]}\n')
    rows = read(tmp_path / "log.json", LogSchema(name="s", label="y", categorical=fields, lists=("tags",)))
    assert "got a list, expected a list of values" in rows.bad[0].reason


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"lists": ("nothing",)}, "list 'nothing' is not a categorical column"),
        ({"lists": ("t",), "format": "libsvm", "categorical": (Field("t"), Field("u"))}, "write it as ffm"),
        (
            {"lists": ("t",), "list_separator": ","},
            "list_separator ',', expected characters that the delimiter ',' lacks",
        ),
        ({"lists": ("t",), "list_separator": ""}, "list_separator ''"),
    ],
)
def test_a_schema_whose_lists_cannot_be_is_refused(options: dict[str, object], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        LogSchema(**{"name": "s", "categorical": (Field("t"),), **options})  # type: ignore[arg-type]


def test_a_schema_without_lists_has_the_fingerprint_that_it_had() -> None:
    assert load_schema("criteo-kaggle").fingerprint() == "fc904b9465da3146"
    plain = LogSchema(name="s", categorical=(Field("t"),))
    assert plain.fingerprint() != LogSchema(name="s", categorical=(Field("t"),), lists=("t",)).fingerprint()


def test_bags_of_raw_values_are_those_that_an_embedding_takes() -> None:
    columns = {"site": SITES, "tags": TAGS, "ids": IDS}
    words, offsets, weights = key_bags(LOG, columns)
    assert weights is None
    bags = [words[begin:end].tolist() for begin, end in pairwise([*offsets.tolist(), len(words)])]
    assert [bag[0] for bag in bags] == [word for first, _ in expected_rows() for word in first]
    assert [bags[row * 3 + 1] for row in (0, 4)] == [[key(2, t) for t in "ab"], [key(2, t) for t in "bba"]]
    with pytest.raises(ConfigError, match="field 'tags' is a list, expected one value a field and row; call key_bags"):
        keys(LOG, columns)
    plain, starts, _ = key_bags([Field("site")], {"site": SITES})
    np.testing.assert_array_equal(plain, keys([Field("site")], {"site": SITES})[:, 0])
    assert starts.tolist() == list(range(6))


def test_the_values_of_keys_that_are_second_ones_are_found(tmp_path: Path) -> None:
    write_parquet(tmp_path / "log", pa.list_(pa.string()))
    found = dict(find_values(find_logs([tmp_path / "log"]), LOG, {key(2, "b"), key(2, "c"), key(1, "x")}, BadLines()))
    assert found == {key(2, "b"): b"b", key(2, "c"): b"c", key(1, "x"): b"x"}
