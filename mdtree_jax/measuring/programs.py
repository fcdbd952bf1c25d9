"""The compiled programs of measuring, and how much of a width they hold at once. JAX."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from mdtree_jax import landscape, lowering
from mdtree_jax.checks import UserError
from mdtree_jax.measuring import ensemble, extension, trained
from mdtree_jax.measuring import kernels as measures
from mdtree_jax.measuring.similarity import check_features
from mdtree_jax.models import Model, abstract_inputs, count_activations
from mdtree_jax.population.compiled import jit_over_members
from mdtree_jax.population.memory import margin, peak_bytes
from mdtree_jax.recipe.measure_settings import MeasureSettings
from mdtree_jax.registry.kernels import KERNELS, function_of
from mdtree_jax.registry.objectives import DEFAULT_OBJECTIVE
from mdtree_jax.training import ObjectiveFunctions, ObjectiveLike, objective_functions
from mdtree_jax.training.arrays import one_row, take_rows

#: The estimates are 1.2 to 4.1 times what the compiler takes: what exceeds a budget this many times does not fit.
OVERESTIMATE = 5.0


class Program:
    """A jitted function of arrays, with the count and seconds of its compilations."""

    def __init__(self, jitted: Any):
        self._jitted = jitted
        self._executables: dict[Any, Any] = {}
        self.num_compilations, self.compile_seconds = 0, 0.0

    def prepare(self, *arguments: Any) -> Callable[..., measures.Results]:
        """Return the executable for arrays of these shapes."""
        leaves, structure = jax.tree.flatten(arguments)
        key = structure, tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves)
        if key not in self._executables:
            start = time.perf_counter()
            with full_precision():
                lowered = self._jitted.lower(*arguments)
            self._executables[key] = lowered.compile()
            self.num_compilations += 1
            self.compile_seconds += time.perf_counter() - start
        return self._executables[key]

    def results(self, *arguments: Any) -> dict[str, measures.AnyArray]:
        """Return abstract arrays of what comes out for arrays of these shapes; nothing is compiled."""
        return jax.eval_shape(self._jitted, *arguments)


def full_precision() -> contextlib.AbstractContextManager[None]:
    """Have products of matrices computed in the type of their arrays while programs are traced.

    Accelerators cut them to 19 or 16 bits unless they are told otherwise: enough to train with, but a Hessian's
    products would then miss the tolerances that eigenvalues and traces are stopped at. A CPU does not cut.
    """
    if jax.default_backend() == "cpu":
        return contextlib.nullcontext()
    return jax.default_matmul_precision("highest")


_BINDINGS = measures.BINDINGS | ensemble.BINDINGS | trained.BINDINGS


def binding_of(kernel: str) -> measures.Binding:
    """Return the program of a kernel, ours or one from outside."""
    return _BINDINGS[kernel] if kernel in _BINDINGS else extension.binding_of(kernel)


def check_kernels(
    model: Model, settings: MeasureSettings, examples: tuple[Any, Any], objective: ObjectiveLike = DEFAULT_OBJECTIVE
) -> None:
    """Raise `UserError` for features that the model lacks, and for functions of kernels that return no scalars.

    `examples` are abstract inputs and targets.
    """
    check_features(model, settings, examples[0])
    extension.check_extensions(model, settings, examples, objective)


def program_of(
    name: str,
    model: Model,
    settings: MeasureSettings,
    mesh: Mesh,
    lanes: int,
    options: tuple[tuple[str, Any], ...],
    objective: ObjectiveFunctions,
) -> Program:
    """Return the program of a kernel, or of a part of one as `<kernel> <part>`; the same one for the same arguments."""
    # A function that was registered again under its name is another program.
    return _program(name, function_of(name), model, settings, mesh, lanes, options, objective)


@functools.lru_cache(maxsize=16)
def _program(
    name: str,
    function: Any,
    model: Model,
    settings: MeasureSettings,
    mesh: Mesh,
    lanes: int,
    options: tuple[tuple[str, Any], ...],
    objective: ObjectiveFunctions,
) -> Program:
    kernel, _, part = name.partition(" ")
    binding = binding_of(kernel)
    if part:
        assert binding.make_parts is not None  # its parts are named
        return Program(jit_over_members(getattr(binding.make_parts(model, settings, objective), part), mesh, lanes))
    return Program(jit_over_members(binding.make(model, settings, objective=objective, **dict(options)), mesh, lanes))


@functools.lru_cache(maxsize=8)
def comparison_program(kernel: str, settings: MeasureSettings, objective: ObjectiveFunctions) -> Program:
    """Return the program that compares a configuration's networks, of arrays stacked; see `Binding.compare`."""
    compare = binding_of(kernel).compare
    assert compare is not None  # the kernel compares
    return Program(lowering.jit(functools.partial(compare, settings, objective=objective)))


