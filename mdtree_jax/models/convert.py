"""Weights of PyTorch networks: `load_torch_file` reads a file, `from_torch` converts a state dict. NumPy.

No code in a file is executed: `.safetensors` files hold only arrays, and only tensors are read from `.pt` and `.pth`
files. The residual networks for small images of `mdtree_jax.models` are supported, under their common PyTorch names:

| PyTorch | ours |
|---|---|
| `conv1.weight`, `bn1.*` | `stem`, `stem_norm` |
| `layer2.0.conv1.weight`, `layer2.0.bn1.*` (`conv2`, `bn2`) | `stage2_block1/Conv3x3_0`, `BatchNorm_0` (`_1`) |
| `layer2.0.shortcut.0.weight`, `.1.*`, or `downsample` | `stage2_block1/shortcut`, `shortcut_norm` |
| `linear.*` or `fc.*` | `head` |

Both normalize a batch by the variance with denominator n, so logits agree in evaluation and in training mode. PyTorch
updates its *running* variance with denominator n - 1, ours with n; the conversion copies the running variance of the
trained network unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mdtree_jax.checks import UserError, check_choice
from mdtree_jax.files import user_path
from mdtree_jax.models.base import build_model
from mdtree_jax.models.weight_files import as_numpy, read_pickle, read_safetensors

TORCH_MODELS = ("resnet18", "resnet8")
_WRAPPERS = ("state_dict", "model_state_dict", "net", "model")
_PREFIXES = ("module.", "_orig_mod.")
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_HINT = "; for another network, its measured metrics can be given instead"


class ConvertedWeights(NamedTuple):
    """A converted PyTorch network.

    Attributes:
        variables: `{"params", "batch_stats"}` of NumPy arrays, for `Model.apply`.
        width: channels of the first layer.
        num_classes: number of logits.
    """

    variables: dict[str, Any]
    width: int
    num_classes: int


def from_torch(model_name: str, state_dict: Mapping[str, Any], dtype: str = "float32") -> ConvertedWeights:
    """Return the variables of our network with the same logits as a PyTorch network, its width and its classes.

    Args:
        model_name: `resnet18` (four stages of two blocks) or `resnet8` (three stages of one).
        state_dict: name -> PyTorch tensor or array, with PyTorch's layouts: convolutions (out, in, height, width),
            linear (out, in). It may be stored under `state_dict`, `model_state_dict`, `net` or `model` of a checkpoint,
            and its names may have the prefix `module.` or `_orig_mod.`; `num_batches_tracked` is ignored.
        dtype: of the variables.

    Raises:
        UserError: an architecture that is not supported, missing or unexpected names, shapes that do not match the
            width, numbers that are not finite or not floating-point, a negative running variance.
    """
    check_choice("model for PyTorch weights", model_name, TORCH_MODELS)
    arrays = _arrays(state_dict)
    named = _by_common_name(arrays)
    first, last = (arrays[named[key]] if key in named else None for key in ("conv1.weight", "linear.weight"))
    if first is None or last is None or first.ndim != 4 or last.ndim != 2 or not first.size * last.size:
        raise UserError(
            f"no network of the supported kind is in these weights ({_listed(arrays)}): conv1.weight of shape "
            f"(width, channels, 3, 3) and linear.weight or fc.weight of shape (classes, features) are needed, as in "
            f"PyTorch's ResNets for small images ({', '.join(TORCH_MODELS)}){_HINT}"
        )
    width, channels, num_classes = first.shape[0], first.shape[1], last.shape[0]
    wanted = _wanted_shapes(model_name, width, channels, num_classes)
    _check_names(model_name, wanted, named)
    wrong = [
        f"{named[key]} {arrays[named[key]].shape} instead of {shape}"
        for key, (_, shape) in wanted.items()
        if arrays[named[key]].shape != shape
    ]
    if wrong:
        raise UserError(
            f"shapes differ from those of {model_name} of width {width}, the first axis of conv1.weight: "
            f"{', '.join(wrong[:3])}{' ...' if len(wrong) > 3 else ''}{_HINT}"
        )
    variables: dict[str, Any] = {}
    for key, (path, _) in wanted.items():
        array = _checked_numbers(named[key], arrays[named[key]], np.dtype(dtype))
        *folders, leaf = path
        place = variables
        for folder in folders:
            place = place.setdefault(folder, {})
        place[leaf] = np.ascontiguousarray(_our_layout(array))
    return ConvertedWeights(variables, width, num_classes)


def load_torch_file(path: str | Path) -> dict[str, np.ndarray]:
    """Return the arrays of a `.safetensors`, `.pt` or `.pth` file by name.

    `.pt` and `.pth` files need PyTorch (extra `torch`); the state dict within a checkpoint is used.

    Raises:
        UserError: the file does not exist, is of another kind or damaged, or holds more than tensors; or PyTorch is not
            installed.
    """
    path = user_path(path, "the weights")
    if path.suffix not in (".safetensors", ".pt", ".pth"):
        raise UserError(f"weights '{path}' are of an unknown kind; give a .safetensors, .pt or .pth file")
    if not path.is_file():
        raise UserError(f"weights '{path}' do not exist or are not a file")
    return read_safetensors(path) if path.suffix == ".safetensors" else _arrays(read_pickle(path))


def _arrays(content: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the arrays of a state dict, found within a checkpoint if it is one."""
    if not isinstance(content, Mapping):
        raise UserError(f"a state dict of names and arrays is needed, not a {type(content).__name__}")
    for key in _WRAPPERS:
        if isinstance(content.get(key), Mapping):
            return _arrays(content[key])
    return {str(name): as_numpy(value) for name, value in content.items() if hasattr(value, "shape")}


