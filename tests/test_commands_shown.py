"""What `watch` and `dlq show` print of a topic: one line of printable characters, whatever the topic holds."""

from __future__ import annotations

import base64
import io
import json
from types import SimpleNamespace

from agent_driver import clicks_of
from rich.console import Console

from streams.clients.dead_letter_topics import DeadLetterTopics, Resent, read_dead_letters, resend
from streams.clients.in_memory import InMemoryBroker, Record
from streams.clients.producer import RecordProducer
from streams.commands.dlq import _describe
from streams.commands.watch import _field_table, _Watcher
from streams.records import Assignment, DeadLetter
from streams.records.readable import letter_as_json

HOSTILE = "[/red][bold]a\x1b[2J\r\nhot   forged row 1\x07"


def hostile_change() -> Assignment:
    return Assignment(
        key=1, tier="hot", shard=0, epoch=1, seq=1, row=3, feature=HOSTILE + ":" + HOSTILE * 100, score=1.0
    )


def test_a_feature_of_markup_and_escapes_is_printed_as_it_is(monkeypatch, capsys):
    reader = SimpleNamespace(poll=lambda: [(hostile_change(), None)])
    terminal = io.StringIO()
    watcher = _Watcher(Console(file=terminal, force_terminal=True, highlight=False, color_system=None), "text")
    for is_terminal in (True, False):
        monkeypatch.setattr("sys.stdout.isatty", lambda is_terminal=is_terminal: is_terminal)
        watcher.take(reader, show_changes=True, limit=None)
    for text in (terminal.getvalue(), capsys.readouterr().out):
        assert r"[/red][bold]a\x1b[2J\r\nhot" in text
        assert len(text.splitlines()) == 1
        assert text.rstrip("\n").isprintable()
        assert len(text) < 1500


def test_the_table_shows_a_field_of_markup_and_escapes_as_it_is():
    terminal = io.StringIO()
    Console(file=terminal, width=2000).print(_field_table({1: hostile_change()}))
    assert r"[/red][bold]a\x1b[2J\r\nhot" in terminal.getvalue()
    assert "\x1b" not in terminal.getvalue()
    assert len(terminal.getvalue().splitlines()) == 2


def test_the_table_as_json_is_printed_when_it_has_changed(capsys):
    watcher = _Watcher(Console(), "json", shows_table=True)
    for changes in ([(hostile_change(), None)], []):
        watcher.take(SimpleNamespace(poll=lambda changes=changes: changes), show_changes=False, limit=None)
        watcher.draw_last()
    (line,) = capsys.readouterr().out.splitlines()
    (field,) = json.loads(line)["fields"]
    assert (field["field"], field["hot"], field["best"][0]["row"]) == (HOSTILE.partition(":")[0], 1, 3)


def letter(value: bytes | None, key: bytes | None = None, *headers: tuple[str, bytes | None]) -> DeadLetter:
    broker = InMemoryBroker({"t": 1, "t.dlq": 1})
    addressed = DeadLetterTopics(broker, ["t"]).reject(Record("t", 0, 7, 0, key, value, list(headers)), "reason")
    return DeadLetter.of(Record("t.dlq", 0, 0, 0, *addressed[2:]))


def test_a_dead_letter_shows_its_headers_key_and_readable_value():
    shown = _describe(letter('{"a": "café"}'.encode(), b"\x00k", ("content-type", b"text"), ("none", None)))
    assert shown.splitlines()[1:] == [
        "    headers: content-type='text', none=null", r"    key: '\x00k'", """    '{"a": "café"}'""",
    ]  # fmt: skip
    assert _describe(letter(clicks_of(0))).splitlines()[-1].startswith("    200 rows, the first: label=0, dense=")
    assert _describe(letter(clicks_of(0)[:300])).splitlines()[-1].startswith(r"    '\xff\xff\xff\xff")


def test_a_dead_letter_as_json_has_all_of_its_bytes():
    shown = json.loads(json.dumps(letter_as_json(letter(b"\xff\x00" * 999, b"k", ("h", b"\xfe")))))
    assert base64.b64decode(shown["value_base64"]) == b"\xff\x00" * 999
    assert (shown["key"], shown["origin"], shown["message"], shown["is_cut"]) == ("k", "t[0]@7", "reason", False)
    assert shown["headers"] == [{"name": "h", "value": r"'\xfe'", "value_base64": "/g=="}]
    assert letter_as_json(letter(None))["value"] is None


def test_a_dead_letter_is_shown_on_two_lines_whatever_it_holds():
    headers = [
        ("dlq-topic", HOSTILE.encode()), ("dlq-partition", b"\x1b[1m"), ("dlq-offset", None),
        ("dlq-error", b"\n" * 9000), ("dlq-message", HOSTILE.encode() * 10_000), ("dlq-time-ms", b"9" * 18),
    ]  # fmt: skip
    for value in (None, HOSTILE.encode() * 1000):
        shown = _describe(DeadLetter.of(Record("t.dlq", 0, 0, 0, None, value, headers)))
        assert len(shown.splitlines()) == 2
        assert all(line.isprintable() for line in shown.splitlines())
        assert len(shown) < 3000
        assert shown.startswith("9999-12-31 23:59:59")


def test_nulls_of_key_value_and_headers_are_sent_again_as_nulls():
    broker = InMemoryBroker({"t": 2, "t.dlq": 2})
    original = Record("t", 1, 10, 0, None, None, [("h", None), ("empty", b"")])
    unreadable = Record("t", 1, 11, 0, b"k", b"half of a batch", [("dlq-unreadable", b"gzip: damaged")])
    with RecordProducer(broker) as producer:
        for record in (original, unreadable):
            letter = DeadLetterTopics(broker, ["t"]).reject(record, "reason")
            producer.send(letter.topic, letter.partition, letter.value, letter.headers, key=letter.key)
    assert [letter.is_cut for letter in read_dead_letters(broker, "t")] == [False, True]
    assert resend(broker, "t") == Resent(sent=1, left=0, cut=1)
    [again] = broker.records("t", 1)
    assert (again.key, again.value, list(again.headers)) == (None, None, [("h", None), ("empty", b"")])
