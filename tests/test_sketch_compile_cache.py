"""Compiled code is loaded only from a folder that no other user can write."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def cache_folder(home: Path, **environment: str) -> tuple[Path, str]:
    """The folder in which a new process keeps what it compiles, and what it logs."""
    variables = {name: value for name, value in os.environ.items() if name not in {"NUMBA_CACHE_DIR", "XDG_CACHE_HOME"}}
    (home / "temporary").mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", "import sketch.compile_cache; from numba import config; print(config.CACHE_DIR)"],
        env={**variables, "TMPDIR": str(home / "temporary"), "HOME": str(home), **environment},
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return Path(done.stdout.strip()), done.stderr


def is_temporary(folder: Path, home: Path) -> bool:
    """Whether the folder had a name that nobody could know before, and is gone with its process."""
    return folder.parent == home / "temporary" and not folder.exists()


def test_the_cache_is_a_folder_of_this_user_alone_that_later_processes_find_again(tmp_path):
    folder, logged = cache_folder(tmp_path)
    assert folder.parent == tmp_path / ".cache" / "hotstream"
    assert (folder.stat().st_mode & 0o777, folder.stat().st_uid, logged) == (0o700, os.geteuid(), "")
    assert cache_folder(tmp_path) == (folder, "")


def test_a_parent_that_a_group_can_write_is_closed_to_it(tmp_path):
    parent = tmp_path / ".cache" / "hotstream"
    parent.mkdir(parents=True)
    parent.chmod(0o775)
    folder, logged = cache_folder(tmp_path)
    assert (folder.parent, parent.stat().st_mode & 0o777, logged) == (parent, 0o755, "")


@pytest.mark.parametrize("planted", ["writable", "readable", "link", "owner", "parent's owner"])
def test_a_planted_folder_is_not_used_and_named(tmp_path, planted):
    if "owner" in planted and os.geteuid() != 0:
        pytest.skip("only root can give a folder to another user")
    folder, _ = cache_folder(tmp_path)
    if planted == "link":
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
    elif "owner" in planted:
        os.chown(folder if planted == "owner" else folder.parent, 12345, -1)
    else:
        folder.chmod(0o777 if planted == "writable" else 0o755)
    used, logged = cache_folder(tmp_path)
    assert is_temporary(used, tmp_path)
    assert "no compile cache" in logged
    assert str(folder.parent) in logged


def test_without_a_home_a_process_compiles_for_itself_and_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    used, logged = cache_folder(tmp_path, XDG_CACHE_HOME=str(tmp_path / "file"))
    assert is_temporary(used, tmp_path)
    assert "no compile cache" in logged


def test_a_folder_that_the_user_names_is_used(tmp_path):
    assert cache_folder(tmp_path, NUMBA_CACHE_DIR=str(tmp_path))[0] == tmp_path
