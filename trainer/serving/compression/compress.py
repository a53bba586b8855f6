"""`compress`: makes the rows of an export smaller, for serving alone.

    DIR/dense.safetensors, router.safetensors      as they were
        rows.safetensors      `gate`, and the arrays of each table's codec: `unique.codes`, `shared.level_2.books`, ...
        export.json           as of any export, with version 7; `compression` has the format, `published` is null

The ratio is that of `rows.safetensors`' arrays, codes, books and centroids included. The router (12 bytes a hot key)
stays as it is: every format needs it, and the report has its bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from trainer.embedding.adaptive import AdaptiveEmbedding
from trainer.embedding.stores.rows import RowStore
from trainer.errors import CheckpointError, PlanError
from trainer.ranks.embedding import RankedEmbedding
from trainer.serving.checkpointed import export_checkpoint
from trainer.serving.compression.codec import Codec, Sample
from trainer.serving.compression.formats import FORMATS, TABLES, Compressed, unique_groups
from trainer.serving.compression.reads import Reads, owned_once
from trainer.serving.compression.rounded import Int8
from trainer.serving.export import load_export, require_finite, write_export
from trainer.serving.export_files import COMPRESSED_VERSION, SLICED_VERSION, is_export
from trainer.serving.exported import Exported

__all__ = ["Bytes", "Original", "compress", "write_compressed"]

_SHARES = (0.5, 0.7, 0.9)  # of the bytes beyond the fewest, for unique rows


@dataclass(frozen=True, kw_only=True)
class Original:
    """An export that is made smaller.

    Attributes:
        exported: as a replica reads it.
        model: the dense part.
        embedding: its rows.
        manifest: the content of `export.json`.
    """

    exported: Exported
    model: nn.Module
    embedding: AdaptiveEmbedding | RankedEmbedding
    manifest: Mapping[str, Any]

    @classmethod
    def read(cls, directory: Path) -> Original:
        """Reads an export, or the newest checkpoint in a directory of checkpoints.

        Raises:
            CheckpointError: it is damaged, of another version, or compressed already; or neither of both is there.
        """
        if not is_export(directory):
            with TemporaryDirectory() as folder:
                export_checkpoint(directory, Path(folder) / "out")
                return cls.read(Path(folder) / "out")
        exported = Exported.read(directory)
        if exported.compression is not None:
            raise CheckpointError(f"{directory}: is compressed already ({exported.compression}); take the original")
        model, embedding, manifest = load_export(directory)
        return cls(exported=exported, model=model, embedding=embedding, manifest=manifest)

    @property
    def nbytes(self) -> int:
        """Bytes of the rows, their scales and the gates."""
        return sum(array.nbytes for array in self.exported.rows.values())

    def samples(self, reads: Reads) -> list[Sample]:
        """The vectors of the three tables, without gates."""
        embedding, layout = self.embedding, self.exported.shape.layout
        slices = [embedding] if isinstance(embedding, AdaptiveEmbedding) else embedding.local.slices.values()
        tables = (
            [part.unique for part in slices],
            *([part.shared.levels[name] for part in slices] for name in ("level_1", "level_2")),
        )
        groups = (
            unique_groups(self.exported),
            np.zeros(layout.level_1_rows, np.int64),
            np.zeros(layout.level_2_rows, np.int64),
        )
        return [
            Sample(vectors=_read_all(stores), weights=weights, groups=mine, num_groups=count)
            for stores, weights, mine, count in zip(
                tables, reads.tables, groups, (layout.num_fields, 1, 1), strict=True
            )
        ]


def _read_all(stores: Sequence[RowStore]) -> npt.NDArray[np.float32]:
    """The vectors of a table, which each slice has a part of."""
    vectors = [store.read(torch.arange(store.num_rows)[:, None]) for store in stores]
    read: npt.NDArray[np.float32] = torch.cat(vectors).numpy()
    return read


@dataclass(frozen=True, kw_only=True)
class Bytes:
    """Sizes of an export.

    Attributes:
        rows: of rows, codes, centroids and gates.
        router: of the keys that have a unique row, and of their row numbers.
        dense: of the dense part.
    """

    rows: int
    router: int
    dense: int

    @classmethod
    def of(cls, exported: Exported) -> Bytes:
        """Those of an export, compressed or not."""
        router = sum(array.nbytes for array in exported.router.values())
        return cls(rows=sum(array.nbytes for array in exported.rows.values()), router=router, dense=len(exported.dense))


def compress(original: Original, name: str, ratio: float | None = None, reads: Reads | None = None) -> Compressed:
    """The rows in another format.

    Args:
        original: what was exported.
        name: of the format, one of `FORMATS`.
        ratio: bytes of the rows before, over those after; None for the largest of the format.
        reads: how often each row is read; None for once each.

    Raises:
        PlanError: the format cannot reach the ratio.
    """
    kind = FORMATS[name]
    unique, first, second = original.samples(reads or owned_once(original.exported))
    fixed = original.exported.rows["gate"].nbytes + Int8.least_bytes(first)
    least = [kind.least_bytes(unique), kind.least_bytes(second)]
    fewest = fixed + sum(least)
    if ratio is not None and ratio > original.nbytes / fewest:
        largest = original.nbytes * 100 // fewest / 100  # rounded down, since it must be one that is reached
        raise PlanError(
            f"--ratio {ratio:g}: {name} reaches {largest:.2f} with this model; take less, or another format"
        )
    spare = 0 if ratio is None else max(0, int(original.nbytes / ratio) - fewest)  # a quotient may round down
    level_1 = Int8.fit(first, Int8.least_bytes(first))
    best: tuple[float, Codec, Codec] | None = None
    for share in _SHARES if spare and second.num_rows else (1.0,):
        given = int(share * spare)
        tables = (kind.fit(unique, least[0] + given), kind.fit(second, least[1] + spare - given))
        error = _error(unique, tables[0]) + _error(second, tables[1])
        if best is None or error < best[0]:
            best = (error, *tables)
    assert best is not None  # noqa: S101  there is a share
    return Compressed(unique=best[1], level_1=level_1, level_2=best[2])


def _error(sample: Sample, codec: Codec) -> float:
    return sample.error(codec.decode(np.arange(sample.num_rows), sample.groups))


def write_compressed(directory: Path, original: Original, name: str, compressed: Compressed) -> None:
    """Writes an export with compressed rows.

    Args:
        directory: the directory.
        original: what was exported.
        name: the format.
        compressed: its rows.

    Raises:
        CheckpointError: the directory contains files that are not an export, or cannot be written.
        DivergedError: a number is not finite.
    """
    arrays: dict[str, npt.NDArray[Any]] = {"gate": original.exported.rows["gate"]}
    for table, codec in zip(TABLES, compressed.tables, strict=True):
        arrays |= {f"{table}.{part}": array for part, array in codec.arrays().items()}
    parts: dict[str, dict[str, Tensor]] = {
        "dense": dict(original.model.state_dict()),
        "rows": {part: torch.from_numpy(np.array(array)) for part, array in arrays.items()},
        "router": {part: torch.from_numpy(np.array(array)) for part, array in original.exported.router.items()},
    }
    require_finite(parts, "--out")
    kept = {part: value for part, value in original.manifest.items() if part not in ("xxh3", "version", "files")}
    version = COMPRESSED_VERSION if original.exported.shape.slices == 1 else SLICED_VERSION
    content = {"version": version, **kept, "published": None, "compression": name}
    write_export(directory, parts, content, "--out")
