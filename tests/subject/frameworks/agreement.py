"""How far an adapter is from its framework, for a case: outputs, gradient, Hessian product, recomputed BatchNorm."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mdtree_jax.landscape import recompute_batch_stats
from mdtree_jax.subject.adapted import subject_of, unlike_averages
from tests.subject.frameworks.cases import Case, jax_loss, targets
from tests.subject.frameworks.jax_cases import named

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


def refreshed(case: Case, subject: Any) -> float:
    """Return how far recomputed statistics are from the framework's, after one batch over and over.

    An exponential average of the same statistics converges to them, whatever its momentum and wherever it began.
    """
    variables = subject.variables[0]

    def apply_train(variables: Any, x: Any) -> Any:
        outputs, _, state = subject.model.apply(variables, x, True)
        return outputs, {"batch_stats": state}

    found = jax.jit(lambda v: recompute_batch_stats(apply_train, v, lambda index: jnp.asarray(case.x), 1))(variables)
    network = case.network
    for _ in range(STEPS):
        network = case.trained(network, case.x)
    expected = subject_of(case.model, [network], case.x).variables[0]["batch_stats"]
    return difference(jax.tree.leaves(found), jax.tree.leaves(expected))
