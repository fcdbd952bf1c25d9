"""The measurement kernels: programs that compute one or several measurements of trained networks. No JAX.

An entry says what a kernel needs, what it costs and what its results are called; `mdtree_jax.measuring` binds the
program to it by name. Kernels run in the order of the table. A kernel that is not part of another one can be chosen
with `grid.measure.metrics=[…]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from mdtree_jax.checks import UserError
from mdtree_jax.registry.probes import PROBES, SHORT_RUNS
from mdtree_jax.registry.register import BINDERS, Binder
from mdtree_jax.registry.table import Table
from mdtree_jax.registry.views import ListView

#: What a kernel or a measurement can need: one network; two networks of one configuration; points on the line between
#: them, or on a trained curve; matched hidden units; a test set; the training settings.
NEEDS = ("network", "pair", "line", "curve", "permutations", "test_data", "training_settings")
#: Names with another meaning in a run folder.
RESERVED = ("train", "curves", "choices", "devices")
EXPECTED_TRACE_SHARE = 0.5  # of `trace_products`: most traces reach their relative error before the budget ends


class Work(NamedTuple):
    """The work of a kernel.

    Attributes:
        num_samples: training images.
        num_test: test images.
        num_products: Hessian-vector products, None if unknown.
        trained_images: that the steps of one training take, each time an image is used.
        num_validation: images of the validation set.
    """

    num_samples: float
    num_test: int
    num_products: float | None = None
    trained_images: float = 0.0
    num_validation: int = 0


@dataclass(frozen=True)
class Kernel:
    """One kernel.

    Attributes:
        name: identifier; `<name>_seconds` and `<name>_flops` are the columns of its costs.
        meaning: one line for help and tables.
        needs: its requirements, from `NEEDS`; `network` or `pair` says what it is applied to.
        cost: in forward passes over the `hessian_images` of a network: a gradient costs three, a Hessian-vector product
            six. For a pair, the cost of both networks together.
        passes: `passes(settings, work) -> forward passes of one image`, instead of `cost`.
        compares: True if it is applied to single networks and the results are then compared for every pair.
        part_of: the kernel whose program this one reuses, on other networks, whenever that kernel is chosen; '' for a
            kernel that can be chosen itself.
        prefix: of its result columns.
        is_default: whether it is measured if a grid does not name any metrics.
    """

    name: str
    meaning: str
    needs: tuple[str, ...] = ("network",)
    cost: float = 3.0
    passes: Callable[[Any, Work], float] | None = None
    compares: bool = False
    part_of: str = ""
    prefix: str = ""
    is_default: bool = False

    def __post_init__(self) -> None:
        check_needs(self.name, self.needs)
        if self.name in RESERVED:
            raise UserError(
                f"'{self.name}' is not a valid kernel name; these names are reserved: {', '.join(RESERVED)}"
            )
        if not 0 <= self.cost < float("inf"):
            raise UserError(
                f"kernel '{self.name}': cost={self.cost} is out of range; it must be a finite number of at least 0"
            )

    @property
    def is_of_pairs(self) -> bool:
        """Whether it is applied to two networks at a time."""
        return "pair" in self.needs and not self.compares

    @property
    def program(self) -> str:
        """The name of the kernel whose program it runs."""
        return self.part_of or self.name

    def forward_passes(self, settings: Any, work: Work) -> float:
        """Return what one application costs, in forward passes of one image.

        Args:
            settings: a `MeasureSettings`.
            work: what it is applied to.
        """
        if self.passes is None:
            return float(self.cost * settings.hessian_images)
        return float(self.passes(settings, work))


def check_needs(name: str, needs: Iterable[str]) -> None:
    """Raise `UserError` for a need that does not exist."""
    for need in needs:
        if need not in NEEDS:
            raise UserError(f"'{name}' needs '{need}', which is not one of {', '.join(NEEDS)}")


def _hessian(settings: Any, work: Work) -> float:
    products = work.num_products
    if products is None:
        products = EXPECTED_TRACE_SHARE * settings.trace_products + 0.5 * settings.eigenvalue_steps
    return (3 + 6 * products) * settings.hessian_images


def _curve(settings: Any, work: Work) -> float:
    points = settings.curve_points * (2 * work.num_samples + work.num_test)
    return 3 * settings.curve_steps * settings.curve_batch_size + points


def _line(settings: Any, work: Work) -> float:
    return settings.barrier_points * 2 * work.num_samples


def _outcomes(settings: Any, work: Work, number: int) -> float:
    """Return the cost to recompute the statistics of so many networks and to evaluate them."""
    sample = min(work.num_samples, settings.probe_images)
    return number * (2 * sample + settings.statistics_batch_size + work.num_test + work.num_validation)


def _probes(settings: Any, work: Work) -> float:
    shares = [PROBES[name].share for name in settings.probes if PROBES[name].trains]
    steps = sum(shares) + (0.01 if shares else 0.0)  # the warm-up of the optimizer's state
    return 3 * steps * work.trained_images + _outcomes(settings, work, len(shares) + 2)


def _short_runs(settings: Any, work: Work) -> float:
    return 3 * sum(SHORT_RUNS.values()) * work.trained_images + _outcomes(settings, work, len(SHORT_RUNS))


KERNELS: Table[Kernel] = Table(
    "kernel",
    [
        Kernel(
            "hessian",
            "trace, its shares by layer, and dominant eigenvalue of the Hessian",
            passes=_hessian,
            is_default=True,
        ),
        Kernel(
            "sharpness",
            "worst-case increase of the loss in a ball around the parameters",
            passes=lambda settings, work: (3 * settings.ball_steps + 2) * settings.hessian_images,
            is_default=True,
        ),
        Kernel(
            "similarity",
            "similarity of the outputs of two networks on the same mixup images",
            needs=("pair",),
            passes=lambda settings, work: settings.similarity_images,
            compares=True,
            is_default=True,
        ),
        Kernel(
            "barrier",
            "error and loss on the straight line between two networks",
            needs=("pair", "line"),
            passes=_line,
            is_default=True,
        ),
        Kernel(
            "aligned",
            "the same, after permuting the units of the second network to match the first",
            needs=("pair", "line", "permutations"),
            passes=_line,
            part_of="barrier",
            prefix="aligned_",
            is_default=True,
        ),
        Kernel(
            "connectivity",
            "error on a curve that is trained between two networks",
            needs=("pair", "curve", "test_data"),
            passes=_curve,
            is_default=True,
        ),
        Kernel(
            "ensemble",
            "distance and disagreement of two networks, and what averaging their outputs gains, on held-out data",
            needs=("pair", "test_data"),
            passes=lambda settings, work: 2 * (work.num_validation or work.num_test),
        ),
        Kernel(
            "norms",
            "norms of weights, gradient and way from the initialization",
            needs=("network", "training_settings"),
        ),
        Kernel(
            "probes",
            "outcomes of small experiments that go on from the trained network",
            needs=("network", "test_data", "training_settings"),
            passes=_probes,
        ),
        Kernel(
            "short_runs",
            "the same network trained from a fresh initialization for 1/16, 1/8 and 1/4 of its steps",
            needs=("network", "test_data", "training_settings"),
            passes=_short_runs,
        ),
    ],
)

#: The kernels that can be chosen, in the order in which they run.
CHOICES: ListView[str] = ListView(lambda: [k.name for k in KERNELS.values() if not k.part_of], KERNELS)
#: The choices that need two networks or more.
PAIR_CHOICES: ListView[str] = ListView(lambda: [name for name in CHOICES if "pair" in KERNELS[name].needs], KERNELS)
#: The choices that evaluate points between two networks.
BETWEEN_CHOICES: ListView[str] = ListView(
    lambda: [name for name in CHOICES if {"line", "curve"} & {*KERNELS[name].needs}], KERNELS
)


def stages(choices: Iterable[str]) -> list[Kernel]:
    """Return the kernels that run for some choices, their parts included, in their order.

    >>> [kernel.name for kernel in stages(["connectivity", "barrier"])]
    ['barrier', 'aligned', 'connectivity']
    """
    chosen = set(choices)
    return [kernel for kernel in KERNELS.values() if kernel.program in chosen]


def add_kernel(entry: Kernel, kernel: Callable[..., Any] | None = None) -> Kernel:
    """Add a kernel from outside the package with its function; the measurements that it computes refer to it by name.

    Raises:
        UserError: no function, a kernel that needs neither a network nor a pair, or a name that is taken.
    """
    if not callable(kernel):
        raise UserError(f"kernel={kernel!r:.60} of '{entry.name}' is not callable; it must be a function")
    if not {"network", "pair"} & {*entry.needs}:
        raise UserError(f"kernel '{entry.name}' must need either 'network' or 'pair', the input of its function")
    KERNELS.register(entry)
    KERNELS.bind(entry.name, kernel=kernel)
    return entry


def function_of(name: str) -> Callable[..., Any] | None:
    """Return the function of a kernel that was added from outside, None for a kernel of the package.

    `mdtree_jax.measuring.extension` documents how it is called.
    """
    return KERNELS.bound(name, "kernel")


BINDERS[Kernel] = Binder(add_kernel, KERNELS.unregister, ("kernel",))