@functools.lru_cache(maxsize=4)
def _jit_outputs(model: Model) -> Callable[[Any, Any], jax.Array]:
    return lowering.jit(lambda variables, x: model.apply(variables, x, False)[0])


def check_networks(model: Model, networks: Iterable[Any], images: Any) -> None:
    """Raise `UserError` unless outputs are functions of a network's parameters and each image alone.

    Looks at the first of the networks whose outputs for some images are finite. The others are the same function, and
    one that is not finite is no reason to stop: what is measured of it is NaN, and counted.
    """
    outputs, few = _jit_outputs(model), take_rows(images, slice(8))
    chosen = next((variables for variables in networks if np.isfinite(outputs(variables, few)).all()), None)
    if chosen is not None:
        landscape.check_apply(lambda params, x: outputs({**chosen, "params": params}, x), chosen["params"], few)


class Choices(NamedTuple):
    """How a width is measured: images held at a time by a Hessian product, XTrace or Hutchinson, products of a block
    at once or one after the other, networks at once on a device; images held at a time by a gradient of the sharpness,
    and by the outputs that are compared.
    """

    hessian_batch_size: int
    use_xtrace: bool
    batched: bool
    lanes: int
    sharpness_batch_size: int
    similarity_batch_size: int

    def options(self, kernel: str) -> dict[str, Any]:
        """Return what was decided for a kernel, as options of its program."""
        return {option: getattr(self, field) for option, field in binding_of(kernel).options.items()}


