"""MNIST and Fashion-MNIST from their official IDX files, gzipped or not.

Format: two zero bytes, a type byte (8: unsigned byte), the number of axes, each axis's length as a big-endian
32-bit integer, then the values in row-major order. Source: LeCun, Cortes, Burges, "The MNIST database".
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from mdtree_jax.checks import UserError
from mdtree_jax.data.source import RawDataset, RemoteFile, Source, download, find_in_folder, standardise

_NAMES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
_MNIST = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    (
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "9fb629c4189551a2d022fa330f9573f3",
        "ec29112dd5afa0611ce80d1b7f02629c",
    ),
)
_FASHION_MNIST = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    (
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    ),
)


def load_mnist(source: Source) -> RawDataset:
    """MNIST: 60 000 training and 10 000 test images of 28 × 28 × 1, 10 classes."""
    return _load(source, *_MNIST, mean=0.1307, std=0.3081)


def load_fashion_mnist(source: Source) -> RawDataset:
    """Fashion-MNIST (Xiao, Rasul, Vollgraf 2017): the same sizes as MNIST."""
    return _load(source, *_FASHION_MNIST, mean=0.2860, std=0.3530)


def _load(source: Source, base_url: str, checksums: tuple[str, ...], *, mean: float, std: float) -> RawDataset:
    """Read the four files of one data set."""
    arrays = []
    for name, checksum in zip(_NAMES, checksums, strict=True):
        path = find_in_folder(source, (name, name.removesuffix(".gz")))
        path = download(source, RemoteFile(name, base_url + name, f"md5:{checksum}")) if path is None else path
        arrays.append(read_idx(path, num_axes=3 if "images" in name else 1))
    x_train, y_train, x_test, y_test = arrays
    images = [standardise(x[..., None], (mean,), (std,)) for x in (x_train, x_test)]
    return RawDataset(images[0], y_train, images[1], y_test, 10)


def read_idx(path: Path, num_axes: int) -> np.ndarray:
    """Return the array of unsigned bytes in the IDX file `path`, which must have `num_axes` axes.

    Raises `UserError` if the file is damaged, cut short, empty, or of another shape.
    """
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is damaged or only partly downloaded ({error}); fetch it again") from error
    header = 4 + 4 * num_axes
    if len(content) < header or content[:3] != b"\x00\x00\x08" or content[3] != num_axes:
        raise UserError(f"{path} is not an IDX file of unsigned bytes with {num_axes} axes")
    shape = struct.unpack(f">{num_axes}I", content[4:header])
    wanted = math.prod(shape)
    if len(content) - header != wanted:
        raise UserError(
            f"{path} holds {len(content) - header} values where its header says {wanted}; it is damaged or cut short"
        )
    if not wanted:
        raise UserError(f"{path} is empty: its header says {' x '.join(map(str, shape))} values")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
