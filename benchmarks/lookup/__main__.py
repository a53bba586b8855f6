"""Measures `ServedTables.lookup` in one thread, of batches of keys that are hot or share rows.

python -m benchmarks.lookup --dim 16 --hot 1.0
"""

from __future__ import annotations

import time

import click
import numpy as np
import numpy.typing as npt

from streams.keys import FIELD_SHIFT
from streams.records.embeddings import RowRecord
from trainer.embedding.layout import Layout
from trainer.serving.shape import ServedShape, row_form
from trainer.serving.tables import ServedTables

__all__ = ["main"]

_FIELDS, _BATCHES = 26, 16  # batches among which the calls rotate, so that they do not measure a cache


def _tables(dim: int, row_format: str, capacity: int) -> ServedTables:
    """Tables whose unique rows are all owned."""
    layout = Layout(num_fields=_FIELDS, capacity_rows=capacity, level_1_per_field=100, level_2_rows=10_000)
    shape = ServedShape(
        model="wdl", dim=dim, row_format="float32", hot_store=row_format, layout=layout,
        fields=tuple((f"f{number}", "hash") for number in range(_FIELDS)), num_dense=0, partitions=1,
        published=tuple(range(1, _FIELDS + 1)), run=1,
    )  # fmt: skip
    tables, rng = ServedTables(shape), np.random.default_rng(0)
    size = row_form(row_format, dim).row_bytes
    for row in range(capacity):
        feature = (1 + row % _FIELDS) << int(FIELD_SHIFT) | 1 + row
        tables.apply([RowRecord(kind="u", number=row, feature=feature, body=rng.bytes(size))])
    return tables


def _draw_keys(rng: np.random.Generator, batch_rows: int, capacity: int, share: float) -> npt.NDArray[np.uint64]:
    """Keys (B, F), of which a share is hot."""
    fields = np.arange(_FIELDS)
    rows = rng.integers(0, capacity // _FIELDS, (batch_rows, _FIELDS)) * _FIELDS + fields
    payloads = 1 + rows + (rng.random(rows.shape) >= share) * (1 << 40)
    return (1 + fields).astype(np.uint64) << FIELD_SHIFT | payloads.astype(np.uint64)


@click.command()
@click.option("--dim", default=16)
@click.option("--row-format", default="float32")
@click.option("--capacity", default=100_000, help="Unique rows.")
@click.option("--batch-rows", default=512)
@click.option("--hot", "shares", multiple=True, type=float, default=(1.0, 0.8, 0.2), help="Share of hot keys.")
@click.option("--seconds", default=2.0)
def main(dim: int, row_format: str, capacity: int, batch_rows: int, shares: tuple[float, ...], seconds: float) -> None:
    """Prints vectors a second of the processor's time."""
    tables, rng = _tables(dim, row_format, capacity), np.random.default_rng(1)
    for share in shares:
        batches = [_draw_keys(rng, batch_rows, capacity, share) for _ in range(_BATCHES)]
        tables.lookup(batches[0])  # compiles
        count, started_s = 0, time.thread_time()  # of this thread alone, as the machine may be busy
        while (took_s := time.thread_time() - started_s) < seconds:
            tables.lookup(batches[count % _BATCHES])
            count += 1
        click.echo(f"hot {share:.0%}: {count * batch_rows * _FIELDS / took_s / 1e6:.1f} M vectors/s")


if __name__ == "__main__":
    main()
