"""A replica has the vectors of the trainer that publishes, bit for bit, and proves it by digests."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from serving_site import KEYS, PARTITIONS, TOPIC, Site, assert_equal, caught_up, hot_keys
from trainer_batches import click_batch

from streams.clients.producer import RecordProducer
from streams.keys import FIELD_SHIFT
from streams.records.embeddings import NoteRecord, RowRecord, decode_embedding
from trainer.embedding.stores.registry import STORES
from trainer.errors import KeyRangeError, ReplicaError
from trainer.serving.dense_part import save_dense_part
from trainer.serving.replica import Replica

SHARED = [name for name, entry in STORES.items() if entry.is_shared]
FORMATS = [(hot, SHARED[number % len(SHARED)]) for number, hot in enumerate(STORES)]


@pytest.mark.parametrize(("hot_store", "row_format"), FORMATS)
def test_a_replica_has_the_vectors_of_the_trainer_in_every_format(hot_store: str, row_format: str) -> None:
    site = Site(hot_store=hot_store, row_format=row_format)
    replica = Replica(site.broker)
    site.train()
    site.move(hot_keys(30))
    site.train(3)
    site.settle()
    replica.catch_up()
    assert_equal(site, replica)
    first = site.vectors()
    site.move(dict.fromkeys(list(hot_keys(30))[:9], -1))
    site.train(2)
    site.settle()
    replica.catch_up()
    assert_equal(site, replica)
    assert not np.array_equal(first, site.vectors())


@pytest.mark.parametrize("keeps_tombstones", [True, False])
def test_a_replica_that_starts_late_or_again_after_compaction_is_equal(keeps_tombstones: bool) -> None:
    site = Site()
    site.move(hot_keys(30))
    for step in range(5):
        site.train()
        site.move({list(hot_keys(30))[step]: -1})
        site.settle()
    site.broker.compact(TOPIC, keeps_tombstones=keeps_tombstones)
    late = caught_up(site.broker)
    assert_equal(site, late)
    late.close()
    site.train()
    site.settle()
    assert_equal(site, caught_up(site.broker))


def test_a_replica_that_starts_between_two_digests_serves_after_it_has_read_the_present_end() -> None:
    site = Site()
    site.move(hot_keys(30))
    site.train()
    site.settle()
    site.train()
    site.publish(0.01)  # rows without a digest
    site.broker.compact(TOPIC)
    replica = caught_up(site.broker)
    assert replica.is_ready
    assert replica.state.num_mismatches == 0
    site.settle()
    replica.catch_up()
    assert_equal(site, replica)


def test_a_trainer_that_resumes_is_served_once_its_rows_are_complete() -> None:
    site = Site(run=1)
    site.move(hot_keys(30))
    site.train(2)
    site.settle()
    replica = caught_up(site.broker)
    before = replica.lookup(KEYS)
    again = Site(run=2, broker=site.broker, bytes_per_s=20_000)
    again.move(hot_keys(12))
    again.train()
    again.publish()
    replica.catch_up()
    np.testing.assert_array_equal(replica.lookup(KEYS), before)
    again.settle()
    replica.catch_up()
    assert_equal(again, replica)
    assert_equal(again, caught_up(site.broker))


def test_a_row_that_was_changed_on_its_way_is_found_by_the_digest() -> None:
    site = Site()
    site.move(hot_keys(30))
    site.settle()
    replica = caught_up(site.broker)
    records = site.broker.records(TOPIC, 0)
    changed = next(record for record in reversed(records) if record.key[:1] == b"u" and record.value)
    damaged = changed.value[:-1] + bytes([changed.value[-1] ^ 1])
    with RecordProducer(site.broker) as producer:
        producer.send(TOPIC, 0, damaged, changed.headers, key=changed.key)
    site.publish()
    replica.catch_up()
    assert replica.state.partitions[0].verified is False
    assert replica.state.partitions[1].verified is True
    assert replica.state.num_mismatches == 1
    assert replica.num_rereads == 1  # the log itself has the damage, so it is read again once only
    site.publish()
    replica.catch_up()
    assert (replica.state.num_mismatches, replica.num_rereads) == (2, 1)


def test_a_row_that_was_changed_in_memory_is_found() -> None:
    site = Site()
    site.move(hot_keys(30))
    site.settle()
    replica = caught_up(site.broker)
    assert replica.verify() == [True, True]
    assert replica.state.served is not None
    replica.state.served.unique.values[0, 0] += 1
    assert replica.verify() == [False, True]


def test_a_replica_that_missed_a_deleted_tombstone_reads_the_partition_again(caplog) -> None:
    site = Site()
    site.move(hot_keys(30))
    site.settle()
    replica = caught_up(site.broker)
    site.move(dict.fromkeys(list(hot_keys(30))[:9], -1))
    site.train()
    site.settle()
    site.broker.compact(TOPIC, keeps_tombstones=False)
    replica.catch_up()
    assert "a digest differs, so a row was lost; reading it again" in caplog.text
    np.testing.assert_array_equal(replica.lookup(KEYS), site.vectors())
    assert replica.verify() == [True] * PARTITIONS
    assert [one.verified for one in replica.state.partitions] == [True] * PARTITIONS
    count = replica.num_rereads
    assert count > 0
    site.train()
    site.settle()
    replica.catch_up()
    assert replica.num_rereads == count
    assert [one.verified for one in replica.state.partitions] == [True] * PARTITIONS


def test_a_row_that_nobody_noted_is_found_by_the_sweep() -> None:
    site = Site()
    site.move(hot_keys(30))
    site.settle()
    replica = caught_up(site.broker)
    site.embedding.unique.values[3] += 1
    site.publisher.note_keys(np.empty(0, np.uint64), np.empty(0, np.float32))  # begins a sweep
    site.settle()
    replica.catch_up()
    assert_equal(site, replica)


def test_a_key_never_shows_a_row_of_another_key() -> None:
    """Row 0 goes from key to key, whose vectors are constants; lookups run beside it."""
    site = Site()
    keys = np.unique(KEYS)[:20]
    replica, stopped, seen = Replica(site.broker), threading.Event(), list[str]()
    site.settle()
    replica.catch_up()
    shared = replica.lookup(keys)

    def look() -> None:
        while not stopped.is_set():
            vectors = replica.lookup(keys)
            own = (vectors == vectors[:, :1]).all(1)
            number = np.arange(1000, 1000 + len(keys))
            if not np.where(own, vectors[:, 0] == number, (vectors == shared).all(1)).all():
                seen.append(repr(vectors))

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for turn in range(200):
        number = turn % len(keys)
        body = np.full(site.shape.dim, 1000 + number, np.float32).tobytes()
        record = RowRecord(kind="u", number=0, model=site.shape.fingerprint, feature=int(keys[number]), body=body)
        replica.state.take(0, [(turn, record)])
    stopped.set()
    for thread in threads:
        thread.join()
    assert not seen, seen[0]
    assert (replica.lookup(keys)[:-1] == shared[:-1]).all()


def test_rows_of_fields_that_are_not_allowed_do_not_leave_the_trainer() -> None:
    site = Site(published=(1, 3))
    site.move(hot_keys(40))
    site.train(2)
    site.settle()
    decoded = [
        decode_embedding(record.key, record.value, record.headers)
        for partition in range(PARTITIONS)
        for record in site.broker.records(TOPIC, partition)
    ]
    rows = [one for one in decoded if isinstance(one, RowRecord) and one.body is not None]
    assert {one.feature >> int(FIELD_SHIFT) for one in rows if one.kind == "u"} == {1}
    assert {one.number for one in rows if one.kind == "1"} == {0, 2}
    replica = caught_up(site.broker)
    allowed = KEYS[:, [0, 2]]
    np.testing.assert_array_equal(replica.lookup(allowed), site.vectors()[:, [0, 2]])
    with pytest.raises(KeyRangeError, match="not among the published ones"):
        replica.lookup(KEYS)


def test_no_more_bytes_are_sent_than_allowed_and_the_most_changed_rows_come_first() -> None:
    rate, seconds = 20_000, 10
    site = Site(bytes_per_s=rate)
    site.move(hot_keys(30))
    for _ in range(seconds * 10):
        site.train()
        site.publish(0.1)
    burst = max(site.sender.sizes) + rate / 4
    dense = len(save_dense_part(site.model))
    assert sum(site.sender.sizes) <= rate * seconds + burst + dense
    assert site.publisher.lag["rows"] > 0
    site.publisher.note_keys(np.array([next(iter(hot_keys(1)))], np.uint64), np.array([1e6], np.float32))
    before = len(site.sender.sizes)
    while len(site.sender.sizes) == before:
        site.publish()
    rows = [record for record in site.broker.records(TOPIC, 0) if record.key[:1] == b"u"]
    decoded = decode_embedding(rows[-1].key, rows[-1].value, rows[-1].headers)
    assert isinstance(decoded, RowRecord)


def test_rows_of_hot_features_do_not_wait_for_shared_rows_that_change_more() -> None:
    site = Site(bytes_per_s=4_000)
    site.move(hot_keys(30))
    while not site.publisher.is_quiet:
        site.publish()
    hot, published = np.array(list(hot_keys(30)), np.uint64), set()
    cold = np.setdiff1d(np.unique(KEYS), hot)
    for _ in range(40):
        site.publisher.note_keys(
            np.concatenate([hot, cold]), np.repeat([1e-6, 1e6], [30, len(cold)]).astype(np.float32)
        )
        first = [len(site.broker.records(TOPIC, number)) for number in range(PARTITIONS)]
        site.publish(0.25)
        sent = [one for number in range(PARTITIONS) for one in site.broker.records(TOPIC, number)[first[number] :]]
        published |= {record.key for record in sent if record.key[:1] == b"u"}
    assert len(published) == len(hot)


def test_the_newest_complete_dense_part_predicts() -> None:
    site = Site()
    site.move(hot_keys(10))
    site.settle()
    replica = caught_up(site.broker)
    dense = click_batch(64, 0).dense
    expected = site.model(torch.from_numpy(dense), torch.from_numpy(site.vectors())).detach().numpy()
    np.testing.assert_array_equal(replica.predict(dense, KEYS), expected)
    chunks = [record for record in site.broker.records(TOPIC, 0) if record.key[:1] in {b"c", b"m"}]
    version = replica.as_of()["dense_version"]
    manifest = decode_embedding(chunks[-1].key, chunks[-1].value, chunks[-1].headers)
    assert isinstance(manifest, NoteRecord)
    newer = NoteRecord(kind="m", number=1, content={**manifest.content, "version": version + 1})
    replica.state.dense.take(newer)
    assert replica.state.dense.num_incomplete == 1
    assert replica.as_of()["dense_version"] == version


def test_hits_staleness_and_versions_are_reported() -> None:
    site = Site()
    site.move(hot_keys(10))
    site.train(3)
    site.settle()
    replica = Replica(site.broker)
    with pytest.raises(ReplicaError, match="no complete model"):
        replica.lookup(KEYS)
    replica.catch_up()
    replica.lookup(KEYS)
    hits = replica.hits()
    assert sum(sum(one.values()) for one in hits.values()) == KEYS.size
    assert hits["f0"]["hot"] == int(np.isin(KEYS[:, 0], np.array(list(hot_keys(10)), np.uint64)).sum())
    assert replica.as_of()["step"] == 3
    stale_ms = replica.staleness_ms()
    assert stale_ms is not None
    assert stale_ms < 60_000


def test_serving_needs_no_torch() -> None:
    code = "import sys, trainer.serving.replica; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
