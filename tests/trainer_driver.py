"""A training run without a broker, as a process: `python trainer_driver.py DIRECTORY STEPS`.

Batch i and the assignments of step i both have offset i of partition 0. As in a session, checkpoints are
captured between steps and written by another thread. Prints the digest of the final weights.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import xxhash
from trainer_batches import click_batch

from streams.assignments.columns import Fetch
from streams.clients.worker import Worker
from streams.records import Assignment
from trainer.learning.model_config import ModelConfig
from trainer.process.journal import Apply, Train
from trainer.process.run import RunConfig, TrainingRun

ROWS = 32


def assignments_of(step: int) -> Fetch:
    keys = click_batch(ROWS, step).keys.reshape(-1)
    records = [
        Assignment(key=int(key), tier="hot", row=(7 * step + i) % 60, shard=0, epoch=1, seq=10 * step + i, score=1.0)
        for i, key in enumerate(keys[:6])
    ]
    return Fetch(partition=0, records=records)


def drive(directory: Path | None, last_step: int) -> str:
    """Trains to the last step, from the checkpoint in the directory if any; returns the digest of all weights."""
    model = ModelConfig(capacity_rows=60, dim=8, compare_hash=True, row_format="bfloat16")
    run = TrainingRun(
        RunConfig(model=model, device=torch.device("cpu"), checkpoint_dir=directory, checkpoint_every=3 * ROWS), 1
    )

    def perform(event: Apply | Train, writer: Worker) -> None:
        if isinstance(event, Apply):
            run.apply([assignments_of(event.ends[0] - 1)])
            run.offsets["assignments"] = {0: event.ends[0]}
        else:
            run.train(click_batch(ROWS, event.offset))
            run.offsets["clicks"] = {0: event.offset + 1}
        if run.wants_checkpoint and (captured := run.capture()) is not None:
            writer.submit(run.write, captured)

    with Worker("checkpoints") as writer:
        while (event := run.journal.next_scripted()) is not None:
            perform(event, writer)
        while (step := run.offsets["clicks"].get(0, 0)) < last_step:
            is_behind = run.trainer is not None and run.offsets["assignments"].get(0, 1) <= step
            event = Apply({0: step + 1}) if is_behind else Train(0, step)
            run.journal.record(event)
            perform(event, writer)
        writer.drain()
    run.checkpoint()
    run.close()
    assert run.trainer is not None
    digest = xxhash.xxh3_64()
    for name, tensor in sorted(run.trainer.tensors().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(drive(Path(sys.argv[1]) if sys.argv[1] != "-" else None, int(sys.argv[2])))  # noqa: T201
