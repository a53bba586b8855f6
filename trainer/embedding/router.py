"""`Router`: maps a key to its unique row, or to none if it shares rows.

A `KeyMap` on the host holds the hot keys. On a CPU a numba kernel reads it; on CUDA, gathers search copies of its two
arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sketch.keymap import ABSENT, KeyMap
from trainer.embedding import gathers, kernels
from trainer.embedding.backends import Backend, backend_of_tables, choose_backend
from trainer.embedding.layout import Layout
from trainer.embedding.transfers import to_device
from trainer.errors import CheckpointError, KeyRangeError

__all__ = ["Router"]


class Router:
    """The current unique row of each hot key.

    Args:
        layout: the number of fields and of unique rows.
        expected_keys: hot keys to reserve memory for.
        device: the device of the lookups.
        backend: `numba` or `torch`; None for the default of the device.

    Attributes:
        copies: the keys (W, 4) int64 and values (W, 4) int32 of the map on the device; () in the numba body.
        version: increases with every update, which invalidates the routes of earlier versions.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        expected_keys: int = 0,
        device: torch.device | None = None,
        backend: Backend | None = None,
    ) -> None:
        self._num_fields = layout.num_fields
        self._device = device or torch.device("cpu")
        self._backend = backend_of_tables(choose_backend(self._device, backend))
        self._expected_keys = expected_keys
        self._map = KeyMap(expected_keys)
        self._is_used = np.zeros(layout.capacity_rows, np.bool_)  # (R,) whether the unique row has a hot key
        self.copies: tuple[Tensor, ...] = ()
        self.version = 0
        self._upload()

    def __len__(self) -> int:
        return len(self._map)

    @property
    def nbytes(self) -> dict[str, int]:
        """Bytes on the host, and of the copies on another device."""
        device = sum(part.nbytes for part in self.copies) if self._device.type != "cpu" else 0
        return {"host": self._map.nbytes + self._is_used.nbytes, "device": device}

    @property
    def num_hot(self) -> int:
        """The number of hot keys."""
        return len(self._map)

    def _upload(self, slots: npt.NDArray[np.int64] | None = None) -> None:
        """Updates the copies that gathers search; numba reads the arrays of the map itself.

        Args:
            slots: the indices of the slots that changed; None for all.
        """
        if self._backend == "numba":
            return
        if slots is None:
            self.copies = self.tensors()
            return
        arrays: tuple[npt.NDArray[Any], ...] = (self._map.keys.view(np.int64), self._map.values)
        where = to_device(slots, self._device)
        for copy, array in zip(self.copies, arrays, strict=True):
            copy.view(-1)[where] = to_device(array.reshape(-1)[slots], self._device)

    def route(self, keys: Tensor) -> Tensor:
        """The unique row of each of (U,) int64 keys, (U,) int32, negative if it shares rows.

        Raises:
            KeyRangeError: a key's field number is not 1 to F (on CUDA it is clamped instead).
        """
        if self._backend == "torch":
            slots, known = self.copies
            return gathers.find_values(slots, known, keys)
        rows = np.empty(len(keys), np.int32)
        words = keys.numpy().view(np.uint64)
        if unknown := kernels.find(words, self._map.keys, self._map.values, self._num_fields, rows):
            raise KeyRangeError(f"{unknown} keys whose field number is not 1 to {self._num_fields}")
        return torch.from_numpy(rows)

    def values(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.int32]:
        """The unique row of each key, `ABSENT` for a key without one."""
        return self._map.get(keys)

    def items(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int32]]:
        """All hot keys in ascending order, and their rows."""
        return self._map.items()

    def unsorted_items(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int32]]:
        """As `items`, unsorted, which costs no more than a copy."""
        used = self._map.keys != 0
        return self._map.keys[used], self._map.values[used]

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Copies of the map's keys (W, 4) int64 and rows (W, 4) int32, for `gathers.find_values`."""
        arrays: tuple[npt.NDArray[Any], ...] = (self._map.keys.view(np.int64), self._map.values)
        slots, rows = (to_device(array, self._device).clone() for array in arrays)
        return slots, rows

    def owners(self, rows: npt.NDArray[np.int32]) -> npt.NDArray[np.uint64]:
        """The hot keys that own any of the distinct unique rows. O(capacity) if there are any, else O(rows)."""
        used = rows[self._is_used[rows]]
        if not len(used):
            return np.empty(0, np.uint64)
        keys, values = self.unsorted_items()
        return keys[np.isin(values, used)]

    def update(self, keys: npt.NDArray[np.uint64], values: npt.NDArray[np.int32]) -> None:
        """Sets the rows of distinct keys; `ABSENT` removes a key. No two keys may end up with one row. O(K)."""
        before = self._map.get(keys)
        self._is_used[before[before >= 0]] = False
        self._is_used[values[values >= 0]] = True
        gone = values == ABSENT
        emptied = self._map.remove(keys[gone])  # first, so that their slots can be reused
        written = self._map.put(keys[~gone], values[~gone])
        self.version += 1
        self._upload(None if written is None else np.unique(np.concatenate([emptied, written])))

    def load(self, keys: npt.NDArray[np.uint64], values: npt.NDArray[np.int32]) -> None:
        """Replaces all hot keys.

        Raises:
            CheckpointError: two keys share a row, or a row is beyond the capacity; the router is unchanged.
        """
        capacity = len(self._is_used)
        if len(values) and not 0 <= values.min() <= values.max() < capacity:
            raise CheckpointError(
                f"hot keys have unique rows {values.min()} to {values.max()}, expected 0 to {capacity - 1}"
            )
        if len(keys) != len(values) or len(np.unique(values)) != len(values) or len(np.unique(keys)) != len(keys):
            raise CheckpointError("router: two hot keys are equal or share a unique row")
        self._map = KeyMap(max(len(keys), self._expected_keys))
        self._is_used[:] = False
        self._upload()
        self.update(keys, values)
