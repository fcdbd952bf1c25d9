"""How far an adapter, and what is measured through it, are from the framework or a dense computation, for a case."""

from __future__ import annotations

from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np

from mdtree_jax.landscape import recompute_batch_stats
from mdtree_jax.recipe.measure_settings import MeasureConfig, resolve
from mdtree_jax.subject.adapted import subject_of, unlike_averages
from mdtree_jax.subject.measure import measure_subject
from mdtree_jax.subject.network import examples
from mdtree_jax.training import objective_functions
from tests.subject.frameworks.cases import Case, jax_loss, targets
from tests.subject.frameworks.jax_cases import named

#: Most parameters of which the Hessian is computed as a matrix.
MOST_DENSE = 1500
#: Points on the way between two networks.
POINTS = 5
#: Batches after which averages of momentum 0.6 have forgotten where they began, to 1e-8 of it.
STEPS = 36


def difference(found: Any, expected: Any) -> float:
    """Return the largest difference over the largest number, over all arrays together."""
    pairs = [(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in zip(found, expected, strict=True)]
    return max(np.abs(a - b).max() for a, b in pairs) / max(np.abs(b).max() for _, b in pairs)


def measure(case: Case) -> dict[str, float]:
    """Return the relative differences between the adapter and the framework."""
    subject = subject_of(case.model, [case.network, case.other], case.x, build=case.build)
    variables, x = subject.variables[0], jax.tree.map(jnp.asarray, case.x)
    state = variables["batch_stats"]
    expected = np.asarray(case.outputs(case.network, case.x))
    y = targets(expected, case.objective)
    out = {}

    def outputs(params: Any) -> Any:
        return subject.model.apply({"params": params, "batch_stats": state}, x, False)[0]

    out["outputs"] = difference([jax.jit(outputs)(variables["params"])], [expected])
    params = jax.tree.map(jnp.asarray, variables["params"])
    rng = np.random.default_rng(5)
    direction = jax.tree.map(lambda a: jnp.asarray(rng.standard_normal(a.shape), jnp.float32), params)
    gradient, product = jax.jit(
        lambda p: jax.jvp(jax.grad(lambda p: jax_loss(outputs(p), jnp.asarray(y))), (p,), (direction,))
    )(params)
    own = case.derivatives(case.network, case.x, y, named(direction))
    for name, found, theirs in zip(("gradient", "product"), (gradient, product), own, strict=True):
        found = named(found)
        assert found.keys() == theirs.keys()
        out[name] = difference(list(found.values()), [theirs[key] for key in found])
    if case.trained is not None:
        assert unlike_averages(subject, x) == []
        out["statistics"] = refreshed(case, subject)
    return out


def measure_landscape(case: Case) -> dict[str, float]:
    """Return the relative differences of what `measure_subject` says from a dense Hessian and from the framework.

    Trace and largest eigenvalue are those of the Hessian as a matrix, for networks of few parameters. Between two
    networks the framework computes the outputs at every point; curves are looked at before they are trained, where
    they are straight. Differences are relative to the dense number, or to the largest loss or error on the way.
    """
    subject = subject_of(case.model, [case.network, case.other], case.x, build=case.build)
    subject = subject._replace(objective=case.objective)
    y = targets(case.outputs(case.network, case.x), case.objective)
    size = sum(np.size(leaf) for leaf in jax.tree.leaves(subject.variables[0]["params"]))
    metrics = ["barrier", "connectivity", *(["hessian"] if size <= MOST_DENSE else [])]
    if not subject.can_recompute:
        metrics = [name for name in metrics if name == "hessian"]
    config = MeasureConfig(metrics, hessian_images=len(y), barrier_points=POINTS, curve_points=POINTS, curve_steps=1)
    config.curve_learning_rate, config.curve_weight_decay = 1e-30, 0.0
    config.trace_products, config.trace_relative_error = 2 * size, 1e-7
    config.eigenvalue_steps, config.eigenvalue_tolerance = size, 1e-7
    data = examples(case.x, y, objective=case.objective)
    row = measure_subject(subject, data, resolve(config), in_random_order=True).row
    out = {}
    if size <= MOST_DENSE:
        dense = [np.linalg.eigvalsh(hessian(subject, place, case.x, y)) for place in (0, 1)]
        trace, largest = np.mean([values.sum() for values in dense]), np.mean([values[-1] for values in dense])
        out["trace"] = abs(row["hessian_trace"] - trace) / abs(trace)
        out["eigenvalue"] = abs(row["hessian_max_eigenvalue"] - largest) / largest
    if subject.can_recompute:
        losses, errors = np.array([at(case, subject, t, y) for t in np.linspace(0, 1, POINTS)]).T
        barrier = max(losses - np.linspace(losses[0], losses[-1], POINTS))
        out["barrier"] = abs(row["barrier_loss"] - barrier) / losses.max()
        out["curve"] = abs(row["mode_connectivity_peak"] + errors[1:-1].max()) / errors.max()
    return out


def hessian(subject: Any, place: int, x: Any, y: Any) -> np.ndarray:
    """Return the Hessian of a network's mean loss as a matrix."""
    params, state = (subject.variables[place][name] for name in ("params", "batch_stats"))
    flat, back = jax.flatten_util.ravel_pytree(params)
    functions = objective_functions(subject.objective)

    def loss(flat: Any) -> Any:
        outputs = subject.model.apply({"params": back(flat), "batch_stats": state}, jax.tree.map(jnp.asarray, x), False)
        return functions.mean_loss(outputs[0], jnp.asarray(y))

    matrix = np.asarray(jax.jit(jax.hessian(loss))(flat), np.float64)
    return (matrix + matrix.T) / 2


def at(case: Case, subject: Any, t: float, y: Any) -> tuple[float, float]:
    """Return loss and error (%) at a point between the networks, of outputs that the framework computes.

    BatchNorm's statistics are recomputed over all examples, which `refreshed` compares with the framework's.
    """
    first, second = subject.variables
    params = jax.tree.map(lambda a, b: ((1 - t) * a + t * b).astype(a.dtype), first["params"], second["params"])
    variables = {"params": params, "batch_stats": first["batch_stats"]}
    if jax.tree.leaves(first["batch_stats"]):
        variables = recomputed(subject, variables, case.x)
    network = variables if subject.given_form is None else subject.given_form(variables)
    outputs, functions = jnp.asarray(case.outputs(network, case.x)), objective_functions(subject.objective)
    error = functions.error_over_set(functions.error(outputs, jnp.asarray(y)).mean(), jnp.asarray(y), None)
    return float(functions.mean_loss(outputs, jnp.asarray(y))), 100 * float(error)


def refreshed(case: Case, subject: Any) -> float:
    """Return how far recomputed statistics are from the framework's, after one batch over and over.

    An exponential average of the same statistics converges to them, whatever its momentum and wherever it began.
    """
    found = recomputed(subject, subject.variables[0], case.x)["batch_stats"]
    network = case.network
    for _ in range(STEPS):
        network = case.trained(network, case.x)
    expected = subject_of(case.model, [network], case.x).variables[0]["batch_stats"]
    return difference(jax.tree.leaves(found), jax.tree.leaves(expected))


def recomputed(subject: Any, variables: Any, x: Any) -> Any:
    """Return variables with statistics recomputed over one batch."""

    def apply_train(variables: Any, x: Any) -> Any:
        outputs, _, state = subject.model.apply(variables, x, True)
        return outputs, {"batch_stats": state}

    batch = jax.tree.map(jnp.asarray, x)
    found = jax.jit(lambda v: recompute_batch_stats(apply_train, v, lambda index: batch, 1))(variables)
    return {"params": variables["params"], "batch_stats": found}
