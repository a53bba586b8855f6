"""numba's compile cache: processes start fast, and never with stale machine code.

To decide whether cached code is stale, numba looks only at the function's own file, but our kernels inline functions
from other modules. Importing this module sets a cache folder whose name is a digest of every file with kernels.
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
    """Sets numba's cache folder, unless `NUMBA_CACHE_DIR` does. Must run before the first import of a kernel."""
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
            continue  # no home, or a read-only one
        if os.access(folder, os.W_OK):
            config.CACHE_DIR = str(folder)
            return


_use_compile_cache()
