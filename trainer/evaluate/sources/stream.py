"""The rows of a comparison in memory, shared by all methods, and the vocabulary that some methods need."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from streams.errors import ConfigError
from streams.generator import Generator, GeneratorConfig
from streams.keys import PAYLOAD_BITS
from streams.logs.bad_lines import BadLines
from streams.logs.locations import find_logs
from streams.logs.reader import read_log
from streams.logs.schema import LogSchema, load_schema
from streams.records import ClickBatch, MoreValues, Weights, merge_key_weights, merge_more
from trainer.embedding.value_bags import Bags
from trainer.evaluate.sources.tokens import TokenSource, read_tokens

__all__ = ["FileSource", "GeneratorSource", "RowSource", "Stream", "load_stream"]

_BLOCK_ROWS = 8192
_DAYS = 7
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class GeneratorSource:
    """The built-in generator with Criteo's cardinalities; the rows cover a week of drift.

    Args:
        seed: the seed of the stream.
        rotate_at: from this row on, the values that account for half of the lookups get new keys; None for never.
    """

    seed: int = 0
    rotate_at: int | None = None

    def describe(self) -> dict[str, Any]:
        """Returns what the rows depend on, as JSON values."""
        return {"kind": "generator", "world": self.seed, "rotate_at": self.rotate_at}


@dataclass(frozen=True, kw_only=True)
class FileSource:
    """Consecutive click logs.

    Args:
        paths: the files in chronological order; folders, patterns and URIs, too.
        schema: a built-in schema or the path of a TOML file.
    """

    paths: tuple[str, ...]
    schema: str

    def describe(self) -> dict[str, Any]:
        """Returns what the rows depend on, as JSON values."""
        files = [[file.where, file.size_bytes] for file in find_logs(self.paths)]
        return {"kind": "files", "files": files, "schema": load_schema(self.schema).fingerprint()}


RowSource = GeneratorSource | FileSource | TokenSource


@dataclass(frozen=True, kw_only=True)
class Stream:
    """N rows in chronological order.

    Attributes:
        label: (N,) int8.
        dense: (N, M) float32.
        keys: (N, F) uint64 feature keys.
        weight: (N,) float32, each row's share of the loss; None if all weigh 1.
        bad_lines: the malformed lines of the log; None if the rows are not those of a log.
        more: the second and further values of fields; None if every field has one value in every row.
        key_weights: (N, F) float32, the weights of the first values; None if no value has one.
    """

    label: npt.NDArray[np.int8]
    dense: npt.NDArray[np.float32]
    keys: npt.NDArray[np.uint64]
    weight: npt.NDArray[np.float32] | None = None
    bad_lines: BadLines | None = None
    more: MoreValues | None = None
    key_weights: Weights | None = None

    @property
    def has_bags(self) -> bool:
        """Whether fields have several values or weights, which not every method reads."""
        return self.more is not None or self.key_weights is not None

    @property
    def num_rows(self) -> int:
        """N."""
        return len(self.label)

    @property
    def num_fields(self) -> int:
        """F."""
        return self.keys.shape[1]

    @cached_property
    def _vocabulary(self) -> tuple[npt.NDArray[np.int32], tuple[int, ...], npt.NDArray[np.int32]]:
        ids, sizes = np.empty(self.keys.shape, np.int32), []
        more = np.empty(0, np.uint64) if self.more is None else self.more.keys
        fields, more_ids = (more >> np.uint64(PAYLOAD_BITS)).astype(np.int64) - 1, np.empty(len(more), np.int32)
        first = 0
        for field, column in enumerate(self.keys.T):
            is_mine = fields == field
            values, inverse = np.unique(np.concatenate([column, more[is_mine]]), return_inverse=True)
            ids[:, field] = inverse[: len(column)] + first
            more_ids[is_mine] = inverse[len(column) :] + first
            first += len(values)
            sizes.append(len(values))
        return ids, tuple(sizes), more_ids

    @property
    def ids(self) -> npt.NDArray[np.int32]:
        """(N, F) feature numbers, consecutive from 0, field by field. Computed on first access."""
        return self._vocabulary[0]

    @property
    def more_ids(self) -> npt.NDArray[np.int32]:
        """(M,) the feature numbers of the further values."""
        return self._vocabulary[2]

    @property
    def field_sizes(self) -> tuple[int, ...]:
        """The number of distinct features of each field."""
        return self._vocabulary[1]

    def counts(self) -> npt.NDArray[np.int64]:
        """Returns the occurrences of each feature in all rows, which only an oracle may use."""
        size = sum(self.field_sizes)
        counts = np.bincount(self.ids.reshape(-1), minlength=size)
        return counts if self.more is None else counts + np.bincount(self.more_ids, minlength=size)

    def bags(self, rows: slice, *, reads_ids: bool) -> Bags | None:
        """The values of some rows as bags of ids or keys; None if no field of the log has several values or weights."""
        if not self.has_bags:
            return None
        more = None if self.more is None else self.more.between(rows.start, rows.stop)
        weights = None if self.key_weights is None else self.key_weights[rows]
        further = None
        if self.more is not None and reads_ids:
            further = self.more_ids[self.more.offsets[rows.start] : self.more.offsets[rows.stop]].astype(np.int64)
        first = self.ids[rows].astype(np.int64) if reads_ids else self.keys[rows]
        return Bags.of(first, more, torch.device("cpu"), further, weights)

    def batches(self, batch_rows: int, *, num_rows: int) -> Iterator[slice]:
        """Yields the batches of the first `num_rows` rows as slices; the last batch may be smaller."""
        for start in range(0, num_rows, batch_rows):
            yield slice(start, min(start + batch_rows, num_rows))


def _generate(source: GeneratorSource, num_rows: int) -> Stream:
    days = max(1.0, num_rows / _DAYS)
    config = GeneratorConfig(seed=source.seed, rows_per_day=days, rotate_at=source.rotate_at)
    blocks = list(Generator(config).blocks(num_rows, _BLOCK_ROWS))
    payloads = np.concatenate([block.payloads for block in blocks])
    fields = np.arange(1, payloads.shape[1] + 1, dtype=np.uint64) << np.uint64(PAYLOAD_BITS)
    return Stream(
        label=np.concatenate([block.label for block in blocks]),
        dense=np.concatenate([block.dense for block in blocks]),
        keys=payloads | fields,
    )


def _parse(source: FileSource, schema: LogSchema, bad_lines: BadLines) -> Iterator[ClickBatch]:
    """Yields the valid rows of the files, and counts the malformed lines."""
    for file in find_logs(source.paths):
        for block in read_log(file, schema, _BLOCK_ROWS):
            rows = block.parse()
            bad_lines.add(rows, file.name)
            yield rows.batch


def _read(source: FileSource, num_rows: int | None) -> Stream:
    schema, bad_lines = load_schema(source.schema), BadLines()
    if schema.label is None:
        raise ConfigError(f"--schema: {schema} has no label, and an evaluation needs one; add 'label' to the schema")
    batches, num_read = [], 0
    for batch in _parse(source, schema, bad_lines):
        batches.append(batch)
        num_read += batch.num_rows
        if num_rows is not None and num_read >= num_rows:
            break
    if not num_read:
        raise ConfigError("FILES: no valid row; check the files and --schema")
    labels = [batch.label for batch in batches if batch.label is not None]
    weights = [batch.weight for batch in batches if batch.weight is not None]
    more = merge_more([batch.more for batch in batches], [batch.num_rows for batch in batches])
    key_weights = merge_key_weights([batch.key_weights for batch in batches], [batch.keys.shape for batch in batches])
    return Stream(
        label=np.concatenate(labels)[:num_rows],
        dense=np.concatenate([batch.dense for batch in batches])[:num_rows],
        keys=np.concatenate([batch.keys for batch in batches])[:num_rows],
        weight=np.concatenate(weights)[:num_rows] if weights else None,
        bad_lines=bad_lines,
        key_weights=None if key_weights is None else key_weights[:num_rows],
        more=more if more is None or num_rows is None else more.between(0, min(num_rows, num_read)),
    )


@lru_cache(maxsize=1)
def load_stream(source: RowSource, num_rows: int | None) -> Stream:
    """Returns the first `num_rows` rows of the source, or all rows of its files; caches the last stream.

    Raises:
        ConfigError: a file does not match the schema, or `num_rows` is None for the generator.
        InputError: a file cannot be read.
    """
    if isinstance(source, FileSource):
        return _read(source, num_rows)
    if isinstance(source, TokenSource):
        label, keys = read_tokens(source, num_rows)
        return Stream(label=label, dense=np.empty((len(label), 0), np.float32), keys=keys)
    if num_rows is None:
        raise ConfigError("--rows: got none, expected a number, because the generator has no end")
    return _generate(source, num_rows)
