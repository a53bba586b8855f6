"""The rows of a comparison, all in memory: the same for every method, with the vocabulary that some of them need."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from streams.errors import ConfigError
from streams.generator import Generator, GeneratorConfig
from streams.logs.reader import read_log
from streams.logs.schema import load_schema
from trainer.evaluate.sources.tokens import TokenSource, read_tokens

__all__ = ["FileSource", "GeneratorSource", "Source", "Stream", "load_stream"]

_BLOCK_ROWS = 8192
_DAYS = 7
_FIELD_SHIFT = np.uint64(56)
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class GeneratorSource:
    """The built-in generator at Criteo's cardinalities, a week of drift over the rows.

    Args:
        world: its seed: another one is another stream.
        rotate_at: from this row on the values that take half of the lookups have new identities; None: never.
    """

    world: int = 0
    rotate_at: int | None = None

    def describe(self) -> dict[str, Any]:
        """What the rows depend on."""
        return {"kind": "generator", "world": self.world, "rotate_at": self.rotate_at}


@dataclass(frozen=True, kw_only=True)
class FileSource:
    """Click logs, one after the other.

    Args:
        paths: the files, in order of time.
        schema: a built-in name or the path of a TOML file.
    """

    paths: tuple[Path, ...]
    schema: str

    def describe(self) -> dict[str, Any]:
        """What the rows depend on."""
        files = [[str(path), path.stat().st_size] for path in self.paths]
        return {"kind": "files", "files": files, "schema": load_schema(self.schema).fingerprint()}


Source = GeneratorSource | FileSource | TokenSource


@dataclass(frozen=True, kw_only=True)
class Stream:
    """N rows in order of time.

    Attributes:
        label: (N,) int8.
        dense: (N, M) float32.
        keys: (N, F) uint64 feature keys.
    """

    label: npt.NDArray[np.int8]
    dense: npt.NDArray[np.float32]
    keys: npt.NDArray[np.uint64]

    @property
    def num_rows(self) -> int:
        """N."""
        return len(self.label)

    @property
    def num_fields(self) -> int:
        """F."""
        return self.keys.shape[1]

    @cached_property
    def _vocabulary(self) -> tuple[npt.NDArray[np.int32], tuple[int, ...]]:
        ids, sizes = np.empty(self.keys.shape, np.int32), []
        first = 0
        for field, column in enumerate(self.keys.T):
            values, places = np.unique(column, return_inverse=True)
            ids[:, field] = places + first
            first += len(values)
            sizes.append(len(values))
        return ids, tuple(sizes)

    @property
    def ids(self) -> npt.NDArray[np.int32]:
        """(N, F) numbers of the features, from 0 on, field after field. Computed once, and only if asked for."""
        return self._vocabulary[0]

    @property
    def field_sizes(self) -> tuple[int, ...]:
        """Distinct features of each field."""
        return self._vocabulary[1]

    def counts(self) -> npt.NDArray[np.int64]:
        """Occurrences of each feature: the future."""
        return np.bincount(self.ids.reshape(-1), minlength=sum(self.field_sizes))

    def batches(self, rows: int, *, num_rows: int) -> Iterator[slice]:
        """Where each batch of `rows` stands in the first `num_rows`; what is left at the end is a smaller one."""
        for start in range(0, num_rows, rows):
            yield slice(start, min(start + rows, num_rows))


def _generate(source: GeneratorSource, num_rows: int) -> Stream:
    days = max(1.0, num_rows / _DAYS)
    config = GeneratorConfig(seed=source.world, rows_per_day=days, rotate_at=source.rotate_at)
    blocks = list(Generator(config).blocks(num_rows, _BLOCK_ROWS))
    payloads = np.concatenate([block.payloads for block in blocks])
    numbers = np.arange(1, payloads.shape[1] + 1, dtype=np.uint64) << _FIELD_SHIFT
    return Stream(
        label=np.concatenate([block.label for block in blocks]),
        dense=np.concatenate([block.dense for block in blocks]),
        keys=payloads | numbers,
    )


def _read(source: FileSource, num_rows: int | None) -> Stream:
    schema = load_schema(source.schema)
    batches, have = [], 0
    for path in source.paths:
        for block in read_log(path, schema, _BLOCK_ROWS):
            batches.append(block.parse().batch)
            have += batches[-1].num_rows
            if num_rows is not None and have >= num_rows:
                break
        if num_rows is not None and have >= num_rows:
            break
    if not have:
        raise ConfigError("no good row in the files; name other files or another --schema")
    return Stream(
        label=np.concatenate([batch.label for batch in batches])[:num_rows],
        dense=np.concatenate([batch.dense for batch in batches])[:num_rows],
        keys=np.concatenate([batch.keys for batch in batches])[:num_rows],
    )


@lru_cache(maxsize=1)
def load_stream(source: Source, num_rows: int | None) -> Stream:
    """The first `num_rows` rows of the source, or all that its files hold; the last stream is kept.

    Raises:
        ConfigError: a file does not fit the schema, or the generator is asked for all its rows.
        InputError: a file cannot be read.
    """
    if isinstance(source, FileSource):
        return _read(source, num_rows)
    if isinstance(source, TokenSource):
        label, keys = read_tokens(source, num_rows)
        return Stream(label=label, dense=np.empty((len(label), 0), np.float32), keys=keys)
    if num_rows is None:
        raise ConfigError("--rows: the generator never ends; say how many rows")
    return _generate(source, num_rows)
