"""What the processes of `test_serving_shared.py` do; `python shared_process.py WHAT NAME FILE`. Without torch.

Each says when it is ready, and goes on when its standard input has a line, or ends.
"""

from __future__ import annotations

import hashlib
import pickle
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from streams.clients.in_memory import InMemoryBroker
from streams.clients.producer import RecordProducer
from streams.records.embeddings import RowRecord
from trainer.serving.replica import Replica
from trainer.serving.shared_replica import SharedReplica

TOPIC = "hotstream.embeddings"


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def write(name: str, path: Path, *, hangs: bool) -> None:
    """Shares what the records in a file make."""
    partitions = pickle.loads(path.read_bytes())  # noqa: S301  what the test has written
    broker = InMemoryBroker({TOPIC: len(partitions)})
    with RecordProducer(broker) as producer:
        for partition, records in enumerate(partitions):
            for key, value, headers in records:
                producer.send(TOPIC, partition, value, headers, key=key)
    replica = Replica(broker, share=name)
    replica.catch_up()
    if hangs:
        hang_in_a_write(replica)
    say("ready")
    sys.stdin.readline()
    replica.close()


def hang_in_a_write(replica: Replica) -> None:
    served, began = replica.state.served, threading.Event()
    assert served is not None

    def hang(rows: Any, bodies: Any) -> None:
        began.set()
        time.sleep(600)

    served.unique.write = hang  # type: ignore[method-assign]
    owners = served.owners()
    body = bytes(served.unique.form.row_bytes)
    record = RowRecord(kind="u", number=next(iter(owners.values())), feature=next(iter(owners)), body=body)
    threading.Thread(target=served.apply, args=([record],), daemon=True).start()
    began.wait()


def read(name: str, path: Path) -> None:
    """Says the hash of the vectors of the keys in a file, for each line."""
    keys = np.load(path)
    with SharedReplica(name) as shared:
        say("ready")
        while sys.stdin.readline():
            say(hashlib.sha256(shared.lookup(keys).tobytes()).hexdigest())


def watch(name: str, path: Path) -> None:
    """Looks up keys, whose own vectors are of one constant each, 1000 and so on by turn of 10,000, or shared."""
    keys, number = (np.tile(one, 5) for one in (np.load(path), 1000 + np.arange(60)))  # enough to be read in parts
    with SharedReplica(name) as shared:
        before = shared.lookup(keys)
        say("ready")
        count = with_own = 0
        stopped = threading.Event()
        threading.Thread(target=lambda: (sys.stdin.readline(), stopped.set()), daemon=True).start()
        torn, is_last = "", False
        while not is_last:  # the last one begins after the last write
            is_last = stopped.is_set()
            vectors = shared.lookup(keys)
            own = (vectors == vectors[:, :1]).all(1)
            fits = np.where(own, vectors[:, 0] % 10_000 == number, (vectors == before).all(1))
            count += 1
            with_own += bool(own.any())
            torn = torn or ("" if fits.all() else f"torn: {vectors[~fits].tolist()}")
        say(torn or f"{count} {with_own}")


def scribble(name: str, path: Path) -> None:
    """Writes where only the writer may."""
    with SharedReplica(name) as shared:
        shared.tables.unique.values[0, 0] = 1
    say(f"written {path}")


if __name__ == "__main__":
    what, shared_name, file = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    if what in ("write", "hang"):
        write(shared_name, file, hangs=what == "hang")
    else:
        {"read": read, "watch": watch, "scribble": scribble}[what](shared_name, file)
