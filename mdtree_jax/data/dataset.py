"""Load and check the arrays of a data set by name, with optional label noise.

A *loader* is bound to a data set of `mdtree_jax.registry.datasets`, or is a user's own function given as
`package.module:function`. It is called with those of `source`, `data_dir`, `data_file` and `objective` that are among
its arguments, and returns either

* a mapping or named tuple with `x_train`, `y_train`, `x_test`, `y_test`, and optionally `num_classes` or `num_outputs`,
  which is processed like the arrays of an `.npz` file (`mdtree_jax.data.npz.own_arrays`), or
* a `RawDataset`, which is used unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from mdtree_jax.checks import UserError
from mdtree_jax.data.checked import check_inputs, check_targets
from mdtree_jax.data.cifar import load_cifar10, load_cifar100
from mdtree_jax.data.diabetes import load_diabetes
from mdtree_jax.data.digits import load_digits
from mdtree_jax.data.frozen import load_mnist1d, load_mnist5k
from mdtree_jax.data.grammar import load_grammar
from mdtree_jax.data.idx import load_fashion_mnist, load_mnist
from mdtree_jax.data.images import load_gratings, load_shapes
from mdtree_jax.data.npz import load_npz, own_arrays
from mdtree_jax.data.source import RawDataset, Source
from mdtree_jax.data.tables import load_friedman, load_tabular, load_teacher, load_waves
from mdtree_jax.registry.datasets import BUILT_IN, DATASETS, DatasetShape
from mdtree_jax.registry.objectives import DEFAULT_OBJECTIVE, Objective, find_objective
from mdtree_jax.registry.resolve import call_with, find_entry, is_own, required_arguments, resolve, takes


class LoadedDataset(NamedTuple):
    """Inputs and targets, ready to train on.

    `x_train` (n, …) and `x_test` (m, …): images (h, w, c) float32, normalised, tables (d,) float32 or token ids (time,)
    int32. `y_train` and `y_test`: class labels (n,) int32 in 0 … `num_classes` − 1, or what else the objective takes,
    float32 or int32; `num_classes` is the number of outputs of a network. Label noise, if any, is in `y_train` already;
    the test labels are always clean. `classes_are_known` is False where there may be classes without a label here.
    `x_validation` and `y_validation` are of the same types as the test set, from which they were taken, and empty where
    nothing was.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    num_classes: int
    name: str
    classes_are_known: bool = True
    x_validation: np.ndarray = np.empty((0, 0, 0, 0), np.float32)
    y_validation: np.ndarray = np.empty(0, np.int32)

    @property
    def shape(self) -> DatasetShape:
        """The sizes of the data set; what was taken from its test set for validation counts as test examples."""
        num_test = len(self.x_test) + len(self.x_validation)
        sizes = len(self.x_train), num_test, self.x_train.shape[1:], self.num_classes
        return DatasetShape(*sizes, _kind(self.x_train), self.y_train.shape[1:], _kind(self.y_train))

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """The arrays by which a run knows its data again: training and test set, and validation set if there is one."""
        validation = (self.x_validation, self.y_validation) if len(self.y_validation) else ()
        return (self.x_train, self.y_train, self.x_test, self.y_test, *validation)


for _name, _loader in {
    "digits": load_digits,
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
    "mnist": load_mnist,
    "fashion_mnist": load_fashion_mnist,
    "mnist5k": load_mnist5k,
    "mnist1d": load_mnist1d,
    "shapes": load_shapes,
    "gratings": load_gratings,
    "teacher": load_teacher,
    "tabular": load_tabular,
    "friedman": load_friedman,
    "waves": load_waves,
    "npz": load_npz,
    "diabetes": load_diabetes,
    "grammar": load_grammar,
}.items():
    DATASETS.bind(_name, load=_loader)


def _kind(array: np.ndarray) -> str:
    return "float" if array.dtype.kind == "f" else "int"


