"""`hotstream schema`: a schema that is inferred from a sample reads that log; `check` shows its rows as keys."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from streams.commands.schema import command
from streams.errors import ConfigError, InputError
from streams.keys import Field, format_key
from streams.logs.inference import infer_schema
from streams.logs.labels import LabelRule
from streams.logs.locations import LocalFile
from streams.logs.reader import read_log
from streams.logs.sample import take_sample
from streams.logs.schema import LogSchema, load_schema

ROWS = 60


def infer(tmp_path: Path, text: str | bytes) -> LogSchema:
    """The inferred schema, which must read every row."""
    log, schema_path = tmp_path / "log", tmp_path / "inferred.toml"
    log.write_bytes(text.encode() if isinstance(text, str) else text)
    schema_path.write_text(infer_schema(take_sample(LocalFile(log))))
    schema = load_schema(str(schema_path))
    rows = [block.parse() for block in read_log(log, schema, 1000)]
    assert sum(one.batch.num_rows for one in rows) == ROWS
    assert [bad for one in rows for bad in one.bad] == []
    return schema


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|", "\x01", "||", "::"])
@pytest.mark.parametrize("is_quoted", [True, False])
def test_a_delimited_log(delimiter: str, is_quoted: bool, tmp_path: Path) -> None:
    mark = '"' if is_quoted else ""
    rows = [["id", "click", "site id", "price", "ad", "ts"]]
    rows += [[f"r{n}", str(n % 2), f"{mark}s{n % 7}{mark}", f"{n}.5", f"{n % 5 * 99:07x}a", str(1_700_000_000 + n)]
             for n in range(ROWS)]  # fmt: skip
    schema = infer(tmp_path, "\n".join(delimiter.join(row) for row in rows))
    assert (schema.label, schema.dense, schema.time, schema.time_format) == ("click", ("price",), "ts", "s")
    assert schema.categorical == (Field("site_id"), Field("ad", "hex32"))
    assert (schema.field_columns, schema.delimiter) == (("site id", "ad"), delimiter)
    assert schema.quote


def test_a_log_without_a_header_of_labels_of_another_kind(tmp_path: Path) -> None:
    schema = infer(tmp_path, "".join(f"{-1 if n % 2 else 1}\ts{n % 7}\tNULL\n" for n in range(ROWS)))
    assert (schema.label, schema.label_rule.negative, schema.header) == ("c0", ("-1",), False)
    assert (schema.columns, schema.missing) == (("c0", "c1", "c2"), ("NULL",))
    assert infer(tmp_path, "".join(f"{n % 4}\ts{n % 7}\n" for n in range(ROWS))).label_rule.above == 0


def test_json_lines_with_members_and_lists(tmp_path: Path) -> None:
    rows = [
        {
            "y": n % 2 == 0,
            "user": {"id": n % 7},
            "genres": [1, 2],
            "ids": ["0000000a"] * (n % 3),
            "vector": [0.5, 1.0],
            "at": f"2024-01-02T03:04:{n:02d}{'.5' * (n % 2)}Z",
        }
        for n in range(ROWS)
    ]
    schema = infer(tmp_path, "\n".join(map(json.dumps, rows)))
    assert (schema.label, schema.field_columns) == ("y", ("user.id", "genres", "ids"))
    assert (schema.lists, schema.categorical[2].kind) == (("genres", "ids"), "hex32")
    assert (schema.time, schema.time_format) == ("at", "iso")
    assert (
        '# "vector": a list: name its elements, such as { name = "vector_1", column = "vector[0]" }'
        in (tmp_path / "inferred.toml").read_text()
    )


def test_libsvm_and_ffm(tmp_path: Path) -> None:
    schema = infer(tmp_path, "".join(f"{n % 2} {n % 7}:1 {9 + n % 3}:1\n" for n in range(ROWS)))
    assert (schema.format, schema.field_columns) == ("libsvm", ("f1", "f2"))
    infer(tmp_path, "".join(f"{n % 2} {n % 7}:1 7:1{' 8:1' * (n % 3)}\n" for n in range(ROWS)))
    assert '# "f3": rows have 2 to 4 pairs, and a field is the pair at a position' in read_inferred(tmp_path)
    schema = infer(tmp_path, "".join(f"{n % 2} 0:{n % 7}:1 3:{9 + n % 3}:1\n" for n in range(ROWS)))
    assert (schema.format, schema.field_columns, schema.categorical[1].name) == ("ffm", ("0", "3"), "f3")
    schema = infer(tmp_path, "".join(f"{n % 2} {200 + n % 50} {n % 7}:1\n" for n in range(ROWS)))  # iPinYou
    assert (schema.columns, schema.field_columns) == (("c0", "c1"), ("f1",))  # the second one is a price, no feature
    assert '# "c1": stands before the pairs' in (tmp_path / "inferred.toml").read_text()


def test_a_time_with_a_few_malformed_cells(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("click,time,a\n" + "".join(f"{n % 2},{'?' if n == 0 else 1_700_000_000 + n},s{n % 7}\n"
                                             for n in range(ROWS)))  # fmt: skip
    assert 'time = "time"\ntime_format = "s"' in infer_schema(take_sample(LocalFile(log)))


def test_numbers_of_another_notation_are_pointed_out(tmp_path: Path) -> None:
    schema = infer(
        tmp_path, "click,price,a\n" + "".join(f'{n % 2},"{n % 7},{n % 5:03d}",s{n % 7}\n' for n in range(ROWS))
    )
    assert (schema.dense, schema.categorical) == ((), (Field("price"), Field("a")))
    assert "# \"price\": has '0,000'; write it without separators of thousands in a copy" in read_inferred(tmp_path)


def read_inferred(tmp_path: Path) -> str:
    return (tmp_path / "inferred.toml").read_text()


def test_a_label_of_words_and_one_with_a_few_malformed_cells(tmp_path: Path) -> None:
    schema = infer(tmp_path, "clicked,a\n" + "".join(f"{'YES' if n % 3 else 'no'},s{n % 7}\n" for n in range(ROWS)))
    assert (schema.label, schema.label_rule) == ("clicked", LabelRule(positive=("YES",), negative=("no",)))
    log = tmp_path / "bad.csv"
    log.write_text("click,a\n" + "".join(f"{'?' if n == 9 else n % 2},s{n % 7}\n" for n in range(ROWS)))
    assert 'label = "click"' in infer_schema(take_sample(LocalFile(log)))
    log.write_text("click,a\n" + "".join(f"{'?' if n % 9 else n % 2},s{n % 7}\n" for n in range(ROWS)))
    assert "# no label was found" in infer_schema(take_sample(LocalFile(log)))


@pytest.mark.parametrize(
    ("cell", "time_format"),
    [
        ("20130606000007820", "%Y%m%d%H%M%S%f"),  # as in iPinYou's logs
        ("20130606000007", "%Y%m%d%H%M%S"),
        ("2013060600", "%Y%m%d%H"),
    ],
)
def test_times_of_digits(cell: str, time_format: str, tmp_path: Path) -> None:
    text = "click,timestamp,a\n" + "".join(f"{n % 2},{cell},s{n % 7}\n" for n in range(ROWS))
    schema = infer(tmp_path, text)
    assert (schema.time, schema.time_format) == ("timestamp", time_format)


def test_parquet_with_a_timestamp(tmp_path: Path) -> None:
    table = pa.table(
        {
            "label": [n % 2 for n in range(ROWS)],
            "when": pa.array([1_700_000_000 + n for n in range(ROWS)], pa.timestamp("s")),
            "user": [{"id": f"u{n % 9}", "age": n % 50 + 0.5} for n in range(ROWS)],
            "weight": [0.5] * ROWS,
        }
    )
    pq.write_table(table, tmp_path / "table")
    schema = infer(tmp_path, (tmp_path / "table").read_bytes())
    assert (schema.time, schema.field_columns, schema.dense, schema.weight) == (
        "when", ("user.id",), ("user.age",), "weight",
    )  # fmt: skip


def test_a_timestamp_is_the_time_rather_than_a_date_before_it(tmp_path: Path) -> None:
    at = pa.array([1_700_000_000 + n for n in range(ROWS)], pa.timestamp("s"))
    table = pa.table({"day": at.cast(pa.date32()), "at": at, "click": [n % 2 for n in range(ROWS)], "a": ["x"] * ROWS})
    pq.write_table(table, tmp_path / "table")
    schema = infer(tmp_path, (tmp_path / "table").read_bytes())
    assert (schema.time, schema.field_columns) == ("at", ("day", "a"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no rows in it"),
        (b"click,site,user\n", "one line, expected at least two"),
        (b'[\n  {"click": 1}\n]\n', r"a JSON array, expected one object a line; convert it with: jq -c '\.\[\]'"),
        (b'[{"click": 1}, {"click": 0}]', "a JSON array"),
        (b"Obj\x01\x04\x14avro.codec\x00\n\x00\x01", "binary data of an unknown format, expected text or Parquet"),
    ],
)
def test_what_has_no_schema_is_refused_with_the_reason(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(content)
    with pytest.raises(InputError, match=reason):
        take_sample(LocalFile(tmp_path / "log"))


def test_infer_writes_a_file_and_check_shows_its_rows_as_keys(tmp_path: Path) -> None:
    log, out = tmp_path / "a log.csv", tmp_path / "log.toml"
    log.write_text("click,site\n" + "".join(f"{n % 2},s{n % 7}\n" for n in range(ROWS)) + "x,s0\n" * 3)
    run = CliRunner().invoke(command, ["infer", str(log), "--out", str(out)])
    assert run.exit_code == 0, run.output
    assert "no label was found" not in run.output
    assert f"schema check '{log}' --schema" in run.output
    again = CliRunner().invoke(command, ["infer", str(log), "--out", str(out)])
    assert isinstance(again.exception, ConfigError)
    out.write_text('[log]\nlabel = "click"\ncategorical = ["site"]\n')
    report = tmp_path / "report.json"
    done = CliRunner().invoke(command, ["check", str(log), "--schema", str(out), "--rows", "2", "--json", str(report)])
    assert isinstance(done.exception, InputError)  # exit 1: 3 of 63 lines
    assert "3 x Label: a log.csv, line 62: column 'click': got 'x', expected 0 or 1" in done.output
    first = json.loads(report.read_text())["rows"][0]
    (block,) = read_log(log, load_schema(str(out)), 100)
    key = format_key(int(block.parse().batch.keys[0, 0]), (Field("site"),))
    assert first == {"line": 2, "label": 0, "keys": key}
    assert f"line 2  label 0  keys {key}" in done.output


def test_a_log_of_excel_has_a_byte_order_mark_before_a_quoted_name(tmp_path: Path) -> None:
    lines = "".join(f'"{"yes" if n % 3 else "no"}","s, {n % 7}"\r\n' for n in range(ROWS))
    schema = infer(tmp_path, b"\xef\xbb\xbf" + f'"Clicked?","Site"\r\n{lines}'.encode())
    assert (schema.label, schema.field_columns) == ("Clicked?", ("Site",))
    assert schema.label_rule == LabelRule(positive=("yes",), negative=("no",))


@pytest.mark.parametrize("kind", ["json", "headless"])
def test_a_byte_order_mark_is_no_part_of_the_first_line_of_any_format(kind: str, tmp_path: Path) -> None:
    lines = [f'{{"click": {n % 2}, "a": "s{n % 7}"}}' if kind == "json" else f"{n % 2},s{n % 7}" for n in range(ROWS)]
    schema = infer(tmp_path, b"\xef\xbb\xbf" + "\n".join(lines).encode())
    assert schema.label == ("click" if kind == "json" else "c0")


def test_the_first_column_without_a_name_is_a_time_rather_than_a_count(tmp_path: Path) -> None:
    schema = infer(tmp_path, "".join(f"{1_700_000_000 + n}\ts{n % 7}\t{n % 5}\n" for n in range(ROWS)))
    assert (schema.label, schema.time, schema.time_format) == (None, "c0", "s")
    assert schema.field_columns == ("c1", "c2")
    ids = infer(tmp_path, "".join(f"{1_700_000_000 + n * 7919 % 601}\ts{n % 7}\n" for n in range(ROWS)))
    assert (ids.label, ids.time) == (None, None)


def test_a_list_of_numbers_as_long_as_another_list_may_be_its_weights(tmp_path: Path) -> None:
    columns = {"click": [n % 2 for n in range(ROWS)], "tags": [["a", "b"][: n % 3] for n in range(ROWS)]}
    weights = [[0.25] * len(tags) for tags in columns["tags"]]  # type: ignore[arg-type]
    pq.write_table(pa.table({**columns, "scores": weights, "others": [[0.5, 0.25]] * ROWS}), tmp_path / "table")
    infer(tmp_path, (tmp_path / "table").read_bytes())
    notes = {line.split(":")[0]: line for line in read_inferred(tmp_path).splitlines() if line.startswith("#")}
    assert 'their weights: { name = "tags", list = true, weights = "scores" }' in notes['# "scores"']
    assert "their weights" not in notes['# "others"']


@pytest.mark.parametrize(("value", "is_noted"), [("1", False), ("1.0", False), ("0.5", True)])
@pytest.mark.parametrize("field", ["", "3:"])
def test_values_of_pairs_that_may_be_weights_are_pointed_out(
    value: str, is_noted: bool, field: str, tmp_path: Path
) -> None:
    infer(tmp_path, "".join(f"{n % 2} {field}{n % 7}:{value}\n" for n in range(ROWS)))
    assert ('# "pairs": have other values than 1; name those that are numbers' in read_inferred(tmp_path)) == is_noted


def test_columns_of_0_and_1_are_named_where_no_label_was_found(tmp_path: Path) -> None:
    log = tmp_path / "won.csv"
    rows = "".join(f"s{n % 7},{n % 2},{n % 3}\n" for n in range(ROWS))
    log.write_text("site,won,kind\n" + rows)
    text = infer_schema(take_sample(LocalFile(log)))
    assert '# only 0 and 1: "won"; if one is the label, delete it from categorical' in text
    log.write_text("site,bought,kind\n" + rows)
    assert 'label = "bought"' in infer_schema(take_sample(LocalFile(log)))
