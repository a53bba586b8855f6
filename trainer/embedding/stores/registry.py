"""The stores by name: what rows can be kept as. A new store is a file of its own and a line here.

Classes are loaded when they are first used, so that listing the names costs no import of torch.
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
    "DEFAULT_RATE",
    "DEFAULT_ROW_FORMAT",
    "ROW_FORMATS",
    "STORES",
    "StoreEntry",
    "store_class",
]


@dataclass(frozen=True)
class StoreEntry:
    """A store of rows.

    Attributes:
        home: `module:class`.
        has_parts: whether a vector can be put together from parts of its rows, so that level 2 can be kept in it.
    """

    home: str
    has_parts: bool = True


STORES: dict[str, StoreEntry] = {
    "float32": StoreEntry("trainer.embedding.stores.formats:Float32Rows"),
    "bfloat16": StoreEntry("trainer.embedding.stores.formats:BFloat16Rows"),
    "int8": StoreEntry("trainer.embedding.stores.formats:Int8Rows"),
    "int4": StoreEntry("trainer.embedding.stores.int4:Int4Rows"),
    "half_width": StoreEntry("trainer.embedding.stores.half_width:HalfWidthRows", has_parts=False),
}
ROW_FORMATS = tuple(name for name, entry in STORES.items() if entry.has_parts)  # of all rows; of hot ones any store
DEFAULT_ROW_FORMAT = "float32"
DEFAULT_RATE, DEFAULT_EPSILON = 0.15, 3e-5  # of the rows' optimizer; docs/trainer.md says how they were chosen


def store_class(name: str) -> type[RowStore]:
    """The class of that name.

    Raises:
        PlanError: there is none.
    """
    if name not in STORES:
        raise PlanError(f"row format: got {name!r}, expected one of {', '.join(STORES)}")
    module, _, kind = STORES[name].home.partition(":")
    found: type[RowStore] = getattr(import_module(module), kind)
    return found
