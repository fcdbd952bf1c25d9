"""Data as people have them, as arrays with the examples along the first axis: files, folders, loaders, iterables.

| given | read as |
|---|---|
| `(x, y)`, arrays or pytrees of arrays | as they are; memory-mapped arrays stay on the disk |
| mapping with `x` and `y`, or of columns, one of which is named `label`, `target` or `y` | inputs, targets |
| `.npz` with `x` and `y`, or `x_train` and `y_train` | the arrays |
| folder of `x.npy`, `y.npy` (or `x_train.npy`, …; several inputs as `x_NAME.npy`) | memory-mapped |
| folder of folders with images | one class a folder, in the order of their names; needs Pillow |
| `torch.utils.data.DataLoader`, `Dataset`; Hugging Face `Dataset`; any iterable of batches `(x, y)` | up to a limit |
| `package.module:function` | what the function returns |

No JAX: the arrays are NumPy's. What is read item by item is a sample: all of it, or a random part with a fixed seed.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mdtree_jax.checks import UserError
from mdtree_jax.files import user_path
from mdtree_jax.registry.resolve import call_with, is_own, resolve

SAMPLE_SEED = 0
#: Bytes that are read of data which come item by item.
MOST_BYTES = 2 * 2**30
_TARGETS = ("y", "label", "labels", "target", "targets")
_INPUTS = ("x", "inputs", "input", "image", "images", "data")
_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".tif", ".tiff", ".webp", ".gif")


class Side(NamedTuple):
    """Inputs and targets, pytrees of arrays (n, ...), and a sentence on a sample if not all were read."""

    x: Any
    y: Any
    note: str = ""


def read_side(data: Any, what: str, side: str = "train") -> Side:
    """Return data of any of the forms in the head of this module as inputs and targets.

    Args:
        data: the data.
        what: their name, for messages.
        side: `train`, `validation` or `test`, where a file or a function has several.

    Raises:
        UserError: nothing of a known form, a file that is missing or damaged, no targets, lengths that differ.
    """
    if isinstance(data, (str, os.PathLike)):
        found = _of_path(str(data), what, side)
    elif isinstance(data, Mapping):
        found = _of_mapping(data, what, side)
    elif isinstance(data, tuple) and len(data) == 2:
        found = Side(*data)
    elif hasattr(data, "x") and hasattr(data, "y"):
        found = Side(getattr(data, "x"), getattr(data, "y"))  # noqa: B009 - a type checker takes it for a tuple
    else:
        found = _of_items(data, what)
    x, y = (_tree_map(_as_array, part) for part in (found.x, found.y))
    _check_lengths(x, y, what)
    return Side(x, y, found.note)


def as_sides(data: Any, what: str) -> dict[str, Any] | None:
    """Return the parts of data that come as a whole, `train`, `validation`, `test`; None if they are one set."""
    if isinstance(data, str) and is_own(data):
        data = call_with(resolve(data, what), {}, f"{what}={data}")
    if as_dictionary := getattr(data, "_asdict", None):
        data = as_dictionary()
    if not isinstance(data, Mapping):
        return None
    names = [name for name in data if name in ("train", "validation", "valid", "val", "test")]
    if "train" in names:
        return {("validation" if name in ("valid", "val") else name): data[name] for name in names}
    if "x_train" not in data:
        return None
    found = {}
    for side, short in (("train", "train"), ("validation", "validation"), ("validation", "val"), ("test", "test")):
        if f"x_{short}" in data and len(_first(data[f"x_{short}"])):
            found[side] = (data[f"x_{short}"], data[f"y_{short}"])
    return found


def take(tree: Any, rows: Any) -> Any:
    """Return rows of every array of a pytree; of a memory-mapped array only these are read."""
    return _tree_map(lambda array: array[rows], tree)


def num_rows(tree: Any) -> int:
    """Return the length of the first axis."""
    return len(_first(tree))


def halves(side: Side) -> tuple[Side, Side]:
    """Return two halves of a set, drawn with a fixed seed: what evidence is read on, and what errors are stated of."""
    order = np.random.default_rng(SAMPLE_SEED).permutation(num_rows(side.x))
    first, second = (np.sort(part) for part in np.array_split(order, 2))

    def half(rows: np.ndarray) -> Side:
        return Side(take(side.x, rows), take(side.y, rows), side.note)

    return half(first), half(second)


def _of_path(path: str, what: str, side: str) -> Side:
    if is_own(path) and not os.path.exists(path):
        made = call_with(resolve(path, what), {}, f"{what}={path}")
        sides = as_sides(made, what)
        if sides is None:
            return read_side(made, what, side)
        if side not in sides:
            raise UserError(f"{what}={path}: the function gives no {side} set, but {', '.join(sides)}")
        return read_side(sides[side], what, side)
    place = user_path(path, what)
    if not place.exists():
        raise UserError(f"{what}: '{path}' does not exist")
    if place.is_dir():
        return _of_folder(place, what, side)
    if place.suffix != ".npz":
        raise UserError(f"{what}: '{path}' is of an unknown kind; give an .npz file, a folder, or package.module:load")
    try:
        with np.load(place, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # a damaged archive can raise nearly anything
        raise UserError(f"{what}: '{path}' is damaged or no .npz archive of plain arrays") from error
    return _of_mapping(arrays, f"{what} '{path}'", side)


def _of_mapping(data: Mapping[str, Any], what: str, side: str) -> Side:
    """Return inputs and targets among named columns."""
    if (suffixed := f"x_{side}") in data and f"y_{side}" in data:
        return Side(data[suffixed], data[f"y_{side}"])
    target = next((name for name in _TARGETS if name in data), None)
    if target is None:
        raise UserError(f"{what} has no targets: none of its parts {', '.join(map(str, data))} is named y or label")
    rest = {name: value for name, value in data.items() if name != target}
    if not rest:
        raise UserError(f"{what} has only '{target}', and no inputs")
    only = next(iter(rest.values())) if len(rest) == 1 and next(iter(rest)) in _INPUTS else rest
    return Side(only, data[target])


def _of_folder(folder: Path, what: str, side: str) -> Side:
    inner = folder / side if (folder / side).is_dir() else folder
    files = {path.stem: path for path in sorted(inner.glob("*.npy"))}
    if files:
        try:
            arrays = {name: np.load(path, mmap_mode="r", allow_pickle=False) for name, path in files.items()}
        except Exception as error:  # a damaged file can raise nearly anything
            raise UserError(f"{what}: a file .npy of '{inner}' is damaged or holds objects ({error})") from error
        whole = f"y_{side}" in arrays
        arrays = {n.removesuffix(f"_{side}"): a for n, a in arrays.items() if n.endswith(f"_{side}") or not whole}
        return _of_mapping(
            {name.removeprefix("x_"): array for name, array in arrays.items()}, f"{what} '{inner}'", side
        )
    classes = sorted(path for path in inner.iterdir() if path.is_dir())
    if not classes:
        raise UserError(f"{what}: '{inner}' holds neither .npy files nor a folder of images for each class")
    return _of_images(classes, what)


def _of_images(classes: list[Path], what: str) -> Side:
    """Return images in [0, 1], (n, height, width, 3), and the number of their folder."""
    try:
        from PIL import Image  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(f"{what}: a folder of images needs Pillow: pip install pillow") from error
    paths = [(p, i) for i, one in enumerate(classes) for p in sorted(one.rglob("*")) if p.suffix.lower() in _IMAGES]
    if not paths:
        raise UserError(f"{what}: the folders {', '.join(one.name for one in classes[:5])} hold no images")

    def item(index: int) -> tuple[Any, Any]:
        path, label = paths[index]
        try:
            with Image.open(path) as image:
                return np.asarray(image.convert("RGB"), np.float32) / 255, np.int32(label)
        except OSError as error:
            raise UserError(f"{what}: the image '{path}' is damaged") from error

    return _sampled(len(paths), item, what)


def _of_items(data: Any, what: str) -> Side:
    """Return what a loader, a data set by index or an iterable of batches holds, up to `MOST_BYTES`."""
    if _is_of(data, "datasets"):
        return _of_hugging_face(data, what)
    if _is_of(data, "torch.utils.data") and hasattr(data, "dataset"):
        inner = data.dataset
        if not hasattr(inner, "__getitem__") or not hasattr(inner, "__len__"):
            return _of_batches(data, what)
        collate = getattr(data, "collate_fn", None)

        def item(index: int) -> tuple[Any, Any]:
            batch = inner[index] if collate is None else collate([inner[index]])
            x, y = _pair(batch, what)
            return (x, y) if collate is None else (_tree_map(lambda a: _as_array(a)[0], x), _as_array(y)[0])

        return _sampled(len(inner), item, what)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, (list, tuple)):
        return _sampled(len(data), lambda index: _pair(data[index], what), what)
    if isinstance(data, Iterable):
        return _of_batches(data, what)
    raise UserError(
        f"{what} is a {type(data).__name__}; expected (x, y), an .npz file, a folder, a data loader or data set, an "
        "iterable of batches, or package.module:load"
    )


def _is_of(data: Any, module: str) -> bool:
    return any(f"{kind.__module__}.".startswith(f"{module}.") for kind in type(data).__mro__)


def _of_hugging_face(data: Any, what: str) -> Side:
    """Return the columns of a Hugging Face data set, a sample of its rows if they are many."""
    if isinstance(data, Mapping):
        raise UserError(f"{what} is a DatasetDict with {', '.join(data)}; give one of them, such as data['train']")
    if not hasattr(data, "__len__"):
        return _of_batches((_pair_of_row(row, what) for row in data), what, rows=True)
    return _sampled(len(data), lambda index: _pair_of_row(data[int(index)], what), what)


def _pair_of_row(row: Mapping[str, Any], what: str) -> tuple[Any, Any]:
    side = _of_mapping({n: v for n, v in row.items() if not isinstance(v, str)}, what, "train")
    return side.x, side.y


def _pair(batch: Any, what: str) -> tuple[Any, Any]:
    """Return inputs and targets of a batch or an item."""
    if isinstance(batch, Mapping):
        found = _of_mapping(batch, f"a batch of {what}", "train")
        return found.x, found.y
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[0], batch[1]
    raise UserError(f"a batch of {what} is a {type(batch).__name__}; expected (x, y), or a mapping with y or label")


def _sampled(count: int, item: Callable[[int], tuple[Any, Any]], what: str) -> Side:
    """Return items by index: all, or as many as fit, drawn with a fixed seed."""
    if not count:
        raise UserError(f"{what} is empty")
    first = item(0)
    most = max(1, MOST_BYTES // max(1, bytes_of(first)))
    order = np.arange(count) if count <= most else np.random.default_rng(SAMPLE_SEED).permutation(count)[:most]
    pairs = [item(int(index)) for index in order]
    note = "" if count <= most else f"{what}: a random sample of {most} of {count} examples was read"
    return Side(_stack([x for x, _ in pairs], what), _stack([y for _, y in pairs], what), note)


def _of_batches(data: Iterable[Any], what: str, rows: bool = False) -> Side:
    """Return the first batches of an iterable, as many as fit."""
    xs: list[Any] = []
    ys: list[Any] = []
    held, note = 0, ""
    iterator: Iterator[Any] = iter(data)
    for batch in iterator:
        x, y = _pair(batch, what)
        x, y = (_tree_map(_as_array, part) for part in (x, y))
        xs.append(x)
        ys.append(y)
        held += bytes_of((x, y))
        if held > MOST_BYTES:
            if next(iterator, None) is not None:
                note = f"{what}: the first {len(xs)} batches were read, as many as fit"
            break
    if not xs:
        raise UserError(f"{what} is empty")
    join = _stack if rows else _concatenate
    return Side(join(xs, what), join(ys, what), note)


def _stack(items: list[Any], what: str) -> Any:
    return _joined(items, what, lambda arrays: np.stack([_as_array(a) for a in arrays]))


def _concatenate(items: list[Any], what: str) -> Any:
    return _joined(items, what, lambda arrays: np.concatenate([np.atleast_1d(_as_array(a)) for a in arrays]))


def _joined(items: list[Any], what: str, join: Callable[[list[Any]], Any]) -> Any:
    """Return pytrees joined array by array; raises `UserError` where their shapes differ."""
    first = items[0]
    if isinstance(first, Mapping):
        return {name: _joined([item[name] for item in items], what, join) for name in first}
    if isinstance(first, tuple):
        return tuple(_joined(list(parts), what, join) for parts in zip(*items, strict=True))
    try:
        return join(items)
    except ValueError as error:
        shapes = list(itertools.islice(dict.fromkeys(np.shape(_as_array(item)) for item in items), 3))
        raise UserError(
            f"{what} has examples of different shapes, such as {', '.join(map(str, shapes))}; bring them to one, by "
            "resizing or padding"
        ) from error


def _as_array(value: Any) -> np.ndarray:
    """Return an array of NumPy, of tensors too; a memory-mapped one stays on the disk."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
        return value.numpy()
    return value if isinstance(value, np.ndarray) else np.asarray(value)


def _tree_map(function: Callable[[Any], Any], tree: Any) -> Any:
    """Return a function of every array of nested mappings and tuples."""
    if isinstance(tree, Mapping):
        return {name: _tree_map(function, value) for name, value in tree.items()}
    if isinstance(tree, tuple):
        return tuple(_tree_map(function, value) for value in tree)
    return function(tree)


def _leaves(tree: Any) -> list[Any]:
    found: list[Any] = []
    _tree_map(found.append, tree)
    return found


def _first(tree: Any) -> Any:
    return _leaves(tree)[0]


def bytes_of(tree: Any) -> int:
    """Return what the arrays of a pytree take in memory."""
    return sum(_as_array(leaf).nbytes for leaf in _leaves(tree))


def _check_lengths(x: Any, y: Any, what: str) -> None:
    lengths = [len(a) if np.ndim(a) else 0 for a in (*_leaves(x), *_leaves(y))]
    if not all(lengths):
        raise UserError(f"{what} is empty, or an array of it has no axis of examples")
    if len(set(lengths)) > 1:
        raise UserError(
            f"{what} has arrays of different lengths, {', '.join(map(str, lengths))}; expected as many rows"
        )
