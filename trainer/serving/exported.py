"""`Exported`: an export as the records that a replica reads; without torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors

from streams.keys import FIELD_SHIFT
from streams.records.embeddings import RowRecord
from trainer.embedding.layout import Layout
from trainer.errors import CheckpointError
from trainer.serving.export_files import MANIFEST, read_manifest, read_parts
from trainer.serving.published import Published
from trainer.serving.shape import ServedShape
from trainer.serving.tables import join_rows

__all__ = ["Exported"]

_DTYPES: Mapping[str, Any] = {
    "F32": np.float32, "F16": np.float16, "BF16": np.uint16, "U16": np.uint16, "I8": np.int8, "U8": np.uint8,
    "I32": np.int32, "I64": np.int64,
}  # fmt: skip
_STORES = {"u": "unique", "1": "shared.level_1", "2": "shared.level_2"}
Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What a replica needs of an export.

    Attributes:
        shape: the shape that was published with it; else its own, whose run is 0 and which has one partition.
        published: the state of the topic that it is consistent with; None if its run did not publish.
        dense: the weights of the dense part, as safetensors.
        step: rows of clicks trained.
        time_ms: when it was exported.
        rows: NAME.values and NAME.scales of each store, and gate, as in `rows.safetensors`; bfloat16 as uint16.
        router: keys and values, as in `router.safetensors`.
        compression: the format of compressed rows (`trainer.serving.compression.formats`), whose arrays are in `rows`
            instead; None if they are as the trainer had them.
    """

    shape: ServedShape
    published: Published | None
    dense: bytes
    step: int
    time_ms: int
    rows: Arrays
    router: Arrays
    compression: str | None = None

    @classmethod
    def read(cls, directory: Path) -> Exported:
        """Reads an export.

        Raises:
            CheckpointError: it has another format version, lacks a file, or a member, size, checksum or dtype does not
            match.
        """
        manifest = read_manifest(directory)
        parts = read_parts(directory, manifest)
        published = _published(directory, manifest.get("published"))
        return cls(
            shape=ServedShape.from_json(published.shape) if published else _own_shape(manifest),
            published=published,
            dense=parts["dense"],
            step=manifest["rows_trained"],
            time_ms=manifest.get("time_ms", 0),
            rows=_arrays(parts["rows"]),
            router=_arrays(parts["router"]),
            compression=manifest.get("compression"),
        )

    def of_partitions(self, partitions: int) -> Exported:
        """The same for a topic with so many partitions; if it was published to another one, as if it was not."""
        if self.shape.partitions == partitions:
            return self
        return replace(self, published=None, shape=replace(self.shape, partitions=partitions))

    def records(self) -> Iterator[RowRecord]:
        """The rows of published fields, as a trainer would send them."""
        keys, rows = self.router["keys"].view(np.uint64), self.router["values"]
        mine = np.isin(keys >> FIELD_SHIFT, self.shape.published)
        bodies = self._bodies("u", rows[mine])
        for key, row, body in zip(keys[mine].tolist(), rows[mine].tolist(), bodies, strict=True):
            yield self._record("u", row, body, key)
        for kind in "12":
            for number in self.shape.numbers_of(kind):
                yield self._block(kind, number)
        for number in self.shape.numbers_of("g"):
            gates = self.rows["gate"][self.shape.block("g", number)]
            yield self._record("g", number, gates.reshape(-1).view(np.uint8))

    def _block(self, kind: str, number: int) -> RowRecord:
        return self._record(kind, number, self._bodies(kind, self.shape.block(kind, number)))

    def _bodies(self, kind: str, rows: Any) -> npt.NDArray[np.uint8]:
        """The bodies (K, bytes a row) of rows of a store."""
        name = _STORES[kind]
        scales = self.rows.get(f"{name}.scales", np.empty(0, np.uint16))
        return join_rows(self.rows[f"{name}.values"][rows], scales[rows] if len(scales) else scales)

    def _record(self, kind: str, number: int, body: npt.NDArray[np.uint8], feature: int = 0) -> RowRecord:
        return RowRecord(
            kind=kind, number=number, model=self.shape.fingerprint, feature=feature, step=self.step,
            time_ms=self.time_ms, body=body.tobytes(),
        )  # fmt: skip


def _own_shape(manifest: Mapping[str, Any]) -> ServedShape:
    fields = tuple((str(name), str(kind)) for name, kind in manifest["fields"])
    return ServedShape(
        model=manifest["model"], dim=manifest["dim"], row_format=manifest["row_format"],
        hot_store=manifest["hot_store"] or manifest["row_format"], layout=Layout(**manifest["layout"]), fields=fields,
        num_dense=manifest["num_dense"], partitions=1, published=tuple(range(1, len(fields) + 1)), run=0,
        slices=manifest.get("slices") or 1,
    )  # fmt: skip


def _published(directory: Path, found: Mapping[str, Any] | None) -> Published | None:
    try:
        return None if found is None else Published(**{**found, "offsets": _by_number(found["offsets"])})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{directory / MANIFEST}: published: got {found!r:.200} ({error}); export again"
        ) from error


def _by_number(offsets: Mapping[str, int]) -> dict[int, int]:
    return {int(number): offset for number, offset in offsets.items()}


def _arrays(data: bytes) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a safetensors file; bfloat16 as uint16.

    Raises:
        CheckpointError: one has a dtype that no export has.
    """
    arrays = {}
    for name, one in safetensors.deserialize(data):  # type: ignore[no-untyped-call]
        if one["dtype"] not in _DTYPES:
            raise CheckpointError(f"{name}: got the dtype {one['dtype']}, expected one of {', '.join(_DTYPES)}")
        arrays[name] = np.frombuffer(one["data"], _DTYPES[one["dtype"]]).reshape(one["shape"])
    return arrays
