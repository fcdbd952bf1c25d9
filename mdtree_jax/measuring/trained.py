"""What is measured of a network whose training is known: norms, probes, short runs. JAX.

As in `kernels`, each `make_…(model, settings, objective, training, side_by_side)` returns `measure(item, data) ->
results`. Loss and error before and after a probe are those of the same examples: the first `probe_images` of the
training subset, and all of the validation set, or of the test set where there is none. Where there is a validation set,
the test set is a third side, which nothing may be concluded from: what a probe gains is read there. BatchNorm is in
evaluation mode, its statistics recomputed over the same training images in all but the checkpoint, which is as it was
saved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mdtree_jax import lowering
from mdtree_jax.checks import UserError
from mdtree_jax.landscape.pytrees import sum_of, tree_dot
from mdtree_jax.measuring.kernels import AnyArray, Binding, Data, Results, hessian_batch, make_loss
from mdtree_jax.models import Model
from mdtree_jax.population.executor import step_bytes
from mdtree_jax.population.programs import hyperparameter_shapes
from mdtree_jax.probes.outcome import Outcome, estimate, is_finite, movement, outcome_of, paired_change, refreshed
from mdtree_jax.probes.race import short_run
from mdtree_jax.probes.run import applicable, order_of, run_probes
from mdtree_jax.probes.steps import TrainingSettings
from mdtree_jax.recipe.cohort import Cohort, Recipe
from mdtree_jax.recipe.measure_settings import MeasureSettings
from mdtree_jax.registry.kernels import KERNELS
from mdtree_jax.registry.knobs import KNOBS
from mdtree_jax.registry.probes import CHECKPOINT, PROBES, REFRESHED, SHORT_RUNS
from mdtree_jax.training import Hyperparameters, ObjectiveFunctions
from mdtree_jax.training.arrays import num_rows, take_rows

SIDES = ("train", "validation", "test")


class TrainedItem(NamedTuple):
    """One network and how it was trained.

    Attributes:
        variables, num_samples, key: as of `kernels.NetworkItem`.
        initial: its variables before training.
        hparams: settings of its training; `hparams.key` is that of all its randomness.
        num_epochs: of a whole training, int32.
        opt_state: of the optimizer at the end of training; None where it was not kept.
    """

    variables: Any
    num_samples: AnyArray
    key: AnyArray
    initial: Any
    hparams: Hyperparameters
    num_epochs: AnyArray
    opt_state: Any = None


def make_norms(
    model: Model,
    settings: MeasureSettings,
    objective: ObjectiveFunctions,
    training: TrainingSettings,
    side_by_side: bool,
) -> Callable[..., Results]:
    """Return the measurement of norms, over all parameters, and of the gradient of the training loss.

    All are the same after hidden units are permuted. Where a layer's scale is free (before BatchNorm or LayerNorm, or
    between two ReLU layers), norms and gradient depend on it; `scaled_gradient_norm` does not, the root of the sum over
    arrays of (norm of the gradient x norm of the weights)^2, nor does `layer_growth` on a scale that moves from one
    matrix to another: the mean over arrays of two axes or more of ln(norm / initial norm).
    """
    del training, side_by_side

    def measure(item: TrainedItem, data: Data) -> Results:
        params, initial = item.variables["params"], item.initial["params"]
        batch = hessian_batch(item, data, settings)
        gradient = jax.grad(make_loss(model, item.variables["batch_stats"], objective, batch[1]))(params, batch)
        weight, at_start, slope = (jnp.sqrt(tree_dot(tree, tree)) for tree in (params, initial, gradient))
        step = jax.tree.map(jnp.subtract, params, initial)
        squares = [
            jnp.sum(g * g) * jnp.sum(w * w) for g, w in zip(*map(jax.tree.leaves, (gradient, params)), strict=True)
        ]
        return {
            "weight_norm": weight,
            "weight_norm_initial": at_start,
            "weight_growth": jnp.log(weight / at_start),
            "layer_growth": _layer_growth(params, initial),
            "gradient_norm": slope,
            "gradient_ratio": jnp.log(jnp.maximum(slope, jnp.finfo(slope.dtype).tiny) / weight),
            "scaled_gradient_norm": jnp.sqrt(sum_of(squares)),
            "distance_from_initial": jnp.sqrt(tree_dot(step, step)) / at_start,
        }

    return measure


def _layer_growth(params: Any, initial: Any) -> jax.Array:
    pairs = zip(*map(jax.tree.leaves, (params, initial)), strict=True)
    tiny = jnp.finfo(jax.tree.leaves(params)[0].dtype).tiny
    logs = [jnp.log(jnp.maximum(jnp.sum(a * a), tiny) / jnp.maximum(jnp.sum(b * b), tiny)) / 2
            for a, b in pairs if a.ndim > 1]  # fmt: skip
    return jnp.stack(logs).mean() if logs else jnp.zeros((), jax.tree.leaves(params)[0].dtype)


def make_probes(
    model: Model,
    settings: MeasureSettings,
    objective: ObjectiveFunctions,
    training: TrainingSettings,
    side_by_side: bool,
) -> Callable[..., Results]:
    """Return the measurement of the probes `settings.probes`: outcomes, changes, movement of the weights."""
    probing = make_probing(model, settings, objective, training, side_by_side)
    return lambda item, data: probing(item, data).results


class Probing(NamedTuple):
    """What the probes of one network gave.

    Attributes:
        results: as the kernel `probes` has them.
        variables: of all networks, stacked in the order of `order_of`.
        outcomes: side -> losses and errors, (networks, examples).
    """

    results: Results
    variables: Any
    outcomes: dict[str, Outcome]


def make_probing(
    model: Model,
    settings: MeasureSettings,
    objective: ObjectiveFunctions,
    training: TrainingSettings,
    side_by_side: bool,
) -> Callable[[TrainedItem, Data], Probing]:
    """Return the probes `settings.probes` of one network, with the networks that they end with."""

    def probe(item: TrainedItem, data: Data) -> Probing:
        names = applicable(settings.probes, training, data.x_train)
        probed = run_probes(
            model,
            training,
            names,
            item.variables,
            item.opt_state,
            item.hparams,
            item.num_epochs,
            data.x_train,
            data.y_train,
            side_by_side=side_by_side,
            statistics_batch_size=settings.statistics_batch_size,
            statistics_examples=settings.probe_images,
        )
        outcomes = outcomes_of(model, settings, objective, probed.variables, item.num_samples, data, side_by_side)
        one = {name: place for place, name in enumerate(order_of(names))}
        found: Results = {"probes_steps": probed.num_steps}
        for side, of_side in outcomes.items():
            at = {name: jax.tree.map(lambda leaf, place=place: leaf[place], of_side) for name, place in one.items()}
            found |= _means(CHECKPOINT, side, at[CHECKPOINT], with_error=True)
            for name in names:
                against = PROBES[name].against
                found |= _means(name, side, at[name])
                if side == "test":
                    continue
                found |= _changes(name, side, at[name], at[against if against in at else REFRESHED])
        for name in (name for name in names if PROBES[name].trains):
            params = jax.tree.map(lambda leaf, place=one[name]: leaf[place], probed.variables["params"])
            found[f"{name}_movement"] = movement(params, item.variables["params"])
            found[f"{name}_diverged"] = 1 - is_finite(params).astype(item.hparams.learning_rate.dtype)
        return Probing(found, probed.variables, outcomes)

    return probe


def make_short_runs(
    model: Model,
    settings: MeasureSettings,
    objective: ObjectiveFunctions,
    training: TrainingSettings,
    side_by_side: bool,
) -> Callable[..., Results]:
    """Return the measurement of the short runs, one after the other."""

    def measure(item: TrainedItem, data: Data) -> Results:
        def run(share: jax.Array) -> tuple[Any, jax.Array]:
            variables, num_steps = short_run(
                model, training, item.initial, item.hparams, item.num_epochs, share, data.x_train, data.y_train
            )
            most, size = settings.probe_images, settings.statistics_batch_size
            return refreshed(model, variables, data.x_train, item.num_samples, size, most), num_steps

        variables, num_steps = lax.map(run, jnp.array([*SHORT_RUNS.values()], jnp.float32))
        outcomes = outcomes_of(model, settings, objective, variables, item.num_samples, data, side_by_side)
        found: Results = {"short_runs_steps": num_steps.sum(dtype=num_steps.dtype)}
        for side, of_side in outcomes.items():
            for place, name in enumerate(SHORT_RUNS):
                outcome = jax.tree.map(lambda leaf, place=place: leaf[place], of_side)
                found |= _means(name, side, outcome, with_error=True)
        return found

    return measure


def outcomes_of(
    model: Model,
    settings: MeasureSettings,
    objective: ObjectiveFunctions,
    variables: Any,
    num_samples: jax.Array,
    data: Data,
    side_by_side: bool,
) -> dict[str, Outcome]:
    """Return the outcomes of stacked networks on every side, their arrays (networks, examples)."""
    most, (x, y) = settings.probe_images, data.held_out
    train = take_rows((data.x_train, data.y_train), slice(most))
    sides: list[tuple[Any, Any, jax.Array]] = [
        (*train, jnp.minimum(num_samples, most)),
        (x, y, jnp.full_like(num_samples, len(y))),
    ]
    if data.has_validation:
        sides.append((data.x_test, data.y_test, jnp.full_like(num_samples, len(data.y_test))))

    def evaluate(one: Any) -> tuple[Outcome, ...]:
        size = settings.statistics_batch_size
        return tuple(outcome_of(model, objective, one, *side, size) for side in sides)

    with lowering.side_by_side(num_rows(variables) if side_by_side else 1):
        found = jax.vmap(evaluate)(variables) if side_by_side else lax.map(evaluate, variables)
    return dict(zip(SIDES, found, strict=False))


def _means(name: str, side: str, outcome: Outcome, with_error: bool = False) -> Results:
    """Return mean loss and error (%) of an outcome by column, with their standard errors over examples if asked for."""
    found = {}
    for kind, values, scale in (("loss", outcome.loss, 1), ("error", outcome.error, 100)):
        mean = estimate(values, outcome.is_counted)
        found[f"{name}_{side}_{kind}"] = scale * mean.mean
        if with_error:
            found[f"{name}_{side}_{kind}_se"] = scale * mean.standard_error
    return found


def _changes(name: str, side: str, after: Outcome, before: Outcome) -> Results:
    """Return the changes of loss and error (points) by column, with their paired standard errors."""
    found = {}
    for kind, change, scale in zip(("loss", "error"), paired_change(after, before), (1, 100), strict=True):
        found[f"{name}_{side}_{kind}_change"] = scale * change.mean
        found[f"{name}_{side}_{kind}_change_se"] = scale * change.standard_error
    return found


class TrainedAs(NamedTuple):
    """How the networks of a cohort were trained, and how their training goes on.

    Attributes:
        training: its settings.
        dtype: of hyperparameters.
        batched: further knobs that differ between networks.
        is_small: whether a step is so small that a CPU's core does several at once faster than one after the other.
        is_cpu: whether the devices are cores.
    """

    training: TrainingSettings
    dtype: str
    batched: tuple[str, ...]
    is_small: bool
    is_cpu: bool

    @classmethod
    def of(cls, recipe: Recipe, cohort: Cohort, dtype: str, platform: str, objective: ObjectiveFunctions) -> TrainedAs:
        """Return how a cohort of a grid was trained; by the rule of its training what is stepped together is chosen."""
        knobs = {name: value for name, value in cohort.knobs if KNOBS[name].acts_on != "build"}
        named = {name: knobs.pop(name) for name in ("optimizer", "schedule", "momentum") if name in knobs}
        training = TrainingSettings(cohort.batch_size, objective=objective, **named, knobs=tuple(knobs.items()))
        is_small = step_bytes(recipe, cohort, dtype) <= lowering.TABLE["cpu"].lane_bytes
        return cls(training, dtype, cohort.batched, is_small, platform == "cpu")

    def options(self, kernel: str) -> dict[str, Any]:
        """Return the options of a kernel's program that follow from the training; none for a kernel of landscape."""
        if kernel not in BINDINGS:
            return {}
        return {"training": self.training, "side_by_side": self.is_small or not self.is_cpu}

    def lanes(self, kernel: str) -> int:
        """Return the networks that a core does at once; of others than these kernels, and of a probe's, one."""
        most = lowering.TABLE["cpu"].max_lanes or 1
        return most if kernel == "short_runs" and self.is_cpu and self.is_small else 1

    def item_shapes(self, network: Any) -> TrainedItem:
        """Return an item that holds shapes; `network` are those of a network."""
        hparams = hyperparameter_shapes(self.batched, self.dtype)
        return TrainedItem(network, hparams.num_samples, hparams.key, network, hparams, hparams.num_samples)


def check_training_is_known(kernels: Iterable[str], is_known: bool) -> None:
    """Raise `UserError` if a kernel needs the training settings, and they are not known."""
    needing = [kernel for kernel in kernels if "training_settings" in KERNELS[kernel].needs]
    if needing and not is_known:
        raise UserError(
            f"the metric '{needing[0]}' needs the settings of training, which are known only of the networks of a "
            "sweep; leave it out of measure.metrics"
        )


_MAKERS: Mapping[str, Callable[..., Any]] = {"norms": make_norms, "probes": make_probes, "short_runs": make_short_runs}
#: Kernel -> its program.
BINDINGS = {name: Binding(make, is_trained=True) for name, make in _MAKERS.items()}
