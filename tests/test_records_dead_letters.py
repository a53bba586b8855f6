"""Dead letters hold the rejected record unchanged, nulls included, cut only where it does not fit."""

from __future__ import annotations

import pytest

from streams.clients.dead_letter_topics import DeadLetterTopics, Resent, read_dead_letters, resend
from streams.clients.in_memory import InMemoryBroker, Record
from streams.clients.producer import RecordProducer
from streams.errors import TopicError
from streams.records import MAX_RECORD_BYTES, DeadLetter, write_letter, write_line_letter


def record(key: bytes | None = b"k", value: bytes | None = b"v", headers: object = ()) -> Record:
    return Record("t", 1, 2, 3, key, value, list(headers))  # type: ignore[call-overload]


def size_of(letter) -> int:
    """The size of the letter as a record, without the length fields."""
    headers = sum(len(name) + len(value) for name, value in letter.headers)
    return headers + len(letter.key or b"") + len(letter.value or b"")


def test_the_headers_name_origin_and_reason_after_the_records_own():
    letter = write_letter(record(headers=[("own", b"1")]), error="BadRecord", message="x" * 9999, time_ms=3)
    assert letter.headers == [
        ("own", b"1"),
        ("dlq-topic", b"t"),
        ("dlq-partition", b"1"),
        ("dlq-offset", b"2"),
        ("dlq-error", b"BadRecord"),
        ("dlq-message", b"x" * 2000),
        ("dlq-time-ms", b"3"),
    ]
    line = write_line_letter(b"a\tb", file="log.tsv", line=7, error="Columns", message="2 columns", time_ms=3)
    assert line.value == b"a\tb"
    assert line.headers[:2] == [("dlq-file", b"log.tsv"), ("dlq-line", b"7")]


@pytest.mark.parametrize("key", [None, b"", b"k"])
@pytest.mark.parametrize("value", [None, b"", b"v"])
def test_key_and_value_come_back_as_they_were_nulls_included(key, value):
    letter = write_letter(record(key, value, [("h", b"")]), error="BadRecord", message="m", time_ms=3)
    read = DeadLetter.of(Record("t.dlq", 0, 0, 0, *letter))
    assert (read.key, read.value, read.headers) == (key, value, (("h", b""),))
    assert (read.topic, read.partition, read.origin, read.is_cut) == ("t", 1, "t[1]@2", False)


@pytest.mark.parametrize(
    ("large", "cut"),
    [
        (record(value=b"x" * MAX_RECORD_BYTES), {"dlq-cut-from-bytes": MAX_RECORD_BYTES}),
        (record(key=b"x" * (1 << 20)), {"dlq-cut-key-from-bytes": 1 << 20}),
        (record(headers=[("h", b"x" * (1 << 17))] * 3), {"dlq-cut-headers-from-bytes": 3 * ((1 << 17) + 11)}),
        (
            record(b"k" * (1 << 17), b"x" * MAX_RECORD_BYTES, [("h", b"x" * (1 << 16))]),
            {
                "dlq-cut-headers-from-bytes": (1 << 16) + 11,
                "dlq-cut-key-from-bytes": 1 << 17,
                "dlq-cut-from-bytes": MAX_RECORD_BYTES,
            },
        ),
    ],
    ids=["value", "key", "headers", "all"],
)
def test_what_does_not_fit_a_record_is_cut_and_a_header_names_its_size(large, cut):
    letter = write_letter(large, error="BadRecord", message="m" * 2000, time_ms=3)
    assert size_of(letter) < MAX_RECORD_BYTES
    assert {name: int(value) for name, value in letter.headers if name.startswith("dlq-cut")} == cut
    assert DeadLetter.of(Record("t.dlq", 0, 0, 0, *letter)).is_cut
    assert (large.key or b"").startswith(letter.key)
    assert (large.value or b"").startswith(letter.value)
    assert dict(letter.headers)["dlq-topic"] == b"t"


def test_the_largest_value_that_fits_is_not_cut():
    letter = write_letter(record(None, b"x" * (MAX_RECORD_BYTES - 1000)), error="BadRecord", message="m", time_ms=3)
    assert len(letter.value or b"") == MAX_RECORD_BYTES - 1000


def test_a_null_header_stays_a_null():
    letter = write_letter(record(headers=[("h", None)]), error="BadRecord", message="m", time_ms=3)
    assert letter.headers[0] == ("h", None)


# ---- their topics ----------------------------------------------------------------------------------------------------


def test_letters_go_to_their_records_partition_modulo_those_of_the_topic_and_back():
    broker = InMemoryBroker({"t": 5, "t.dlq": 2})
    dead_letters = DeadLetterTopics(broker, ["t"], clock_ms=lambda: 1)
    originals = [
        Record("t", 3, 10, 0, b"k", b"v", [("h", b"1")]),
        Record("t", 4, 11, 0, None, None, []),
        Record("t", 1, 12, 0, None, b"x" * MAX_RECORD_BYTES, []),
    ]
    with RecordProducer(broker) as producer:
        for original in originals:
            letter = dead_letters.reject(original, "reason")
            producer.send(letter.topic, letter.partition, letter.value, letter.headers, key=letter.key)
        line = dead_letters.reject_line("t", b"raw", file="f", line=1, error="e", message="m")
        producer.send(line.topic, line.partition, line.value, line.headers, key=line.key)
    assert [letter.origin for letter in read_dead_letters(broker, "t")] == ["t[4]@11", "f:1", "t[3]@10", "t[1]@12"]
    assert resend(broker, "t") == Resent(sent=2, left=1, cut=1)
    for original in originals[:2]:
        [again] = broker.records("t", original.partition)
        assert (again.key, again.value, again.headers) == (original.key, original.value, original.headers)


def test_the_letter_that_a_killed_process_writes_again_is_shown_and_sent_once():
    broker = InMemoryBroker({"t": 1, "t.dlq": 1})
    first, second = Record("t", 0, 7, 0, b"k", b"v", []), Record("t", 0, 8, 0, b"k", b"v", [])
    with RecordProducer(broker) as producer:
        for time_ms, original in enumerate([first, second, first, replace_value(first, b"of a topic made again")]):
            letter = DeadLetterTopics(broker, ["t"], clock_ms=lambda now_ms=time_ms: now_ms).reject(original, "reason")
            producer.send(letter.topic, letter.partition, letter.value, letter.headers, key=letter.key)
        for _ in range(2):  # a line of a file that is replayed twice is bad twice
            line = DeadLetterTopics(broker, ["t"]).reject_line("t", b"x", file="f", line=1, error="e", message="m")
            producer.send(line.topic, line.partition, line.value, line.headers, key=line.key)
    assert [(letter.origin, letter.time_ms) for letter in read_dead_letters(broker, "t")][:3] == [
        ("t[0]@7", 0),
        ("t[0]@8", 1),
        ("t[0]@7", 3),
    ]
    assert resend(broker, "t") == Resent(sent=3, left=2, cut=0)


def replace_value(record: Record, value: bytes) -> Record:
    return Record(record.topic, record.partition, record.offset, record.timestamp, record.key, value, record.headers)


def test_a_missing_dead_letter_topic_is_named_before_anything_is_read():
    with pytest.raises(TopicError, match=r"t\.dlq"):
        DeadLetterTopics(InMemoryBroker({"t": 1}), ["t"])
