"""Log schemas: the built-in ones, TOML files, and the errors of invalid files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from streams.errors import ConfigError
from streams.keys import Field
from streams.logs.schema import SCHEMAS, LogSchema, load_schema

TOML = """
[log]
label = "click"
dense = ["price"]
categorical = ["site", { name = "ad", kind = "hex32" }]
time = "ts"
time_format = "ms"
delimiter = ";"
header = false
columns = ["ts", "click", "site", "ad", "price", "unused"]
"""


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return str(path)


def test_built_in_schemas_have_the_columns_of_the_logs() -> None:
    kaggle, avazu = SCHEMAS["criteo-kaggle"], SCHEMAS["avazu"]
    assert len(kaggle.columns) == 40
    assert kaggle.columns == ("label", *kaggle.dense, *(field.name for field in kaggle.categorical))
    assert kaggle.fingerprint() == SCHEMAS["criteo-terabyte"].fingerprint()
    assert len(avazu.categorical) == 22
    assert avazu.parse_time_ms("14102100") == 1413849600_000


def test_a_toml_file_sets_every_argument(tmp_path: Path) -> None:
    schema = load_schema(write(tmp_path, TOML))
    assert schema == LogSchema(
        name="mine",
        label="click",
        dense=("price",),
        categorical=(Field("site"), Field("ad", "hex32")),
        time="ts",
        time_format="ms",
        delimiter=";",
        header=False,
        columns=("ts", "click", "site", "ad", "price", "unused"),
    )
    assert schema.used_columns == ("click", "price", "site", "ad", "ts")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("label =", "lable ="), "got key 'lable', expected one of label"),
        (('["site", { name = "ad", kind = "hex32" }]', "[]"), "key 'categorical' is missing or empty"),
        (('label = "click"', "label_above = 0"), "label_above without a label"),
        (('dense = ["price"]', "label_above = true"), "label_above is True, expected a number"),
        (('dense = ["price"]', 'label_positive = ["1"]\nlabel_negative = ["1"]'), "both list '1'"),
        (('"site", {', '"site id", {'), "to read a column of another name"),
        (('"unused"]', '"click"]'), "column 'click' is repeated in columns"),
        (('"site", "ad", "price"', '"site", "price"'), "column 'ad' of schema mine is missing"),
        (('";"', '""'), "delimiter ''"),
        (('delimiter = ";"', 'format = "tsv"'), "format 'tsv', expected one of auto, delimited, json"),
        (('"ms"', '"minutes"'), "time_format 'minutes'"),
        (('kind = "hex32"', 'kind = "hex64"'), "field ad: got kind 'hex64'"),
        (('kind = "hex32"', 'sort = "hex32"'), "categorical holds"),
        (("header = false", "header = 0"), "header is 0, expected a bool"),
        (("[log]", "[logs]"), "expected one table [log]"),
        (("[log]", "[log"), "not valid TOML"),
        (('columns = ["ts", "click", "site", "ad", "price", "unused"]', ""), "'columns' is empty"),
        (('dense = ["price"]', "dense = [1]"), "expected a list of column names"),
    ],
)
def test_the_error_of_an_invalid_toml_file_names_the_fault(
    tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    assert change[0] in TOML
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_schema(write(tmp_path, TOML.replace(*change)))


def test_an_unknown_name_and_a_missing_file_are_refused() -> None:
    with pytest.raises(ConfigError, match="criteo-kaggle, criteo-terabyte, avazu"):
        load_schema("criteo")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_schema("no-such.toml")


def test_the_fingerprint_depends_on_every_argument_but_the_name(tmp_path: Path) -> None:
    schema = load_schema(write(tmp_path, TOML))
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "renamed.toml"
    other.write_text(TOML)
    assert load_schema(str(other)).fingerprint() == schema.fingerprint()
    assert load_schema(write(tmp_path, TOML.replace('"ms"', '"s"'))).fingerprint() != schema.fingerprint()


@pytest.mark.parametrize(
    ("time_format", "cell", "expected"),
    [
        ("s", "1413849600", 1413849600_000),
        ("ms", "1413849600123", 1413849600_123),
        ("%y%m%d%H", "14102101", 1413853200_000),
        ("%Y-%m-%d %H:%M:%S%z", "2014-10-21 02:00:00+0200", 1413849600_000),
        ("s", "", None),
        ("s", "-1", None),
        ("s", "1e9", None),
        ("ms", "9" * 30, None),
        ("%y%m%d%H", "14132100", None),
    ],
)
def test_times_are_milliseconds_in_utc(time_format: str, cell: str, expected: int | None) -> None:
    schema = LogSchema(name="t", label="y", categorical=(Field("a"),), time="t", time_format=time_format)
    assert schema.parse_time_ms(cell) == expected
