"""CIFAR-10 and CIFAR-100 from their official python archives.

Format: a gzipped tar of pickled dictionaries, each with `data` (n, 3072) uint8, red then green then blue plane of
32 × 32, row by row, and `labels` (CIFAR-10, five training batches) or `fine_labels` (CIFAR-100, one).
Source: Krizhevsky, "Learning multiple layers of features from tiny images", 2009.

A pickle can run code when it is read, and the archive may come from anywhere, so it is read by
`mdtree_jax.data.plain_pickle`, which calls nothing.
"""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mdtree_jax.checks import UserError
from mdtree_jax.data.plain_pickle import read_plain
from mdtree_jax.data.source import RawDataset, RemoteFile, Source, download, find_in_folder, standardise

_MEAN, _STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


class _Layout(NamedTuple):
    """Where one of the two data sets keeps what inside its archive."""

    remote: RemoteFile
    folder: str
    train_batches: tuple[str, ...]
    test_batch: str
    labels_key: bytes
    num_classes: int


_CIFAR10 = _Layout(
    RemoteFile(
        "cifar-10-python.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    ),
    "cifar-10-batches-py",
    tuple(f"data_batch_{i}" for i in range(1, 6)),
    "test_batch",
    b"labels",
    10,
)
_CIFAR100 = _Layout(
    RemoteFile(
        "cifar-100-python.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    ),
    "cifar-100-python",
    ("train",),
    "test",
    b"fine_labels",
    100,
)


def load_cifar10(source: Source) -> RawDataset:
    """CIFAR-10: 50 000 training and 10 000 test images of 32 × 32 × 3, 10 classes."""
    return _load(source, _CIFAR10)


def load_cifar100(source: Source) -> RawDataset:
    """CIFAR-100 with its fine labels, 100 classes; normalised with CIFAR-10's mean and s.d., as is customary."""
    return _load(source, _CIFAR100)


def _load(source: Source, layout: _Layout) -> RawDataset:
    """Read all batches of one data set, from the archive or from its unpacked folder."""
    path = find_in_folder(source, (layout.folder, layout.remote.name, layout.train_batches[0]))
    path = download(source, layout.remote) if path is None else path
    names = (*layout.train_batches, layout.test_batch)
    if path.name == layout.train_batches[0]:
        path = path.parent
    if path.is_dir():
        batches = [_read_batch(path / name, _read_bytes(path / name), layout) for name in names]
    else:
        batches = _read_archive(path, names, layout)
    images = [standardise(images, _MEAN, _STD) for images, _ in batches]
    labels = [labels for _, labels in batches]
    return RawDataset(
        np.concatenate(images[:-1]), np.concatenate(labels[:-1]), images[-1], labels[-1], layout.num_classes
    )


def _read_bytes(path: Path) -> bytes:
    """Return the file's content, or raise `UserError` that it is missing."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}), a part of the data set") from error


def _read_archive(path: Path, names: tuple[str, ...], layout: _Layout) -> list[tuple[np.ndarray, np.ndarray]]:
    """Read the batches out of the packed archive without writing anything to disk."""
    try:
        content = {}
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                inside = member.isfile() and member.name.startswith(f"{layout.folder}/")
                if inside and (file := archive.extractfile(member)) is not None:
                    content[Path(member.name).name] = file.read()
            while archive.fileobj.read(2**20):  # the checksum comes after everything else
                pass
    except Exception as error:  # what it raises depends on the kind of compression and on the damage
        why = str(error).partition(":\n")[0]  # what each kind of compression objected to does not matter
        raise UserError(f"{path} is damaged or only partly downloaded ({why}); delete it and fetch it again") from error
    missing = [name for name in names if name not in content]
    if missing:
        raise UserError(f"{path} has no {layout.folder}/{missing[0]}; it is damaged or not the official archive")
    return [_read_batch(path / name, content[name], layout) for name in names]


def _read_batch(path: Path, content: bytes, layout: _Layout) -> tuple[np.ndarray, np.ndarray]:
    """Return the images (n, 32, 32, 3) uint8 and the labels (n,) of one pickled batch; `path` is for messages."""
    try:
        batch = read_plain(content)
        batch = {key.encode() if isinstance(key, str) else key: value for key, value in batch.items()}
        planes, labels = batch[b"data"], batch[layout.labels_key]
    except (ValueError, AttributeError, KeyError) as error:
        raise UserError(f"{path} is damaged or not in the official format ({error})") from error
    planes = getattr(planes, "values", None)
    if not isinstance(planes, np.ndarray) or planes.ndim != 2 or planes.shape[1] != 3072:
        shape = getattr(planes, "shape", None)
        raise UserError(f"{path} holds images of shape {shape}; expected (number, 3072) in uint8")
    images = planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    if not (isinstance(labels, list) and all(type(label) is int and abs(label) < 2**63 for label in labels)):
        raise UserError(f"{path} holds labels that are not integers")
    return images, np.array(labels, np.int64)