def find_loader(name: str) -> Callable[..., Any]:
    """Return the loader of a data set, or a user's own `package.module:function`.

    Raises:
        UserError: an unknown name, or a module or function that does not exist.
    """
    if is_own(name):
        return resolve(name, "dataset")
    loader = DATASETS.bound(find_entry(DATASETS, name).name, "load")
    if loader is None:
        raise UserError(f"the data set '{name}' has no loader; register it as register(Dataset(…), load=function)")
    return loader


def dataset_shape(
    name: str,
    *,
    data_dir: str | None = None,
    data_file: str | None = None,
    objective: str | Objective = DEFAULT_OBJECTIVE,
) -> DatasetShape:
    """Return the sizes of a data set, without loading it if they are known.

    >>> dataset_shape("cifar10").num_train
    50000
    """
    if not is_own(name) and data_dir is None and (shape := find_entry(DATASETS, name).shape) is not None:
        return shape
    return load_dataset(name, data_dir=data_dir, data_file=data_file, objective=objective).shape


def load_dataset(
    name: str,
    *,
    data_dir: str | None = None,
    data_file: str | None = None,
    label_noise_fraction: float = 0.0,
    label_noise_seed: int = 0,
    objective: str | Objective = DEFAULT_OBJECTIVE,
    validation_fraction: float = 0.0,
    made: Any = None,
) -> LoadedDataset:
    """Load a data set: one of `mdtree_jax.registry.datasets`, or `package.module:function`.

    `objective` says what its targets have to be, see `mdtree_jax.registry.objectives`. `digits`, `diabetes` and
    `grammar` are included in the package. `cifar10`, `cifar100`, `mnist` and `fashion_mnist` are read from `data_dir`
    if it is given (the official files, packed or not), or else downloaded once, checked and cached. `npz` reads the
    arrays `x_train, y_train, x_test, y_test` from `data_file`.

    `made` is what the loader returned, if it was called before (`call_loader`).

    `redraw_labels` redraws a fraction `label_noise_fraction` of all training labels before subsets are taken.
    `split_validation` takes a fraction `validation_fraction` of the test set for validation. Raises `UserError` for an
    unknown name, a missing or damaged file, inputs of an unexpected shape, labels out of range, targets of another kind
    than the objective's, a noise fraction outside [0, 1] and a validation fraction that leaves one of its two sets
    empty.

    >>> data = load_dataset("digits")
    >>> data.x_train.shape, data.x_test.shape, data.num_classes
    ((3200, 10, 10, 1), (5120, 10, 10, 1), 10)
    """
    if not 0.0 <= label_noise_fraction <= 1.0:
        raise UserError(f"label_noise_fraction={label_noise_fraction:g} is outside [0, 1]")
    entry = find_objective(objective)
    if made is None:
        made = call_loader(name, data_dir=data_dir, data_file=data_file, objective=entry)
    raw = _as_raw(name, made, entry)
    x_train, x_test = check_inputs(name, raw)
    y_train = check_targets(name, "training", raw.y_train, len(x_train), raw.num_classes, entry)
    y_test = check_targets(name, "test", raw.y_test, len(x_test), raw.num_classes, entry)
    data = LoadedDataset(x_train, y_train, x_test, y_test, raw.num_classes, name, raw.classes_are_known)
    _check_shape(name, data.shape, data_dir)
    if label_noise_fraction > 0.0:
        if entry.targets != "class" or y_train.ndim != 1:
            raise UserError(f"label_noise_fraction={label_noise_fraction:g} redraws class labels; '{name}' has none")
        noisy = redraw_labels(y_train, raw.num_classes, label_noise_fraction, label_noise_seed)
        data = data._replace(y_train=noisy)
    return split_validation(data, validation_fraction)


