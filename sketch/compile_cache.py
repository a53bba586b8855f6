"""Where numba keeps what it compiled, so that a process starts in a moment and never with stale machine code.

numba looks only at a function's own file to see whether its cached code is stale, but our kernels inline functions from
other modules. So the cache lies in a folder that is named after the contents of every file that has kernels;
importing this module sets it.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from numba import config

__all__: list[str] = []

_PACKAGES = ("sketch", "streams", "trainer")


def _use_compile_cache() -> None:
    """Sets numba's cache folder, unless `NUMBA_CACHE_DIR` does; must run before the first kernel is imported."""
    if os.environ.get("NUMBA_CACHE_DIR"):
        return
    digest = hashlib.sha256()
    root = Path(__file__).resolve().parent.parent
    for path in sorted(path for package in _PACKAGES for path in (root / package).rglob("*.py")):
        content = path.read_bytes()
        if b"numba" in content:
            digest.update(content)
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    for parent in (base / "hotstream", Path(tempfile.gettempdir()) / f"hotstream-{os.getuid()}"):
        folder = parent / f"numba-{digest.hexdigest()[:16]}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue  # no home, or one that is read-only
        if os.access(folder, os.W_OK):
            config.CACHE_DIR = str(folder)
            return


_use_compile_cache()
