"""The row stores by name. A new store is a file of its own and a line here.

Classes are imported on first use, so that names and bytes do not import torch, which takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from trainer.errors import PlanError

if TYPE_CHECKING:
    from trainer.embedding.stores.rows import RowStore
    from trainer.embedding.stores.store import OptimizerName

__all__ = [
    "DEFAULT_EPSILON",
    "DEFAULT_LEARNING_RATE",
    "DEFAULT_ROW_FORMAT",
    "ROW_FORMATS",
    "STORES",
    "StoreEntry",
    "row_bytes",
    "store_class",
    "vector_bytes",
]


@dataclass(frozen=True)
class StoreEntry:
    """How to find a row store, and what it supports.

    Attributes:
        home: `module:class`.
        vector_bytes: bytes of a row of D values, by D; equal to the class's.
        is_shared: whether shared rows can have this format.
    """

    home: str
    vector_bytes: Callable[[int], int]
    is_shared: bool = True


STORES: dict[str, StoreEntry] = {
    "float32": StoreEntry("trainer.embedding.stores.formats:Float32Rows", lambda dim: 4 * dim),
    "bfloat16": StoreEntry("trainer.embedding.stores.formats:BFloat16Rows", lambda dim: 2 * dim),
    "int8": StoreEntry("trainer.embedding.stores.formats:Int8Rows", lambda dim: dim + 2),
    "int4": StoreEntry("trainer.embedding.stores.int4:Int4Rows", lambda dim: (dim + 1) // 2 + 2, is_shared=False),
    "half_width": StoreEntry(
        "trainer.embedding.stores.half_width:HalfWidthRows", lambda dim: 4 * (dim // 2), is_shared=False
    ),
}
_EVALUATED = {  # only methods of `evaluate` use them: no trainer, export or replica reads such rows
    "int2": StoreEntry("trainer.embedding.stores.int2:Int2Rows", lambda dim: (dim + 3) // 4 + 2, is_shared=False),
}
ROW_FORMATS = tuple(name for name, entry in STORES.items() if entry.is_shared)  # unique rows can use any store
DEFAULT_ROW_FORMAT = "float32"
DEFAULT_LEARNING_RATE, DEFAULT_EPSILON = 0.15, 3e-5  # of the rows' optimizer; see docs/trainer.md
_STATE_BYTES = 4  # an Adagrad sum


def _entry(name: str) -> StoreEntry:
    entry = STORES.get(name) or _EVALUATED.get(name)
    if entry is None:
        raise PlanError(f"row format: got {name!r}, expected one of {', '.join(STORES)}")
    return entry


def vector_bytes(name: str, dim: int) -> int:
    """Bytes of one row of `dim` values of the store of that name, without optimizer state.

    Raises:
        PlanError: no store has that name.
    """
    return _entry(name).vector_bytes(dim)


def row_bytes(name: str, dim: int, optimizer: OptimizerName) -> int:
    """Bytes of one row and of its optimizer state.

    Raises:
        PlanError: no store has that name.
    """
    return vector_bytes(name, dim) + (_STATE_BYTES if optimizer == "adagrad" else 0)


def store_class(name: str) -> type[RowStore]:
    """The store class of that name.

    Raises:
        PlanError: no store has that name.
    """
    module, _, kind = _entry(name).home.partition(":")
    found: type[RowStore] = getattr(import_module(module), kind)
    return found