def call_loader(
    name: str,
    *,
    data_dir: str | None = None,
    data_file: str | None = None,
    objective: str | Objective = DEFAULT_OBJECTIVE,
) -> Any:
    """Return what the loader of a data set returns.

    Raises:
        UserError: as `find_loader`; a setting that the loader needs and is not given, or does not take; it fails.
    """
    loader, source = find_loader(name), Source(name, data_dir, data_file)
    what = f"dataset={name}"
    files = {"data_dir": source.data_dir, "data_file": source.data_file}
    for setting, path in files.items():
        if path is None and setting in required_arguments(loader):
            raise UserError(f"{what}: the function needs {setting}=PATH")
        if path is not None and not takes(loader, setting) and not takes(loader, "source"):
            raise UserError(f"{setting}='{path}' is given, but the function of dataset={name} takes no '{setting}'")
    return call_with(loader, {"source": source, **files, "objective": find_objective(objective)}, what)


def _as_raw(name: str, made: Any, objective: Objective) -> RawDataset:
    what = f"dataset={name}"
    if isinstance(made, RawDataset):
        return made
    arrays = made._asdict() if hasattr(made, "_asdict") else made
    if not isinstance(arrays, Mapping):
        raise UserError(
            f"{what}: the function returns a {type(made).__name__}; expected a mapping or a named tuple with x_train, "
            "y_train, x_test, y_test"
        )
    known = DATASETS[name].shape if name in DATASETS else None
    return own_arrays(arrays if known is None else {"num_classes": known.num_classes, **arrays}, what, objective)


def redraw_labels(labels: np.ndarray, num_classes: int, fraction: float, seed: int) -> np.ndarray:
    """Return a copy of `labels` in which round(fraction · n) entries are redrawn uniformly over all classes.

    A redrawn label may keep its old value, so about fraction · (1 − 1 / num_classes) of the labels are wrong. The
    redrawn labels depend only on n, `fraction` and `seed`, so all models of a grid share them.

    >>> noisy = redraw_labels(np.zeros(1000, np.int32), 10, 0.1, seed=0)
    >>> bool(70 < (noisy != 0).sum() <= 100)
    True
    """
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(labels))[: round(fraction * len(labels))]
    redrawn = np.array(labels)
    redrawn[chosen] = rng.integers(0, num_classes, size=len(chosen))
    return redrawn


#: Draws which test examples are for validation, in every run, so that networks of different runs can be compared.
_VALIDATION_SEED = 0


def split_validation(data: LoadedDataset, fraction: float) -> LoadedDataset:
    """Return the data with round(fraction · n) of its n test examples, drawn at random, as the validation set instead.

    The draw depends on n and `fraction` alone; both sets keep the order of the test set. Raises `UserError` for a
    fraction other than 0 that leaves one of the two sets empty.

    >>> data = split_validation(load_dataset("digits"), 0.25)
    >>> len(data.x_validation), len(data.x_test)
    (1280, 3840)
    """
    if fraction == 0.0:
        return data
    num_test = len(data.x_test)
    number = round(fraction * num_test) if 0.0 < fraction < 1.0 else 0
    if not 0 < number < num_test:
        raise UserError(
            f"validation_fraction={fraction:g} of {num_test} test examples leaves the validation set or the test set "
            "empty; choose a fraction between 0 and 1"
        )
    is_chosen = np.zeros(num_test, bool)
    is_chosen[np.random.default_rng(_VALIDATION_SEED).permutation(num_test)[:number]] = True
    return data._replace(
        x_test=data.x_test[~is_chosen],
        y_test=data.y_test[~is_chosen],
        x_validation=data.x_test[is_chosen],
        y_validation=data.y_test[is_chosen],
    )


def _check_shape(name: str, found: DatasetShape, data_dir: str | None) -> None:
    """Raise `UserError` for a data set that is of other sizes than its entry says, by which sweeps are planned."""
    said = DATASETS[name].shape if name in set(DATASETS) - BUILT_IN and data_dir is None else None
    if said is not None and said != found:
        raise UserError(f"the data set '{name}' is registered with {said}, but has {found}")
