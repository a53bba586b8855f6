"""The row stores by name. A new store is a file of its own and a line here.

Classes are imported on first use, so that listing the names does not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from trainer.errors import PlanError

if TYPE_CHECKING:
    from trainer.embedding.stores.rows import RowStore

__all__ = [
    "DEFAULT_EPSILON",
    "DEFAULT_LEARNING_RATE",
    "DEFAULT_ROW_FORMAT",
    "ROW_FORMATS",
    "STORES",
    "StoreEntry",
    "store_class",
]


@dataclass(frozen=True)
class StoreEntry:
    """How to find a row store, and what it supports.

    Attributes:
        home: `module:class`.
        is_shared: whether shared rows can have this format.
    """

    home: str
    is_shared: bool = True


STORES: dict[str, StoreEntry] = {
    "float32": StoreEntry("trainer.embedding.stores.formats:Float32Rows"),
    "bfloat16": StoreEntry("trainer.embedding.stores.formats:BFloat16Rows"),
    "int8": StoreEntry("trainer.embedding.stores.formats:Int8Rows"),
    "int4": StoreEntry("trainer.embedding.stores.int4:Int4Rows", is_shared=False),
    "half_width": StoreEntry("trainer.embedding.stores.half_width:HalfWidthRows", is_shared=False),
}
ROW_FORMATS = tuple(name for name, entry in STORES.items() if entry.is_shared)  # unique rows can use any store
DEFAULT_ROW_FORMAT = "float32"
DEFAULT_LEARNING_RATE, DEFAULT_EPSILON = 0.15, 3e-5  # of the rows' optimizer; see docs/trainer.md


def store_class(name: str) -> type[RowStore]:
    """The store class of that name.

    Raises:
        PlanError: no store has that name.
    """
    if name not in STORES:
        raise PlanError(f"row format: got {name!r}, expected one of {', '.join(STORES)}")
    module, _, kind = STORES[name].home.partition(":")
    found: type[RowStore] = getattr(import_module(module), kind)
    return found