def devices_for(budget: int, held: int) -> tuple[list[Any], int]:
    """Return the devices that measure, and the bytes of each beside the data set, of `held` bytes on every one.

    `budget` is for all together; the data sets take at most half of it.
    """
    devices = lowering.local_devices()[: max(1, budget // (2 * held))]
    return devices, budget // len(devices) - held


def choose(
    model: Model,
    data: measures.Data,
    settings: MeasureSettings,
    budget: int,
    platform: str,
    objective: ObjectiveLike = DEFAULT_OBJECTIVE,
    trained_as: trained.TrainedAs | None = None,
) -> Choices:
    """Return how to measure within `budget` bytes on one device, the data set not counted, from the traced programs.

    All images of the Hessian at once and XTrace, unless the settings say otherwise, if that fits, else fewer images,
    else Hutchinson, whose vectors take less. On CPU networks follow each other and so do products, of no more images at
    a time than `mdtree_jax.lowering` says; on an accelerator as many go together as fit and gain.
    `data` holds abstract arrays; `trained_as` is None where the training is not known, and no kernel needs it.

    Raises:
        UserError: not even the fewest images fit, and that by more than the estimate can be too large.
    """
    batched = platform != "cpu"
    sizes = _halves(settings.hessian_images)
    held = sizes if batched else _cached(model, data, sizes)
    plans = [(n, True) for n in held[:3]] if settings.trace_method == "xtrace" else []
    plans += [(n, False) for n in held]
    taken_by = functools.partial(_kernel_bytes, model, data, settings, objective_functions(objective), trained_as)
    sides = (
        (plans, lambda plan: taken_by("hessian", plan[0], ("use_xtrace", plan[1]), ("batched", batched))),
        (sizes, functools.partial(taken_by, "sharpness")),
        (_halves(settings.similarity_images), functools.partial(taken_by, "similarity")),
    )
    ((held_images, use_xtrace), images, outputs), taken = zip(
        *(_first_that_fits(*side, budget) for side in sides), strict=True
    )
    lane = max(*taken, *(taken_by(kernel, None) for kernel in settings.metrics if not binding_of(kernel).options))
    if (least := lane / OVERESTIMATE) > budget > 0:  # below that the data set alone is more than was granted
        steps = f", or lower eigenvalue_steps ({settings.eigenvalue_steps}), each of which keeps a vector"
        raise UserError(
            f"measuring one network takes at least {least / 1e9:.3g} GB of memory on each device, and "
            f"{budget / 1e9:.3g} GB may be used: allow more (memory_gb=), or measure fewer metrics"
            f"{steps if 'hessian' in settings.metrics else ''}"
        )
    lanes = 1
    if batched:
        step = 2 * _activation_bytes(model, data, settings.hessian_images)
        lanes = int(max(1, min(budget // lane, lowering.of(platform).most_lanes(step))))
    return Choices(held_images, use_xtrace, batched, lanes, images, outputs)


def _cached(model: Model, data: measures.Data, sizes: list[int]) -> list[int]:
    """Return the numbers of images, falling, from the one on that a CPU should hold at a time."""
    row = lowering.TABLE["cpu"]
    enough = [n for n in sizes if n >= row.fewest_images] or sizes[:1]
    most = next((n for n in enough if _activation_bytes(model, data, n) <= (row.held_bytes or 0)), enough[-1])
    return [n for n in sizes if n <= most]


def _activation_bytes(model: Model, data: measures.Data, num_images: int) -> int:
    dtype = jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0))["params"])[0].dtype
    return count_activations(model, one_row(data.x_train), num_images) * dtype.itemsize


def _halves(number: int) -> list[int]:
    """Return the number and smaller ones down to 1, each the largest divisor of at most half of the one before."""
    sizes = [number]
    while sizes[-1] > 1:
        sizes.append(next(n for n in range(sizes[-1] // 2, 0, -1) if number % n == 0))
    return sizes


def _first_that_fits(plans: list[Any], num_bytes: Callable[[Any], int], budget: int) -> tuple[Any, int]:
    """Return the first plan that takes no more than the budget, else the last, and what it takes, at least 1."""
    for plan in plans[:-1]:
        if (taken := num_bytes(plan)) <= budget:
            return plan, max(1, taken)
    return plans[-1], max(1, num_bytes(plans[-1]))


def _kernel_bytes(
    model: Model,
    data: measures.Data,
    settings: MeasureSettings,
    objective: ObjectiveFunctions,
    trained_as: trained.TrainedAs | None,
    kernel: str,
    batch_size: int | None,
    *options: tuple[str, Any],
) -> int:
    """Return the bytes that a kernel takes of one network or pair with a batch size and further options, 0 if it does
    not run.
    """
    if kernel not in settings.metrics:
        return 0
    if batch_size is not None:
        options = (("batch_size", batch_size), *options)
    leaves, structure = jax.tree.flatten(data)
    is_trained = "training_settings" in KERNELS[kernel].needs and not KERNELS[kernel].is_of_pairs
    known = (tuple(leaves), structure, settings, objective, trained_as if is_trained else None)
    return _bytes_of(kernel, function_of(kernel), model, *known, options)


# Tracing takes seconds, and the cohorts of a width ask the same.
@functools.lru_cache(maxsize=256)
def _bytes_of(
    kernel: str,
    function: Any,
    model: Model,
    leaves: tuple[Any, ...],
    structure: Any,
    settings: MeasureSettings,
    objective: ObjectiveFunctions,
    trained_as: trained.TrainedAs | None,
    options: tuple[tuple[str, Any], ...],
) -> int:
    record, chosen, data = KERNELS[kernel], dict(options), structure.unflatten(leaves)
    num_images = chosen.get("batch_size", settings.hessian_images)
    if {"line", "curve"} & {*record.needs}:
        num_images = max(settings.curve_batch_size, settings.statistics_batch_size)
    network = jax.eval_shape(model.init, jax.random.key(0))
    count, key = jax.ShapeDtypeStruct((), np.int32), jax.ShapeDtypeStruct((2,), np.uint32)
    item: Any = measures.NetworkItem(network, count, key)
    if trained_as is not None:
        item, chosen = trained_as.item_shapes(network), chosen | trained_as.options(kernel)
        num_images = trained_as.training.batch_size
    elif record.is_of_pairs:
        item = measures.PairItem(network, network, count, key)
    measure = binding_of(kernel).make(model, settings, objective=objective, **chosen)
    return _traced_bytes(model, data, measure, num_images, item)


def _traced_bytes(model: Model, data: measures.Data, function: Callable[..., Any], num_images: int, item: Any) -> int:
    """Return an upper estimate of the bytes that a measurement of one network or pair, an abstract `item`, takes.

    `num_images` go through the network at a time: the compiler copies more where their convolutions are cut in parts.
    """
    network = jax.eval_shape(model.init, jax.random.key(0))
    images = abstract_inputs(one_row(data.x_train), num_images)
    forward = jax.make_jaxpr(lambda variables, x: model.apply(variables, x, False))(network, images)
    return int(margin(forward.jaxpr) * peak_bytes(jax.make_jaxpr(function)(item, data).jaxpr))
