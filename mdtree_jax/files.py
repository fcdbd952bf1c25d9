"""Files are written aside under a temporary name and renamed, so that none is ever half-written."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from mdtree_jax.checks import UserError

_MARK = ".partial"
_TEMPORARY = re.compile(r".+\.\d+\.partial(\..*)?", re.DOTALL)
_PIECE_BYTES = 2**20


@contextlib.contextmanager
def output_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Create the folder if needed and yield it; created folders that stay empty are removed again.

    Raises:
        UserError: the folder cannot be created or written to.
    """
    folder = Path(path).expanduser()
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"cannot write to the folder '{path}': {why}; choose another one with out=") from error
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):  # not empty: there are results in it
            for one in made:
                one.rmdir()


def records_folder() -> Path:
    """Return the folder of the recorded tables: in an installed package, or beside the package in a checkout."""
    package = Path(__file__).resolve().parent
    return next((path for path in (package / "sweeps", package.parent / "sweeps") if path.is_dir()), package / "sweeps")


def record_names() -> list[str]:
    """Return the names of the recorded sweeps that ship with the package: `<name>.parquet` and its companions."""
    companion = "-networks.parquet"
    return sorted(path.name.removesuffix(companion) for path in records_folder().glob(f"*{companion}"))


def is_temporary(name: str) -> bool:
    """Return whether a file of this name was left behind by a process that was killed while it wrote."""
    return _TEMPORARY.fullmatch(name) is not None


def temporary_path(path: Path) -> Path:
    """Return the name, beside `path`, under which this process writes what is then renamed to `path`."""
    # The ending stays, because some writers choose their format by it.
    return path.with_name(f"{path.stem}.{os.getpid()}{_MARK}{path.suffix}")


def digest_of(path: Path, without: str = "") -> str:
    """Return the sha256 of a file, or of a folder: of the names and digests of the files in it.

    `without` names a file of the folder that does not count.
    """
    digest = hashlib.sha256()
    if path.is_dir():
        files = sorted(one for one in path.rglob("*") if not one.is_dir())
        for name, one in ((one.relative_to(path).as_posix(), one) for one in files):
            if name != without:
                digest.update(f"{name}\0{digest_of(one)}\0".encode(errors="surrogateescape"))
        return digest.hexdigest()
    with open(path, "rb") as stream:
        while piece := stream.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def remove(path: Path) -> None:
    """Remove a file, a link itself, or a folder with all that is in it; nothing if it is not there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Rename a damaged file or folder to the first free name with `.damaged` behind, and return that."""
    aside = free_damaged_name(path)
    path.rename(aside)
    return aside


def free_damaged_name(path: Path) -> Path:
    """Return the first name that is not taken among `<name>.damaged`, `<name>.damaged-2` …"""
    number, aside = 1, path.with_name(f"{path.name}.damaged")
    while os.path.lexists(aside):
        number += 1
        aside = path.with_name(f"{path.name}.damaged-{number}")
    return aside


def sync(path: Path) -> None:
    """Have a file's content reach the disk, before a rename does; what is in a folder is its writer's."""
    if not path.is_dir():
        with open(path, "rb+") as stream:
            os.fsync(stream.fileno())


@contextlib.contextmanager
def _renamed_at_the_end(path: Path) -> Iterator[Path]:
    temporary = temporary_path(path)
    try:
        if os.path.lexists(temporary):  # a link there must not be written through
            temporary.unlink()
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def written_aside(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends well, remove it otherwise.

    Raises:
        UserError: the file cannot be written (a full disk, a missing or read-only folder, a path without a file name).
    """
    if not Path(path).name:
        raise UserError(f"cannot write '{path}': it names a folder, not a file")
    try:
        with _renamed_at_the_end(Path(path)) as temporary:
            yield temporary
    except OSError as error:
        raise UserError(f"cannot write '{path}': {_write_failure(error) or error}") from error


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file in UTF-8, in one piece."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary path beside `path`, in a folder made if need be, then rename the result to `path`.

    A reader, or a process killed at any moment, sees the old file or the new one, never a part. Errors pass through;
    see `one_sentence_on_write_failure`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _renamed_at_the_end(path) as temporary:
        write(temporary)


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
            f"cannot write to {folder}: {reason}; finished work is intact, and the same command continues from there"
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
        errno.ENOENT: "the folder does not exist and cannot be created",
    }
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    is_cause = True  # not merely what was being handled when something else went wrong
    while error is not None:
        if isinstance(error, OSError) and error.errno in words and (is_cause or error.errno in full):
            return words[error.errno]
        for code in full:
            if os.strerror(code).lower() in str(error).lower():
                return words[code]
        is_cause = is_cause and error.__cause__ is not None
        error = error.__cause__ or error.__context__
    return None