def _by_common_name(names: Iterable[str]) -> dict[str, str]:
    """Return the names in use by those of the tables here, without the counters of batches."""
    named: dict[str, str] = {}
    for name in names:
        if name.endswith("num_batches_tracked"):
            continue
        key = _common_name(name)
        if key in named:
            raise UserError(f"{named[key]} and {name} are two names of the same weights")
        named[key] = name
    return named


def _common_name(name: str) -> str:
    """Return the name in the one spelling that the tables here use."""
    while name.startswith(_PREFIXES):
        name = name.split(".", 1)[1]
    return re.sub(r"^fc\.", "linear.", name.replace(".downsample.", ".shortcut."))


def _wanted_shapes(
    model_name: str, width: int, channels: int, num_classes: int
) -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
    """Return for every PyTorch name its path in our variables and its PyTorch shape."""
    model = build_model(model_name, width, num_classes, (8, 8, channels))
    leaves, _ = jax.tree.flatten_with_path(jax.eval_shape(model.init, jax.random.key(0)))
    wanted = {}
    for path, leaf in leaves:
        keys = tuple(entry.key for entry in path)
        shape = {4: lambda s: (s[3], s[2], s[0], s[1]), 2: lambda s: s[::-1], 1: lambda s: s}[leaf.ndim](leaf.shape)
        wanted[_torch_name(keys)] = keys, (*shape, 1, 1) if keys[-2] == "shortcut" else shape
    return wanted


def _torch_name(path: tuple[str, ...]) -> str:
    """Return the PyTorch name of one of our variables.

    >>> _torch_name(("params", "stage2_block1", "Conv3x3_0", "kernel"))
    'layer2.0.conv1.weight'
    """
    *_, layer, leaf = path
    if block := re.fullmatch(r"stage(\d+)_block(\d+)", path[1]):
        inner = {"shortcut": "shortcut.0", "shortcut_norm": "shortcut.1"}.get(layer)
        kind, _, number = layer.rpartition("_")
        inner = inner or f"{'conv' if kind == 'Conv3x3' else 'bn'}{int(number) + 1}"
        layer = f"layer{block[1]}.{int(block[2]) - 1}.{inner}"
    else:
        layer = {"stem": "conv1", "stem_norm": "bn1", "head": "linear"}[layer]
    return f"{layer}.{_LEAVES[leaf]}"


def _our_layout(array: np.ndarray) -> np.ndarray:
    if array.ndim == 4 and array.shape[2:] == (1, 1):
        array = array[:, :, 0, 0]
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def _check_names(model_name: str, wanted: Mapping[str, Any], named: Mapping[str, str]) -> None:
    missing = [key for key in wanted if key not in named]
    unexpected = [name for key, name in named.items() if key not in wanted]
    if not missing and not unexpected:
        return
    faults = [f"lack {_listed(missing)}"] if missing else []
    faults += [f"also hold {_listed(unexpected)}"] if unexpected else []
    raise UserError(
        f"these are not the weights of a {model_name}: they {' and '.join(faults)}; supported are "
        f"{', '.join(TORCH_MODELS)} with PyTorch's names conv1, bn1, layer1.0.conv1 ..., linear or fc{_HINT}"
    )


def _listed(names: Iterable[str], most: int = 3) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "nothing") + more


def _checked_numbers(name: str, array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise UserError(f"{name} holds numbers of type {array.dtype}; they must be floating-point")
    with np.errstate(over="ignore"):
        array = array.astype(dtype)
    if count := int((~np.isfinite(array)).sum()):
        raise UserError(f"{name} has {count} of {array.size} values that are not finite in {dtype}")
    if name.endswith("running_var") and array.min() < 0:
        raise UserError(f"{name} has a negative variance {array.min():g}")
    return array
