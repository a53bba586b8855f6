"""Several processes serve the rows of one replica from shared memory."""

from __future__ import annotations

import hashlib
import os
import pickle
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import serving_site
from serving_site import KEYS, PARTITIONS, TOPIC, Site, hot_keys
from test_serving_replica import FORMATS
from trainer_batches import NUM_FIELDS, click_batch

from streams.clients.producer import RecordProducer
from streams.keys import FIELD_SHIFT
from streams.records.embeddings import NoteRecord, RowRecord, encode_note
from trainer.embedding.layout import Layout
from trainer.errors import ReplicaError
from trainer.serving import segments, shared_replica
from trainer.serving.replica import Replica
from trainer.serving.segments import Header, Segment, remove_segments, segment_path, write_segment
from trainer.serving.shared_replica import SharedReplica

PROCESS = Path(__file__).with_name("shared_process.py")


@pytest.fixture
def name() -> Iterator[str]:
    name = f"test-{uuid.uuid4().hex[:12]}"
    yield name
    assert left(name) == []


def left(name: str) -> list[str]:
    return sorted(path.name for path in Path("/dev/shm").glob(f"hotstream.{name}*"))  # noqa: S108


@contextmanager
def process(what: str, name: str, file: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that is ready; killed at the end."""
    command = [sys.executable, str(PROCESS), what, name, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        try:
            assert started.stdout is not None
            assert started.stdout.readline() == "ready\n"
            yield started
        finally:
            started.kill()


def ask(started: subprocess.Popen[str]) -> str:
    assert started.stdin is not None
    assert started.stdout is not None
    started.stdin.write("\n")
    started.stdin.flush()
    return started.stdout.readline().strip()


def trained(*, hot_store: str = "float32", row_format: str = "float32") -> Site:
    site = Site(hot_store=hot_store, row_format=row_format)
    site.move(hot_keys(30))
    site.train(2)
    site.settle()
    return site


def sha256(vectors: np.ndarray) -> str:
    return hashlib.sha256(vectors.tobytes()).hexdigest()


@pytest.mark.parametrize(("hot_store", "row_format"), FORMATS)
def test_shared_rows_are_those_of_the_replica_in_every_format(hot_store: str, row_format: str, name: str) -> None:
    site = trained(hot_store=hot_store, row_format=row_format)
    with Replica(site.broker, share=name) as replica, SharedReplica(name) as shared:
        with pytest.raises(ReplicaError, match="no complete model"):
            shared.lookup(KEYS)
        replica.catch_up()
        np.testing.assert_array_equal(shared.lookup(KEYS), site.vectors())
        assert (shared.owners(), shared.as_of()) == (replica.owners(), replica.as_of())
        site.move(dict.fromkeys(list(hot_keys(30))[:9], -1))
        site.train()
        site.settle()
        replica.catch_up()
        np.testing.assert_array_equal(shared.lookup(KEYS), site.vectors())
        np.testing.assert_array_equal(replica.lookup(KEYS), site.vectors())
        assert (shared.owners(), shared.as_of()) == (replica.owners(), replica.as_of())
        assert replica.verify() == [True] * PARTITIONS
        assert sum(sum(one.values()) for one in shared.hits().values()) == 2 * KEYS.size


def test_the_newest_dense_part_predicts_from_shared_rows(name: str) -> None:
    site, dense = trained(), click_batch(64, 0).dense
    with Replica(site.broker, share=name) as replica, SharedReplica(name) as shared:
        for _ in range(2):
            replica.catch_up()
            assert shared.why_not_ready is None
            np.testing.assert_array_equal(shared.predict(dense, KEYS), replica.predict(dense, KEYS))
            again = Site(run=2, broker=site.broker)  # another model follows
            again.settle()


def test_other_processes_that_attach_early_and_late_have_the_same_vectors(name: str, tmp_path: Path) -> None:
    site, keys = trained(), tmp_path / "keys.npy"
    np.save(keys, KEYS)
    with Replica(site.broker, share=name) as replica:
        replica.catch_up()
        with process("read", name, keys) as early:
            assert ask(early) == sha256(site.vectors())
            again = Site(run=2, broker=site.broker)  # a model of its own segment
            again.move(hot_keys(12))
            again.train()
            again.settle()
            replica.catch_up()
            assert ask(early) == sha256(again.vectors()) != sha256(site.vectors())
            with process("read", name, keys) as late:
                assert ask(late) == sha256(again.vectors())


def test_a_key_never_shows_a_torn_vector_or_one_of_another_key_in_another_process(name: str, tmp_path: Path) -> None:
    """Rows go from key to key, whose vectors are constants, while another process looks them up, of 300 keys each time.

    HOTSTREAM_LOOKUPS: the least number of vectors that are looked up, beside as many updates as that takes, 20 at once.
    """
    least, site, file = int(os.environ.get("HOTSTREAM_LOOKUPS", "0")), Site(), tmp_path / "keys.npy"
    site.settle()
    keys = np.unique(KEYS)[:60]
    np.save(file, keys)
    random = np.random.default_rng(1)
    with Replica(site.broker, share=name) as replica:
        replica.catch_up()
        with process("watch", name, file) as watching:
            for turn in range(max(300, least // 200)):  # a tenth as many updates as lookups
                rows = random.choice(40, 20, replace=False)
                owners = random.choice(60, 20, replace=False)
                records = [
                    RowRecord(
                        kind="u", number=row, model=site.shape.fingerprint, feature=int(keys[owner]),
                        body=np.full(site.shape.dim, 1000 + owner + 10_000 * (turn % 90), np.float32).tobytes(),
                    )
                    for row, owner in zip(rows.tolist(), owners.tolist(), strict=True)
                ]  # fmt: skip
                replica.state.take(0, [(turn, record) for record in records])
            said = ask(watching)
            assert "torn" not in said
            count, with_own = map(int, said.split())
            assert count >= with_own > 0
            print(f"{count} lookups of 300 keys, {20 * (turn + 1)} updates")  # noqa: T201  for those who ask for many
            assert 300 * count >= least


def put_keys(site: Site, replica: Replica, keys: np.ndarray, start: int) -> None:
    """Gives 100 keys rows of their own, whose values are the number of the key, from 1."""
    records = [
        RowRecord(
            kind="u", number=row, model=site.shape.fingerprint, feature=int(keys[row]),
            body=np.full(site.shape.dim, row + 1, np.float32).tobytes(),
        )
        for row in range(start, start + 100)
    ]  # fmt: skip
    replica.state.take(0, list(enumerate(records)))
    replica.poll(0)


def test_a_router_that_grows_moves_to_a_new_segment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(num_fields=NUM_FIELDS, capacity_rows=2000, level_1_per_field=2, level_2_rows=300)
    monkeypatch.setattr(serving_site, "LAYOUT", layout)
    site = Site()
    site.settle()
    with Replica(site.broker, share=name) as replica, SharedReplica(name) as shared:
        replica.catch_up()
        names, vectors = left(name), np.arange(1, 1001, dtype=np.float32)
        keys = np.uint64(1) << FIELD_SHIFT | np.arange(1, 1001, dtype=np.uint64)
        for start in range(0, 1000, 100):
            put_keys(site, replica, keys, start)
            np.testing.assert_array_equal(shared.lookup(keys[: start + 100])[:, 0], vectors[: start + 100])
        assert len(left(name)) == len(names) == 3  # header, tables, dense part
        assert left(name) != names


@pytest.mark.parametrize("what", ["write", "hang"])
def test_a_writer_that_is_killed_is_noticed_and_the_next_one_takes_over(what: str, name: str, tmp_path: Path) -> None:
    site, file = trained(), tmp_path / "records"
    parts = [[(one.key, one.value, one.headers) for one in site.broker.records(TOPIC, n)] for n in range(PARTITIONS)]
    file.write_bytes(pickle.dumps(parts))
    with process(what, name, file) as writer:
        shared = SharedReplica(name)
        assert shared.has_writer
        if what == "write":
            np.testing.assert_array_equal(shared.lookup(KEYS), site.vectors())
        with pytest.raises(ReplicaError, match="another process shares its rows"):
            Replica(site.broker, share=name)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    assert not shared.has_writer
    assert shared.why_not_ready is not None
    assert "has ended" in shared.why_not_ready
    age_ms = shared.staleness_ms()
    assert age_ms is not None
    assert shared.staleness_ms() > age_ms
    if what == "write":
        np.testing.assert_array_equal(shared.lookup(KEYS), site.vectors())
    else:
        with pytest.raises(ReplicaError, match="killed in the middle of a write"):
            shared.lookup(KEYS)
    site.train()
    site.settle()
    with Replica(site.broker, share=name) as replica:
        if what == "write":
            with SharedReplica(name) as late:  # the rows of the killed one, until there are others
                np.testing.assert_array_equal(late.lookup(KEYS), shared.lookup(KEYS))
        replica.catch_up()
        assert shared.has_writer
        np.testing.assert_array_equal(shared.lookup(KEYS), site.vectors())
        assert len(left(name)) == 3
    assert not shared.has_writer
    np.testing.assert_array_equal(shared.lookup(KEYS), site.vectors())
    with Replica(site.broker, share=name) as again:  # also after one that ended in order
        again.catch_up()
        assert shared.has_writer
        np.testing.assert_array_equal(shared.lookup(KEYS), site.vectors())


def test_a_reader_cannot_write(name: str, tmp_path: Path) -> None:
    site = trained()
    with Replica(site.broker, share=name) as replica:
        replica.catch_up()
        command = [sys.executable, str(PROCESS), "scribble", name, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.stdout, done.returncode) == ("", -signal.SIGSEGV)
        assert replica.verify() == [True] * PARTITIONS


def test_names_that_are_not_shared_or_no_names_are_refused(name: str) -> None:
    with pytest.raises(ReplicaError, match="no replica shares its rows by that name"):
        SharedReplica(name)
    with pytest.raises(ReplicaError, match="expected 1 to 100 of"):
        SharedReplica("../etc")


def test_a_write_that_does_not_end_is_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    site = trained()
    with Replica(site.broker, share=name) as replica, SharedReplica(name) as shared:
        replica.catch_up()
        assert replica.state.served is not None
        monkeypatch.setattr(shared_replica, "_PATIENCE_S", 0.01)
        replica.state.served.sequence[0] += 1
        with pytest.raises(ReplicaError, match="in one write for"):
            shared.lookup(KEYS)
        replica.state.served.sequence[0] += 1
        np.testing.assert_array_equal(shared.lookup(KEYS), site.vectors())
        replica.close()
        np.testing.assert_array_equal(replica.lookup(KEYS), site.vectors())


def test_more_rows_than_shared_memory_has_are_an_error(name: str) -> None:
    found = os.statvfs("/dev/shm")  # noqa: S108
    rows = np.broadcast_to(np.uint8(0), (found.f_frsize * (found.f_blocks + 1),))
    with pytest.raises(ReplicaError, match=r"bytes do not fit .*--shm-size"):
        write_segment(segment_path(name, 1), {}, {"rows": rows})


@pytest.mark.parametrize("grows", [False, True])
def test_a_write_after_an_interrupted_one_is_seen_as_a_write(
    name: str, grows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_replica, "_PATIENCE_S", 1e9)  # a reader that waited would not end
    site, odd = trained(), list[int]()
    with Replica(site.broker, share=name) as replica, SharedReplica(name) as shared:
        replica.catch_up()
        tables = replica.state.served
        assert tables is not None
        key, row = next(iter(tables.owners().items()))
        record = RowRecord(kind="u", number=row, feature=key, body=bytes(tables.unique.form.row_bytes))
        write = tables.unique.write

        def interrupt(rows: np.ndarray, bodies: np.ndarray) -> None:
            if grows:
                tables._router.grow()  # noqa: SLF001  as `put` does in the middle of a write
            raise KeyboardInterrupt

        def watch(rows: np.ndarray, bodies: np.ndarray) -> None:
            odd.append(int(tables.sequence[0]) & 1)
            write(rows, bodies)

        for hook in (interrupt, interrupt, watch):
            tables.unique.write = hook  # type: ignore[method-assign]
            with suppress(KeyboardInterrupt):
                tables.apply([record])
            odd.append(int(tables.sequence[0]) & 1)
            if hook is interrupt:
                with pytest.raises(ReplicaError, match="a write was interrupted"):
                    shared.lookup(KEYS)
        assert odd == [1, 1, 1, 0]
        site.train()
        site.settle()
        replica.catch_up()
        assert int(shared.tables.sequence[0]) & 1 == 0
        np.testing.assert_array_equal(shared.lookup(KEYS), replica.lookup(KEYS))


def test_the_figures_of_a_reader_outlive_a_router_that_grows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(num_fields=NUM_FIELDS, capacity_rows=2000, level_1_per_field=2, level_2_rows=300)
    monkeypatch.setattr(serving_site, "LAYOUT", layout)
    site = Site()
    site.settle()
    keys = np.uint64(1) << FIELD_SHIFT | np.arange(1, 1001, dtype=np.uint64)
    with Replica(site.broker, share=name) as replica, SharedReplica(name) as shared:
        replica.catch_up()
        figures = shared.figures()
        first = [next(figures) for _ in range(4)]
        for start in range(0, 1000, 100):
            put_keys(site, replica, keys, start)
        found = {figure.name: figure.value for figure in [*first, *figures]}
        assert found["replica_hot_features"] == 1000


@pytest.mark.parametrize("in_a_write", [False, True])
def test_readers_see_a_writer_that_follows_no_more(name: str, in_a_write: bool) -> None:
    site = trained()
    with Replica(site.broker, share=name) as replica, SharedReplica(name) as shared:
        replica.catch_up()
        assert shared.why_not_ready is None
        with RecordProducer(site.broker) as producer:
            other = {**site.shape.to_json(), "partitions": PARTITIONS + 1, "run": 2}
            key, value, headers = encode_note(NoteRecord(kind="s", number=0, content=other))
            producer.send(TOPIC, 0, value, headers, key=key)
        if in_a_write:
            assert replica.state.served is not None
            replica.state.served.sequence[0] += 1
        replica.start()
        assert replica._thread is not None  # noqa: SLF001
        replica._thread.join(60)  # noqa: SLF001
        assert replica.why_not_live is not None
        assert not shared.has_writer
        assert "has ended" in (shared.why_not_ready or "")
        if in_a_write:
            with pytest.raises(ReplicaError, match="no complete model"):
                shared.lookup(KEYS)
        else:
            np.testing.assert_array_equal(shared.lookup(KEYS), site.vectors())
        assert left(name) == []


@contextmanager
def another_user() -> Iterator[None]:
    """As a user who may not open files of mode 0, as root may."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("end", ["", ".7"])
def test_files_of_other_users_are_errors_of_a_replica(name: str, end: str) -> None:
    path = Path(f"/dev/shm/hotstream.{name}{end}")  # noqa: S108
    path.touch(mode=0)
    try:
        write = (lambda: write_segment(path, {}, {})) if end else (lambda: Header(name, writes=True))
        with another_user(), pytest.raises(ReplicaError, match="another user"):
            write()
        with another_user(), pytest.raises(ReplicaError, match="another user"):
            Segment.read(path)
    finally:
        path.unlink()


def test_segments_that_cannot_be_removed_or_numbered_are_left_alone(name: str) -> None:
    paths = [Path(f"/dev/shm/hotstream.{name}.{end}") for end in (7, 9, 10**30, 10**18, "x")]  # noqa: S108
    for path in paths[:1] + paths[2:]:
        path.touch()
    paths[1].mkdir()
    assert remove_segments(name, {7}) == 9
    assert left(name) == sorted(path.name for path in (paths[0], paths[1], paths[4]))
    paths[1].rmdir()
    paths[4].unlink()
    if os.geteuid() == 0:
        with another_user():
            assert remove_segments(name, set()) == 7
    assert remove_segments(name, set()) == 7


def test_a_header_that_does_not_fit_is_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = os.statvfs("/dev/shm")  # noqa: S108
    monkeypatch.setattr(segments, "_HEADER_WORDS", found.f_frsize * (found.f_blocks + 1) // 8)
    with pytest.raises(ReplicaError, match=r"does not fit .*--shm-size"):
        Header(name, writes=True)
