"""`--schema tokens`: a click-like log that nobody made, of any source tree: is this the next token, or a random one?

Files in order of their paths, tokens in order within them. Every token gives a row: with even chances the candidate is
the token itself (label 1) or one drawn from the whole tree (label 0), and the fields are

    candidate, the four tokens before, (candidate, last), (last, last but one), folder, file

so the values that matter change from folder to folder, and no licence is needed to repeat it.
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
from streams.keys import MISSING, hash_token

__all__ = ["TokenRows", "TokenSource", "read_tokens"]

_ENDINGS = frozenset({".c", ".cc", ".cpp", ".go", ".h", ".hpp", ".java", ".js", ".py", ".rs", ".ts"})
_TOKEN = re.compile(r"[^\W\d]\w*|\d+|[^\w\s]")
_BEFORE = 4
_MAX_FILE_BYTES = 1 << 20
_FIELD_SHIFT = np.uint64(56)
Words = npt.NDArray[np.uint64]
TokenRows = tuple[npt.NDArray[np.int8], Words]


@dataclass(frozen=True, kw_only=True)
class TokenSource:
    """The source files below a folder.

    Args:
        root: the folder.
    """

    root: Path

    def files(self) -> list[Path]:
        """Source files of at most a megabyte, by path."""
        found = (path for path in self.root.rglob("*") if path.suffix in _ENDINGS and path.is_file())
        return sorted(path for path in found if path.stat().st_size <= _MAX_FILE_BYTES)

    def describe(self) -> dict[str, Any]:
        """What the rows depend on."""
        return dict(self._described)

    @cached_property
    def _described(self) -> dict[str, Any]:  # every cell's name asks for it
        files = self.files()
        sizes = "".join(f"{path.relative_to(self.root)} {path.stat().st_size}\n" for path in files)
        digest = hashlib.sha256(sizes.encode()).hexdigest()[:16]
        return {"kind": "tokens", "root": self.root.name, "files": len(files), "digest": digest}


def _tokens(source: TokenSource) -> Iterator[tuple[str, str, str]]:
    """(token, folder, file) of every token in order."""
    for path in source.files():
        name = str(path.relative_to(source.root))
        folder = str(path.relative_to(source.root).parent)
        for token in _TOKEN.findall(path.read_text(errors="replace")):
            yield token, folder, name


def _payloads(words: list[str]) -> Words:
    """The 56-bit payloads of words (N,), each distinct one hashed once."""
    known = {word: hash_token(word) for word in set(words)}
    return np.fromiter((known[word] for word in words), np.uint64, len(words))


def _pair(one: Words, other: Words) -> Words:
    """A payload for every pair."""
    return np.minimum(mix64_array(mix64_array(one) ^ other) & np.uint64(MISSING), np.uint64(MISSING - 1))


def read_tokens(source: TokenSource, num_rows: int | None) -> TokenRows:
    """Labels (N,) int8 and keys (N, 9) uint64 of the tree's first `num_rows` tokens.

    Raises:
        ConfigError: the folder holds no source file.
    """
    read = list(islice(_tokens(source), num_rows and num_rows + _BEFORE))
    if len(read) <= _BEFORE:
        raise ConfigError(f"{source.root}: no tokens in it; expected a folder with {', '.join(sorted(_ENDINGS))} files")
    tokens, folders, files = (_payloads([row[part] for row in read]) for part in range(3))
    true = tokens[_BEFORE:]
    chance = np.random.default_rng(0)
    label = chance.random(len(true)) < 0.5
    candidate = np.where(label, true, tokens[chance.integers(0, len(tokens), len(true))])
    before = [tokens[_BEFORE - back : len(tokens) - back] for back in range(1, _BEFORE + 1)]
    pairs = [_pair(candidate, before[0]), _pair(before[0], before[1])]
    payloads = np.stack([candidate, *before, *pairs, folders[_BEFORE:], files[_BEFORE:]], axis=1)  # (N, 9)
    fields = np.arange(1, payloads.shape[1] + 1, dtype=np.uint64) << _FIELD_SHIFT
    return label.astype(np.int8), payloads | fields
