"""docs/schema.md: every key of its example is one of the reader's, and its join gives the labels that it promises."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streams.logs.schema import load_schema
from streams.logs.schema_file import _KEYS

PAGE = (Path(__file__).parents[1] / "docs" / "schema.md").read_text()


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return found


def test_the_example_has_every_key_and_is_a_schema(tmp_path: Path) -> None:
    path = tmp_path / "log.toml"
    path.write_text(re.sub("^columns = .*$", "", block("toml"), flags=re.MULTILINE))
    schema = load_schema(str(path))
    assert schema.field_columns == ("site", "ad", "user.age group", "genres[0]", "tags", "words")
    assert set(re.findall(r"^(\w+) =", block("toml"), re.MULTILINE)) == set(_KEYS)


def test_labels_are_joined_within_the_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hour_ms = 3_600_000
    impressions = pa.table({"id": ["a", "b", "c", "d"], "ts": [0, 1000, 2000, 3000], "site": ["x", "y", "z", "w"]})
    clicks = pa.table({"id": ["b", "a", "c", "d"], "ts": [1000, hour_ms, 2001 + hour_ms, 2999]})
    monkeypatch.chdir(tmp_path)
    pq.write_table(impressions, "impressions.parquet")
    pq.write_table(clicks, "clicks.parquet")
    exec(block("python"), {})  # noqa: S102  it is ours
    joined = pq.read_table("joined.parquet").to_pydict()
    assert dict(zip(joined["id"], joined["click"], strict=True)) == {"a": 1, "b": 1, "c": 0, "d": 0}
