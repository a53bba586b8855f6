"""`--schema tokens` turns any source tree into a click log; the task is to detect the true next token.

Files are read in the order of their paths. Every token yields a row: with probability 1/2 the candidate is the token
itself (label 1), else a random token of the tree (label 0). The fields are

    candidate, the four preceding tokens, (candidate, last), (last, last but one), folder, file

The important values change from folder to folder, and anybody can repeat the experiment without licensed data.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sketch.hashing import mix64_array
from streams.errors import ConfigError
from streams.keys import MISSING, PAYLOAD_BITS, hash_token

__all__ = ["TokenSource", "read_tokens"]

_SUFFIXES = frozenset({".c", ".cc", ".cpp", ".go", ".h", ".hpp", ".java", ".js", ".py", ".rs", ".ts"})
_TOKEN = re.compile(r"[^\W\d]\w*|\d+|[^\w\s]")
_NUM_PRECEDING = 4
_MAX_FILE_BYTES = 1 << 20
Payloads = npt.NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class TokenSource:
    """The source files below a folder.

    Args:
        root: the root folder.
    """

    root: Path

    def files(self) -> list[Path]:
        """Returns the source files of at most 1 MiB in the order of their paths."""
        paths = (path for path in self.root.rglob("*") if path.suffix in _SUFFIXES and path.is_file())
        return sorted(path for path in paths if path.stat().st_size <= _MAX_FILE_BYTES)

    def describe(self) -> dict[str, Any]:
        """Returns what the rows depend on, as JSON values."""
        return dict(self._described)

    @cached_property
    def _described(self) -> dict[str, Any]:  # cached, because every cell's name needs it
        files = self.files()
        sizes = "".join(f"{path.relative_to(self.root)} {path.stat().st_size}\n" for path in files)
        digest = hashlib.sha256(sizes.encode()).hexdigest()[:16]
        return {"kind": "tokens", "root": self.root.name, "files": len(files), "digest": digest}


def _tokens(source: TokenSource) -> Iterator[tuple[str, str, str]]:
    """Yields (token, folder, file) of every token in order."""
    for path in source.files():
        name = str(path.relative_to(source.root))
        folder = str(path.relative_to(source.root).parent)
        for token in _TOKEN.findall(path.read_text(errors="replace")):
            yield token, folder, name


def _payloads(words: list[str]) -> Payloads:
    """Returns the 56-bit payloads of words (N,); it hashes each distinct word once."""
    payload_of = {word: hash_token(word) for word in set(words)}
    return np.fromiter((payload_of[word] for word in words), np.uint64, len(words))


def _pair(one: Payloads, other: Payloads) -> Payloads:
    """Returns the payloads (N,) of pairs of payloads (N,)."""
    return np.minimum(mix64_array(mix64_array(one) ^ other) & np.uint64(MISSING), np.uint64(MISSING - 1))


def read_tokens(source: TokenSource, num_rows: int | None) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.uint64]]:
    """Returns labels (N,) int8 and keys (N, 9) uint64 of the first `num_rows` tokens of the tree.

    Raises:
        ConfigError: the folder has too few tokens.
    """
    read = list(islice(_tokens(source), num_rows and num_rows + _NUM_PRECEDING))
    if len(read) <= _NUM_PRECEDING:
        raise ConfigError(
            f"{source.root}: got {len(read)} tokens, expected more than {_NUM_PRECEDING} in files with the suffixes "
            f"{', '.join(sorted(_SUFFIXES))}"
        )
    tokens, folders, files = (_payloads([row[column] for row in read]) for column in range(3))
    true = tokens[_NUM_PRECEDING:]
    rng = np.random.default_rng(0)
    label = rng.random(len(true)) < 0.5
    candidate = np.where(label, true, tokens[rng.integers(0, len(tokens), len(true))])
    preceding = [tokens[_NUM_PRECEDING - back : len(tokens) - back] for back in range(1, _NUM_PRECEDING + 1)]
    pairs = [_pair(candidate, preceding[0]), _pair(preceding[0], preceding[1])]
    folders, files = folders[_NUM_PRECEDING:], files[_NUM_PRECEDING:]
    payloads = np.stack([candidate, *preceding, *pairs, folders, files], axis=1)  # (N, 9)
    fields = np.arange(1, payloads.shape[1] + 1, dtype=np.uint64) << np.uint64(PAYLOAD_BITS)
    return label.astype(np.int8), payloads | fields
