"""Where the files of a data set come from: a folder of the user's, or one download with a checksum, cached."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from mdtree_jax.checks import UserError
from mdtree_jax.files import user_path


class RawDataset(NamedTuple):
    """What a loader returns: inputs, for images normalised (n, h, w, c), and targets that nobody has checked yet.

    `num_classes` is the number of outputs of a network: classes, the vocabulary, or targets. `classes_are_known` is
    False where it is only the largest label plus one.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    num_classes: int
    classes_are_known: bool = True


class Source(NamedTuple):
    """What the user said about where the files are; both may be None."""

    name: str
    data_dir: str | None = None
    data_file: str | None = None


class RemoteFile(NamedTuple):
    """One official file: its name, its address and its sha256 or md5 (`"md5:…"`)."""

    name: str
    url: str
    checksum: str


def find_in_folder(source: Source, names: tuple[str, ...]) -> Path | None:
    """Return the first of `names` in `data_dir` (or in a folder of the data set's name inside it), None if unset.

    Raises `UserError` if `data_dir` is given and is no folder, or holds none of the names.
    """
    if source.data_dir is None:
        return None
    folder = user_path(source.data_dir, "data_dir=")
    if not folder.is_dir():
        raise UserError(f"data_dir='{source.data_dir}' is not a folder; expected one with {names[0]}")
    for candidate in (base / name for base in (folder, folder / source.name) for name in names):
        if candidate.exists():
            return candidate
    raise UserError(f"data_dir='{source.data_dir}' has no {' and no '.join(names)}, needed for '{source.name}'")


def download(source: Source, remote: RemoteFile) -> Path:
    """Return the cached copy of `remote`, downloaded and checked first if absent.

    Raises `UserError` if it cannot be reached, or arrives with another checksum.
    """
    import pooch

    pooch.get_logger().setLevel("WARNING")
    try:
        path = pooch.retrieve(
            remote.url, known_hash=remote.checksum, fname=remote.name, path=pooch.os_cache("mdtree_jax") / source.name
        )
    except ValueError as error:  # what pooch raises when the checksum differs
        raise UserError(
            f"the download of {remote.url} has a wrong checksum; try again, or put {remote.name} into a folder and "
            "set data_dir="
        ) from error
    except Exception as error:  # whatever the network layer of the day raises
        raise UserError(
            f"cannot download {remote.url} ({type(error).__name__}); put {remote.name} into a folder and name it "
            "with data_dir="
        ) from error
    return Path(path)


def standardise(images: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """Return uint8 `images` (n, h, w, c) scaled to [0, 1], less `mean`, over `std` (per channel), in float32."""
    scaled = images.astype(np.float32) / np.float32(255)
    return (scaled - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
