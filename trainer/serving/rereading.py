"""Reads the rows of a partition again whose reader has lost a record."""

from __future__ import annotations

from streams.clients.partition_reader import PartitionLog
from streams.records.embeddings import RowRecord, decode_embedding

__all__ = ["read_rows_again"]


def read_rows_again(log: PartitionLog, topic: str, partition: int, end: int, model: int) -> list[RowRecord]:
    """The newest record of each row of a model before the offset `end`, in the order of their numbers.

    Args:
        log: reads the topic.
        topic: its name.
        partition: the partition.
        end: the offset to stop before.
        model: the fingerprint of the shape.

    Raises:
        BrokerError: the broker does not answer.
        KafkaError: the broker refuses.
    """
    newest: dict[tuple[str, int], RowRecord] = {}
    begin, _ = log.bounds(topic, partition)
    for record in log.read(topic, partition, begin, end):
        decoded = decode_embedding(record.key, record.value, record.headers)
        if isinstance(decoded, RowRecord) and (decoded.body is None or decoded.model == model):
            newest[decoded.kind, decoded.number] = decoded
    return [newest[name] for name in sorted(newest)]
