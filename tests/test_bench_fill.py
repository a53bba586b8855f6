"""The benchmark of a filling hot set sends the same records through the publisher and through the bare producer."""

from __future__ import annotations

from streams.clients.in_memory import InMemoryBroker
from streams.records import Assignment, decode_assignment
from trainer.bench.fill import measure_fill


def test_publisher_and_bare_producer_send_the_same_valid_records():
    broker = InMemoryBroker({"t": 1})
    figures = measure_fill(broker, "t", num_bursts=2, rounds=1)
    sent = [(record.key, record.value, record.headers, record.timestamp) for record in broker.records("t")]
    assert len(sent) == 2 * figures["changes"]
    assert sent[: len(sent) // 2] == sent[len(sent) // 2 :]
    changes = [decode_assignment(key, value, headers) for key, value, headers, _ in sent]
    assert all(isinstance(change, Assignment) for change in changes)
    assert min(figures.values()) > 0
