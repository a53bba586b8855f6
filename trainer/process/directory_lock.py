"""`DirectoryLock`: only one process at a time writes to a directory of checkpoints."""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path

from trainer.errors import CheckpointError

__all__ = ["DirectoryLock"]

logger = logging.getLogger(__name__)


class DirectoryLock:
    """A lock on a directory, held until `release` or the end of the process, however it ends.

    The file `.lock` in the directory remains; it contains the number of the process that took the lock last. Without
    support of the file system (`flock`) there is a warning and no lock.

    Args:
        directory: the directory, which must exist.

    Raises:
        CheckpointError: another process, or another run of this one, has the lock.
        OSError: the directory cannot be written.
    """

    def __init__(self, directory: Path) -> None:
        self._file: int | None = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(self._file, 20).decode(errors="replace").strip() or "unknown"
            self.release()
            raise CheckpointError(
                f"--checkpoint-dir {directory}: in use by process {owner}; stop it, or choose another directory"
            ) from error
        except OSError as error:
            logger.warning("%s cannot be locked (%s); start no second trainer on it", directory, error)
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        """Releases the lock."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
