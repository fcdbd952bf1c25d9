"""Files that are whole or absent: written under a temporary name, flushed to disk, renamed."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from mdtree_jax.checks import UserError

TEMPORARY_SUFFIX = ".partial"


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` with a temporary path beside `path`, then rename the result to `path`.

    A reader, or a process killed at any moment, sees the old file or the new one, never a part. On any failure the
    temporary file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    try:
        write(temporary)
        with open(temporary, "rb+") as stream:  # the rename must not reach the disk before the content
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` in UTF-8, whole or not at all."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


@contextlib.contextmanager
def one_sentence_on_write_failure(folder: Path) -> Iterator[None]:
    """Turn a full disk or a folder that cannot be written, found while inside, into a `UserError`.

    Libraries wrap the system's error in types of their own, so the chain of causes and the text are looked at too.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = _write_failure(error)
        if reason is None:
            raise
        raise UserError(
            f"cannot write to {folder}: {reason}; what was finished before is intact, "
            "and the same command goes on from there"
        ) from error


def _write_failure(error: BaseException | None) -> str | None:
    """Return in words why writing failed, None if `error` is about something else."""
    words = {
        errno.ENOSPC: "no space left on the disk",
        errno.EDQUOT: "the disk quota is used up",
        errno.EFBIG: "the file is larger than the system allows",
        errno.EACCES: "permission denied",
        errno.EPERM: "permission denied",
        errno.EROFS: "the disk is read-only",
        errno.ENOTDIR: "a part of the path is a file",
        errno.EEXIST: "a part of the path is a file",
        errno.ENOENT: "the folder is not there and cannot be made",
    }
    while error is not None:
        if isinstance(error, OSError) and error.errno in words:
            return words[error.errno]
        for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            if os.strerror(code).lower() in str(error).lower():
                return words[code]
        error = error.__cause__ or error.__context__
    return None
