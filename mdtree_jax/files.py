"""Files are written aside under a temporary name and renamed, so that none is ever half-written."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mdtree_jax.checks import UserError


@contextlib.contextmanager
def output_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Make the folder if it is not there and yield it; folders made here that stay empty are removed again.

    Raises:
        UserError: it cannot be made or written to.
    """
    folder = Path(path).expanduser()
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"cannot write to the folder '{path}': {why}; choose another by out=") from error
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):  # not empty: there are results in it
            for one in made:
                one.rmdir()


@contextlib.contextmanager
def written_aside(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends well, remove it otherwise.

    Raises:
        UserError: the file cannot be written (a full disk, a missing or read-only folder).
    """
    path = Path(path)
    aside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield aside
        os.replace(aside, path)
    except OSError as error:
        raise UserError(f"cannot write '{path}': {error.strerror or error}") from error
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file in one piece."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")
