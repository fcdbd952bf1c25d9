"""Checkpoints of any format as names and arrays: one module a format, one entry of `FORMATS` for each. JAX.

Nothing that a file holds is executed: arrays and plain values are all that is read. Start with `load_checkpoint`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from mdtree_jax.checks import UserError
from mdtree_jax.files import user_path
from mdtree_jax.subject.checkpoints import (
    equinox_files,
    keras_files,
    msgpack_files,
    npz_files,
    orbax_files,
    safetensors_files,
    torch_files,
)
from mdtree_jax.subject.checkpoints.content import Loaded, choose


class Format(NamedTuple):
    """A format of checkpoints.

    Attributes:
        name: for messages and tables.
        suffixes: of its files; empty for folders.
        is_one: `is_one(path) -> bool`, whether a path that exists holds this format.
        read: `read(path, model, step) -> content`, a nested or flat mapping of names to arrays, or what the adapter of
            the model's framework takes; raises `UserError` for a damaged file.
        extra: what to install to read it, empty if nothing.
    """

    name: str
    suffixes: tuple[str, ...]
    is_one: Callable[[Path], bool]
    read: Callable[[Path, Any, int | None], Any]
    extra: str = ""


def _ends(*suffixes: str) -> tuple[tuple[str, ...], Callable[[Path], bool]]:
    return suffixes, lambda path: path.is_file() and path.name.endswith(suffixes)


#: Looked through in this order.
FORMATS: tuple[Format, ...] = (
    Format("safetensors", *_ends(".safetensors", ".safetensors.index.json"), safetensors_files.read),
    Format("safetensors in a folder", (), safetensors_files.is_folder, safetensors_files.read),
    Format("PyTorch", *_ends(".pt", ".pth", ".tar", ".ckpt", ".bin", ".bin.index.json"), torch_files.read, "torch"),
    Format("Keras", *_ends(".keras", ".h5"), keras_files.read, "keras"),
    Format("Equinox", *_ends(".eqx"), equinox_files.read, "equinox"),
    Format("NumPy", *_ends(".npz"), npz_files.read),
    Format("Flax msgpack", *_ends(".msgpack", ".flax"), msgpack_files.read),
    Format("Orbax", (), Path.is_dir, orbax_files.read),
)

#: Endings of PyTorch's and Hugging Face's files: their names are those of PyTorch's modules.
TORCH_SUFFIXES = FORMATS[0].suffixes + FORMATS[2].suffixes


def load_checkpoint(
    path: str | os.PathLike, model: Any = None, *, step: int | None = None, weights: str | None = None
) -> Loaded:
    """Return the network that a checkpoint holds.

    Args:
        path: a file or folder.
        model: the model object, for formats that hold arrays in its order (Equinox, Keras).
        step: of a folder with several; None is the latest.
        weights: `ema` for averaged weights, or the name of a part of the checkpoint; None is the network itself.

    Raises:
        UserError: no such path, an unknown format, a damaged file, a package that is not installed, no such part.
    """
    path = user_path(path, "the checkpoint")
    found = format_of(path)
    if found is None:
        endings = ", ".join(suffix for one in FORMATS for suffix in one.suffixes)
        raise UserError(f"the checkpoint '{path}' is of an unknown format; known are {endings}, and folders of Orbax")
    if step is not None and found.name != "Orbax":
        raise UserError(f"step={step} is given, but '{path}' is no folder with several steps")
    loaded = choose(found.read(path, model, step), weights, str(path))
    return loaded._replace(format=found.name)


def format_of(path: Path) -> Format | None:
    """Return the format of a path, None if it is unknown; raises `UserError` if there is nothing."""
    if not os.path.exists(path):  # also false for a name that is too long
        raise UserError(f"the checkpoint '{path}' does not exist")
    return next((one for one in FORMATS if one.is_one(path)), None)
