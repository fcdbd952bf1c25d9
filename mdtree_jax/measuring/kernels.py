"""What is measured of one network, or of two, as pure functions: the landscape kernels meet our models here. JAX.

Each `make_…(model, settings, …, objective=…)` returns `measure(item, data) -> results`, for `jit_over_members`: `item`
holds the arrays of one network or pair, `data` the training and test set that all share, `results` is a flat dictionary
of arrays. Losses and errors are those of the objective, without weight decay; targets are those trained on; BatchNorm
is in evaluation mode but while a curve is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mdtree_jax import landscape, lowering
from mdtree_jax.measuring.similarity import make_outputs, similarities
from mdtree_jax.models import Model
from mdtree_jax.recipe.measure_settings import MeasureSettings
from mdtree_jax.registry.objectives import DEFAULT_OBJECTIVE
from mdtree_jax.training import ObjectiveLike, evaluate, objective_functions
from mdtree_jax.training.arrays import take_rows

Results = dict[str, jax.Array]
#: An array of JAX in a program, of NumPy on the host, abstract where a program is only traced. No type covers
#: all three.
AnyArray = Any


class Data(NamedTuple):
    """The arrays that all networks share: inputs (n, ...), an array or a pytree of arrays, targets (n, ...); the same
    of the test set, and of a validation set if there is one.

    Without one, its places hold no arrays, and a program is the same as before there could be one.
    """

    x_train: AnyArray
    y_train: AnyArray
    x_test: AnyArray
    y_test: AnyArray
    x_validation: AnyArray = ()
    y_validation: AnyArray = ()

    @property
    def has_validation(self) -> bool:
        """Whether there is a validation set."""
        return not isinstance(self.y_validation, tuple)

    @property
    def held_out(self) -> tuple[AnyArray, AnyArray]:
        """The data on which evidence is read that is not of the training set: validation set, else test set."""
        return (self.x_validation, self.y_validation) if self.has_validation else (self.x_test, self.y_test)


class NetworkItem(NamedTuple):
    """One network: its variables, the size of its training subset, and raw key data (2,) uint32."""

    variables: Any
    num_samples: AnyArray
    key: AnyArray


class PairItem(NamedTuple):
    """Two networks of one configuration: the variables of both, the size of their subset, raw key data."""

    first: Any
    second: Any
    num_samples: AnyArray
    key: AnyArray


def measure_key(*values: int) -> np.ndarray:
    """Return raw key data, (2,) uint32, that depends on all of `values`."""
    key = jax.random.key(values[0], impl="threefry2x32")
    for value in values[1:]:
        key = jax.random.fold_in(key, value)
    return np.asarray(jax.random.key_data(key))


def first_rows(num_rows: int, num_samples: jax.Array) -> jax.Array:
    """Return the first `num_rows` indices of a subset of `num_samples`, starting over at its end; (num_rows,) int32."""
    return jnp.arange(num_rows, dtype=jnp.int32) % num_samples


def make_loss(
    model: Model, batch_stats: Any, objective: ObjectiveLike = DEFAULT_OBJECTIVE, targets: AnyArray = None
) -> Callable[[Any, tuple[Any, jax.Array]], jax.Array]:
    """Return `loss(params, (x, y))`: the objective's mean, BatchNorm in evaluation mode.

    `targets` are those of the set that batches are parts of: then the loss of the set is the mean over its rows. None
    where each batch is a set of its own.
    """
    functions = objective_functions(objective)

    def loss(params: Any, batch: tuple[Any, jax.Array]) -> jax.Array:
        logits, _, _ = model.apply({"params": params, "batch_stats": batch_stats}, batch[0], False)
        mean = functions.loss(logits, batch[1]).mean()
        return functions.over_set(mean, batch[1] if targets is None else targets)

    return loss


def hessian_batch(item: Any, data: Data, settings: MeasureSettings) -> tuple[Any, jax.Array]:
    """Return inputs and targets at which the loss of a network or pair is looked at."""
    rows = first_rows(settings.hessian_images, item.num_samples)
    return take_rows(data.x_train, rows), data.y_train[rows]


def make_hessian(
    model: Model,
    settings: MeasureSettings,
    batch_size: int,
    use_xtrace: bool,
    batched: bool,
    objective: ObjectiveLike = DEFAULT_OBJECTIVE,
) -> Callable[..., Results]:
    """Return the measurement of trace, its shares by layer, scale-invariant trace and dominant eigenvalue.

    `batch_size` images are in memory at a time; `use_xtrace` says whether there is room for its vectors, `batched`
    whether a block of products is taken at once.
    """
    by_lanczos = settings.eigenvalue_method == "lanczos"
    goes_on = use_xtrace and by_lanczos and settings.eigenvalue_start == "trace"
    budget = {"relative_error": settings.trace_relative_error, "batched": batched}
    trace = (
        landscape.xtrace(settings.trace_products, leading=goes_on, **budget)
        if use_xtrace
        else landscape.hutchinson(settings.trace_products, **budget)
    )
    budget = {"max_steps": settings.eigenvalue_steps, "relative_tolerance": settings.eigenvalue_tolerance}
    eigenvalue = landscape.lanczos(1, **budget) if by_lanczos else landscape.power_iteration(**budget)

    def measure(item: NetworkItem, data: Data) -> Results:
        params, batch = item.variables["params"], hessian_batch(item, data, settings)
        loss = make_loss(model, item.variables["batch_stats"], objective, batch[1])
        product = landscape.hvp(loss, params, batch, batch_size=batch_size)
        trace_key, eigenvalue_key = jax.random.split(jax.random.wrap_key_data(item.key))
        found = trace(product, trace_key, params, weights=jax.tree.map(jnp.square, params))
        assert found.weighted_mean is not None  # weights were given
        assert found.weighted_standard_error is not None
        start = {"start": found.leading} if found.leading is not None else {}
        top = eigenvalue(product, eigenvalue_key, params, **start)
        return {
            "hessian_trace": found.mean,
            "hessian_trace_se": found.standard_error,
            "scale_invariant_trace": found.weighted_mean,
            "scale_invariant_trace_se": found.weighted_standard_error,
            "hessian_max_eigenvalue": top.values[0],
            "hessian_max_eigenvalue_residual": top.residuals[0],
            "hessian_max_eigenvalue_converged": top.converged[0],
            "hessian_products": found.num_products + top.num_products,
            "layer_traces": jnp.stack(jax.tree.leaves(found.leaf_traces)),
            "layer_traces_se": jnp.stack(jax.tree.leaves(found.leaf_standard_errors)),
        }

    return measure


def make_sharpness(
    model: Model, settings: MeasureSettings, batch_size: int, objective: ObjectiveLike = DEFAULT_OBJECTIVE
) -> Callable[..., Results]:
    """Return the measurement of the worst-case loss increase in a ball of `ball_radius` times the parameters' norm.

    `batch_size` images, a divisor of all, are in memory at a time.
    """
    kernel = landscape.ball_sharpness(radius=settings.ball_radius, num_steps=settings.ball_steps, relative=True)

    def measure(item: NetworkItem, data: Data) -> Results:
        batch = hessian_batch(item, data, settings)
        loss = make_loss(model, item.variables["batch_stats"], objective, batch[1])

        def whole(params: Any) -> jax.Array:
            if batch_size == settings.hessian_images:
                return loss(params, batch)
            parts = jax.tree.map(lambda a: a.reshape(-1, batch_size, *a.shape[1:]), batch)
            # The activations of a part are made again for its gradient, so that no two are in memory.
            return jax.lax.map(jax.checkpoint(lambda part: loss(params, part)), parts).mean()

        return {"ball_sharpness": kernel(whole, item.variables["params"]).increase}

    return measure


def make_point_evaluation(
    model: Model,
    settings: MeasureSettings,
    num_samples: jax.Array,
    data: Data,
    batch_stats: Any,
    on_test: bool,
    objective: ObjectiveLike = DEFAULT_OBJECTIVE,
) -> Callable[[Any], Results]:
    """Return `evaluate(params)` of a point between networks: errors (%) and losses, statistics recomputed.

    The BatchNorm statistics are averages over the batches of `statistics_batch_size` images that the subset holds. Of
    the subset only the first `evaluation_images` count, if that is set.
    """
    if settings.evaluation_images is not None:
        num_samples = jnp.minimum(num_samples, settings.evaluation_images)
    size = settings.statistics_batch_size
    num_batches = jnp.maximum(num_samples // size, 1)

    def draw(index: jax.Array) -> Any:
        return take_rows(data.x_train, (index * size + jnp.arange(size, dtype=jnp.int32)) % num_samples)

    def apply_train(variables: Any, x: Any) -> tuple[jax.Array, Any]:
        logits, _, stats = model.apply(variables, x, True)
        return logits, {**variables, "batch_stats": stats}

    def evaluate_point(params: Any) -> Results:
        variables = {"params": params, "batch_stats": batch_stats}
        variables["batch_stats"] = landscape.recompute_batch_stats(apply_train, variables, draw, num_batches)
        sides = {"train": (data.x_train, data.y_train, num_samples)}
        if on_test:
            sides["test"] = (data.x_test, data.y_test, jnp.full_like(num_samples, len(data.y_test)))
        found = {}
        for side, (x, y, count) in sides.items():
            loss, errors = evaluate(model, variables, x, y, count, settings.statistics_batch_size, objective)
            found[f"{side}_loss"] = loss
            found[f"{side}_error"] = 100 * errors.astype(loss.dtype) / count.astype(loss.dtype)
        return found

    return evaluate_point


class CurveParts(NamedTuple):
    """A curve between two networks, trained in as many calls as one likes.

    Attributes:
        start: `start(item, data) -> state`, a pytree of arrays.
        advance: `advance((item, state), (data, first, num_steps)) -> state` after that many steps from step `first`,
            or fewer at the end. All pairs are at the same step: a number for all, not one each, keeps a loop over
            steps one loop where pairs go side by side.
        finish: `finish((item, state), data) -> results`.
    """

    start: Callable[..., landscape.CurveState]
    advance: Callable[..., landscape.CurveState]
    finish: Callable[..., Results]


def make_curve(
    model: Model, settings: MeasureSettings, objective: ObjectiveLike = DEFAULT_OBJECTIVE
) -> Callable[..., Results]:
    """Return the measurement of mode connectivity along a trained Bézier curve."""
    parts = make_curve_parts(model, settings, objective)

    def measure(item: PairItem, data: Data) -> Results:
        state = parts.advance((item, parts.start(item, data)), (data, 0, settings.curve_steps))
        return parts.finish((item, state), data)

    return measure


def curve_block(settings: MeasureSettings) -> int | None:
    """Return the steps of a curve that go in a loop of known length, a divisor of all; None: each by itself."""
    if not lowering.here().has_known_loops:
        return None
    return max(length for length in range(1, 513) if settings.curve_steps % length == 0)


def make_curve_parts(
    model: Model, settings: MeasureSettings, objective: ObjectiveLike = DEFAULT_OBJECTIVE
) -> CurveParts:
    """Return what `make_curve` does in three pure functions."""
    training = landscape.curve_training(
        num_steps=settings.curve_steps,
        learning_rate=settings.curve_learning_rate,
        momentum=settings.curve_momentum,
        weight_decay=settings.curve_weight_decay,
        num_points=settings.curve_points,
        init=settings.curve_init,
        schedule=settings.curve_schedule,
    )
    functions = objective_functions(objective)
    block = curve_block(settings)

    def start(item: PairItem, data: Data) -> landscape.CurveState:
        del data
        state = training.start(item.first["params"], item.second["params"], jax.random.wrap_key_data(item.key))
        return state._replace(key=item.key)

    def advance(pair: tuple[PairItem, landscape.CurveState], shared: tuple[Data, Any, Any]) -> landscape.CurveState:
        (item, state), (data, first, num_steps) = pair, shared
        batch_stats = item.first["batch_stats"]

        def loss(params: Any, step: jax.Array, key: jax.Array) -> jax.Array:
            del step
            # With replacement: to put all images in order at every step would take longer than a narrow network's step.
            rows = jax.random.randint(key, (settings.curve_batch_size,), 0, item.num_samples, jnp.int32)
            variables = {"params": params, "batch_stats": batch_stats}
            logits, _, _ = model.apply(variables, take_rows(data.x_train, rows), True)
            return functions.mean_loss(logits, data.y_train[rows])

        state = state._replace(key=jax.random.wrap_key_data(state.key), step=jnp.int32(first))
        return training.advance(state, loss, num_steps, block=block)._replace(key=item.key)

    def finish(pair: tuple[PairItem, landscape.CurveState], data: Data) -> Results:
        item, state = pair
        stats = item.first["batch_stats"]
        evaluate_point = make_point_evaluation(model, settings, item.num_samples, data, stats, True, objective)
        curve = training.finish(state._replace(key=jax.random.wrap_key_data(state.key)), evaluate_point)
        found = {"mode_connectivity": curve.mode_connectivity, "mode_connectivity_peak": curve.mode_connectivity_peak}
        names = ("train_error", "train_loss", "test_error", "test_loss")
        return found | {f"curve_{name}": getattr(curve, name) for name in names}

    return CurveParts(start, advance, finish)


def make_barrier(
    model: Model, settings: MeasureSettings, objective: ObjectiveLike = DEFAULT_OBJECTIVE
) -> Callable[..., Results]:
    """Return the measurement of the straight line's barrier in training error (points) and loss."""
    kernel = landscape.linear_barrier(num_points=settings.barrier_points)

    def measure(item: PairItem, data: Data) -> Results:
        stats = item.first["batch_stats"]
        evaluate_point = make_point_evaluation(model, settings, item.num_samples, data, stats, False, objective)
        barrier = kernel(item.first["params"], item.second["params"], evaluate_point)
        return {"barrier": barrier.train_error_barrier, "barrier_loss": barrier.train_loss_barrier}

    return measure


