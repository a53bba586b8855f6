"""`hotstream values`: the values of hot hashed features, and of no others, are published and shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from streams.assignments.reader import AssignmentReader
from streams.assignments.values import read_values
from streams.clients.admin import create_topics
from streams.clients.in_memory import InMemoryBroker
from streams.clients.producer import RecordProducer
from streams.commands.values import publish_values
from streams.commands.watch import _Watcher
from streams.errors import TopicError
from streams.keys import Field, make_key
from streams.logs.bad_lines import BadLines
from streams.logs.schema import LogSchema
from streams.records import Assignment, BadRecord, decode_value, encode_assignment, encode_value
from streams.topics import Topics

FIELDS = (Field("a"), Field("b", "hex32"), Field("c"))
SCHEMA = LogSchema(name="s", label="y", categorical=FIELDS)
HOT = [(1, "hash", "x1"), (1, "hash", "x5"), (1, "hash", "gone"), (2, "hex32", "0000000f"), (3, "hash", "ü\x1b")]


@pytest.fixture
def broker() -> Any:
    connector = InMemoryBroker(prefix="t")
    create_topics(connector, Topics("t").specs())
    with RecordProducer(connector) as producer:
        for seq, token in enumerate(HOT, 1):
            change = Assignment(
                key=make_key(*token), tier="hot", row=seq, shard=0, epoch=1, seq=seq, score=1.0, source=(0, 0),
                event_time_ms=0,
            )  # fmt: skip
            key, value, headers = encode_assignment(change, FIELDS)
            producer.send(Topics("t").assignments, 0, value, headers, key=key)
    return connector


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_only_values_of_hot_hashed_features_are_published(suffix: str, broker: Any, tmp_path: Path) -> None:
    path = tmp_path / f"log.{suffix}"
    rows = [(f"x{n % 9}", "0000000f", "ü\x1b" if n == 3 else "") for n in range(20)]
    if suffix == "csv":
        path.write_text("y,a,b,c\n" + "".join(f"1,{a},{b},{c}\n" for a, b, c in rows))
    else:
        path.write_text(
            "".join(f'{{"y":1,"a":"{a}","b":"{b}","c":"{c}"}}\n' for a, b, c in rows).replace("\x1b", "\\u001b")
        )
    counts = publish_values(broker, (str(path),), SCHEMA, BadLines())
    assert counts == {"hot": 4, "known": 0, "published": 3, "not found": 1}
    expected = {make_key(1, "hash", "x1"): "x1", make_key(1, "hash", "x5"): "x5", make_key(*HOT[4]): "ü\\x1b"}
    assert read_values(broker) == expected
    assert publish_values(broker, (str(path),), SCHEMA, BadLines())["published"] == 0


def test_watch_shows_the_value_beside_the_hash(broker: Any, capsys: pytest.CaptureFixture[str]) -> None:
    watcher = _Watcher(Console(), "text")
    watcher.values = {make_key(*HOT[0]): "x1"}
    with AssignmentReader(broker) as reader:
        while watcher.num_changes < len(HOT):
            watcher.take(reader, show_changes=True, limit=None)
    lines = capsys.readouterr().out.splitlines()
    assert [" (x1)" in line for line in lines] == [True, False, False, False, False]
    assert lines[0].startswith("hot   a:~")


def test_a_missing_topic_of_values_is_named(broker: Any) -> None:
    with pytest.raises(TopicError, match=r"t\.values"):
        read_values(broker)


def test_records_of_values_are_read_back_and_malformed_ones_refused() -> None:
    key, value, headers = encode_value(1 << 56 | 5, b"\xff")
    assert decode_value(key, value, headers) == (1 << 56 | 5, b"\xff")
    for broken in ((b"x", value, headers), (None, value, headers), (key, b"", headers), (key, value, [])):
        assert isinstance(decode_value(*broken), BadRecord)
