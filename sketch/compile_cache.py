"""numba's compile cache: processes start fast, and never with stale or foreign machine code.

To decide whether cached code is stale, numba looks only at the function's own file, but our kernels inline functions
from other modules. Importing this module sets a cache folder whose name is a digest of every file with kernels.

What a cache folder holds is executed (pickles and machine code), so only a folder that no other user can write is used:
`hotstream/numba-DIGEST` under `$XDG_CACHE_HOME` or `~/.cache`, owned by this user, with mode 700. Without one, this
process compiles for itself alone, and a warning tells so. `NUMBA_CACHE_DIR` overrides all this, unchecked.
"""

from __future__ import annotations

import atexit
import hashlib
import logging
import os
import shutil
import stat
import tempfile
from pathlib import Path

from numba import config

__all__: list[str] = []

logger = logging.getLogger(__name__)

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
    name = f"numba-{digest.hexdigest()[:16]}"
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = _open_private(base / "hotstream", name)
    except (OSError, RuntimeError) as error:  # a read-only home, or none
        folder = _make_temporary(str(error))
    config.CACHE_DIR = str(folder)


def _open_private(parent: Path, name: str) -> Path:
    """The folder `name` in `parent`; both are created if missing, and only this user can write them.

    Raises:
        OSError: one cannot be created, or belongs to others.
    """
    parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    mode = _require_own(parent)
    if mode & 0o022:
        parent.chmod(mode & ~0o022)  # else its other writers could exchange the folder in it
    folder = parent / name
    folder.mkdir(exist_ok=True, mode=0o700)
    mode = _require_own(folder)
    if mode != 0o700:
        raise PermissionError(f"{folder} has the mode {mode:o}, expected 700; delete it")
    return folder


def _require_own(folder: Path) -> int:
    """The permission bits of a folder of this user.

    Raises:
        PermissionError: it is a link, or belongs to another user.
    """
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise PermissionError(f"{folder} is a link, expected a folder; delete it")
    if found.st_uid != os.geteuid():
        raise PermissionError(f"{folder} belongs to user {found.st_uid}, expected user {os.geteuid()}; delete it")
    return stat.S_IMODE(found.st_mode)


def _make_temporary(why: str) -> Path:
    """A folder of this process alone, which its end deletes."""
    logger.warning("no compile cache (%s): this process compiles its kernels again, which takes a minute", why)
    folder = tempfile.mkdtemp(prefix="hotstream-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


_use_compile_cache()