class Binding(NamedTuple):
    """The program of a kernel.

    Attributes:
        make: `make(model, settings, objective=…, **options) -> measure`, see the head of this module.
        options: names of its options -> fields of `programs.Choices` that decide them.
        make_parts: `make_parts(model, settings, objective) -> CurveParts`, for one that may take long: the same in
            several calls.
        compare: `compare(settings, logits, features, params, objective=…) -> results` of all pairs among the networks
            of a configuration, for a kernel that compares.
        is_trained: whether `make` has the options `training` (`probes.steps.TrainingSettings`) and `side_by_side`
            (whether a network is so small that several are stepped together), and items are `trained.TrainedItem`.
    """

    make: Callable[..., Callable[..., Results]]
    options: Mapping[str, str] = {}
    make_parts: Callable[[Model, MeasureSettings, ObjectiveLike], CurveParts] | None = None
    compare: Callable[..., Results] | None = None
    is_trained: bool = False


#: Record of `mdtree_jax.registry.kernels` -> its program; for one from outside: `mdtree_jax.measuring.extension`.
BINDINGS: dict[str, Binding] = {
    "hessian": Binding(
        make_hessian,
        {"batch_size": "hessian_batch_size", "use_xtrace": "use_xtrace", "batched": "batched"},
    ),
    "sharpness": Binding(make_sharpness, {"batch_size": "sharpness_batch_size"}),
    "similarity": Binding(make_outputs, {"batch_size": "similarity_batch_size"}, compare=similarities),
    "barrier": Binding(make_barrier),
    "connectivity": Binding(make_curve, make_parts=make_curve_parts),
}
