"""One process per run folder, and per table that grows."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from mdtree_jax.checks import UserError
from mdtree_jax.files import one_sentence_on_write_failure

#: What a lock file holds: nothing, or the process that had it last.
_NOTE = re.compile(rb"(process \d+ on [^\n]{0,300}\n?)?", re.DOTALL)
_NOT_OURS = "{} is not a lock file of this program (a link, or another file of this name); move it away"


class FolderLock:
    """Context manager that holds the lock of a run folder, and refuses if another process does.

    The system's own file lock is used: it vanishes with its process however that ends, so there are no stale locks
    to clean up. What is written in the file is for the message only. Raises `UserError` if the lock is taken or the
    folder cannot be written.
    """

    def __init__(self, folder: Path):
        self.path = Path(folder) / "run.lock"
        self._descriptor: int | None = None

    def __enter__(self) -> FolderLock:
        with one_sentence_on_write_failure(self.path.parent):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = _open_own(self.path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                os.close(descriptor)
                raise UserError(f"cannot lock {self.path}: {error.strerror}; choose another out=") from error
            holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
            os.close(descriptor)
            raise UserError(
                f"{self.path.parent} is in use by {holder}; wait for it, stop it, or choose another out="
            ) from error
        self._descriptor = descriptor
        with contextlib.suppress(OSError):  # a full disk: the note is for a message only
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        return self

    def __exit__(self, *exception) -> None:
        # The file stays: removing it would let a third process lock a new file while a second waits on this one.
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None


def _open_own(path: Path) -> int:
    """Open a lock file, which is made if there is none; raises `UserError` for anything else of this name."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | getattr(os, "O_NOFOLLOW", 0), 0o644)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
        raise UserError(_NOT_OURS.format(path)) from error
    about = os.fstat(descriptor)
    if not stat.S_ISREG(about.st_mode) or about.st_nlink > 1 or not _NOTE.fullmatch(os.pread(descriptor, 400, 0)):
        os.close(descriptor)
        raise UserError(_NOT_OURS.format(path))
    return descriptor


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait until no other process is inside for the same file; the lock is a hidden file beside it."""
    descriptor = _open_own(path.with_name(f".{path.name}.lock"))
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
