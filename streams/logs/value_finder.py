"""Finds the values of feature keys in logs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np

from streams.keys import MISSING, PAYLOAD_BITS, Keys
from streams.logs.bad_lines import BadLines
from streams.logs.locations import LogFile
from streams.logs.reader import read_log
from streams.logs.schema import LogSchema

__all__ = ["find_values", "keys_of_values"]

_BLOCK_LINES = 8192


def keys_of_values(keys: Collection[int], schema: LogSchema) -> set[int]:
    """The keys that do not show their value: hashed and not missing."""
    hashed = {number for number, field in enumerate(schema.categorical, 1) if field.kind == "hash"}
    return {key for key in keys if key >> PAYLOAD_BITS in hashed and key & MISSING != MISSING}


def find_values(
    files: Sequence[LogFile], schema: LogSchema, wanted: Collection[int], bad_lines: BadLines
) -> Iterator[tuple[int, bytes]]:
    """Yields keys with their values until all that are wanted were found; counts the malformed lines.

    Raises:
        ConfigError: a file does not fit the schema.
        InputError: a file cannot be read.
    """
    left = set(wanted)
    for file in files:
        for block in read_log(file, schema, _BLOCK_LINES):
            if not left:
                return
            rows = block.parse()
            bad_lines.add(rows, file.name)
            found = _present(rows.batch.every_key, left)
            left -= found
            for index, payloads in block.tokens.items():
                base = (index + 1) << PAYLOAD_BITS
                yield from ((base | payload, token) for token, payload in payloads.items() if base | payload in found)


def _present(keys: Keys, wanted: Collection[int]) -> set[int]:
    """The wanted keys that are among keys of any shape."""
    listed = np.fromiter(wanted, np.uint64, len(wanted))
    return set(keys[np.isin(keys, listed)].tolist())
