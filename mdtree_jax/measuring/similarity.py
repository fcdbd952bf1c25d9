"""Outputs of networks on the same inputs, and how similar they are: the kernel `similarity`. JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from mdtree_jax import landscape
from mdtree_jax.checks import check_choice
from mdtree_jax.landscape.hessian.factorizations import orthogonal_triangular
from mdtree_jax.models import Model
from mdtree_jax.recipe.measure_settings import MeasureSettings
from mdtree_jax.registry.objectives import DEFAULT_OBJECTIVE
from mdtree_jax.training import ObjectiveFunctions, ObjectiveLike, objective_functions
from mdtree_jax.training.arrays import num_rows, take_rows

if TYPE_CHECKING:
    from mdtree_jax.measuring.kernels import Data, NetworkItem, Results

#: What CKA can compare beside the named intermediates of a model.
FEATURES = ("softmax", "logits")


def check_features(model: Model, settings: MeasureSettings, inputs: Any) -> None:
    """Raise `UserError` unless the model has the features that CKA is to compare; `inputs` are abstract."""
    if settings.similarity_features in FEATURES:
        return
    network = jax.eval_shape(model.init, jax.random.key(0))
    _, intermediates, _ = jax.eval_shape(lambda v, x: model.apply(v, x, False), network, inputs)
    check_choice("similarity_features", settings.similarity_features, [*FEATURES, *intermediates])


def compared_inputs(key: jax.Array, x: Any, num_samples: Any, settings: MeasureSettings) -> Any:
    """Return the inputs on which the outputs of networks are compared: mixup images of a subset of `num_samples`.

    Whole numbers, such as token ids, cannot be mixed: where there are any, the examples themselves, in the same order.
    """
    options = {"num_images": settings.similarity_images, "alpha": settings.mixup_alpha}
    if all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(x)):
        return jax.tree.map(lambda array: landscape.mixup(key, array, num_samples, **options), x)
    draws = landscape.draw_mixup(key, num_rows(x), num_samples, batch_size=128, **options)
    return take_rows(x, draws.first)


def make_outputs(
    model: Model, settings: MeasureSettings, batch_size: int, objective: ObjectiveLike = DEFAULT_OBJECTIVE
) -> Callable[..., Results]:
    """Return outputs and compared features of a network on mixup images; equal keys and subsets give equal images.

    `features` are there only if they are neither softmax outputs nor logits: one of the model's named intermediates,
    (images, ...) flattened. `batch_size` images, a divisor of all, go through the network at a time.
    """
    del objective  # outputs do not depend on it

    def measure(item: NetworkItem, data: Data) -> Results:
        key = jax.random.wrap_key_data(item.key)
        images = compared_inputs(key, data.x_train, item.num_samples, settings)
        if batch_size == settings.similarity_images:
            return outputs(item.variables, images)
        parts = jax.tree.map(lambda array: array.reshape(-1, batch_size, *array.shape[1:]), images)
        found = jax.lax.map(lambda part: outputs(item.variables, part), parts)
        return {name: value.reshape(-1, *value.shape[2:]) for name, value in found.items()}

    def compared(item: NetworkItem, data: Data) -> Results:
        found = measure(item, data)
        return found | {"features": _fewer_columns(found["features"])} if "features" in found else found

    def outputs(variables: Any, images: jax.Array) -> Results:
        logits, intermediates, _ = model.apply(variables, images, False)
        if (name := settings.similarity_features) in FEATURES:
            return {"logits": logits}
        return {"logits": logits, "features": intermediates[name].reshape(len(logits), -1)}

    return compared


def _fewer_columns(features: jax.Array) -> jax.Array:
    """Return features (n, d) with the same inner products of their rows, of at most n columns.

    CKA depends on nothing else, and those of all networks are kept until they are compared.
    """
    num_images, num_features = features.shape
    # By rows to (features, images): the triangle of its factorization has the inner products of the columns.
    return orthogonal_triangular(features.T)[1].T if num_features > num_images else features


def similarities(
    settings: MeasureSettings,
    logits: jax.Array,
    features: jax.Array | None,
    params: Any,
    objective: ObjectiveLike = DEFAULT_OBJECTIVE,
) -> Results:
    """Return the similarity of all pairs among k networks, (k, k) each.

    Networks agree where they predict the same class, or of labels that are there or not the same; of outputs that are
    no decision there is no agreement.

    Args:
        settings: what CKA compares, and how.
        logits: outputs, (k, images, ...).
        features: (k, images, ...), if they are an intermediate.
        params: of all networks, stacked.
        objective: what the outputs are.
    """
    functions = objective_functions(objective)
    if features is None:
        features = logits if settings.similarity_features == "logits" else _probabilities(logits, functions)
    found = {
        "cka": landscape.linear_cka(features, debiased=settings.similarity_debiased),
        "agreement": _agreement(logits, functions),
        "l2_distance": landscape.l2_distance(params),
    }
    return {name: value for name, value in found.items() if value is not None}


def _probabilities(outputs: jax.Array, objective: ObjectiveFunctions) -> jax.Array:
    """Return outputs as probabilities where they are logits, (k, images, ...)."""
    if objective.outputs != "logits":
        return outputs
    return jax.nn.sigmoid(outputs) if objective.targets in ("binary", "labels") else jax.nn.softmax(outputs)


def _agreement(outputs: jax.Array, objective: ObjectiveFunctions) -> jax.Array | None:
    """Return the share of decisions in which two networks agree, (k, k), from outputs (k, images, ...)."""
    if objective.outputs == "values":
        return None
    if objective.targets in ("binary", "labels"):
        middle = 0.0 if objective.outputs == "logits" else 0.5
        decisions = outputs.reshape(*outputs.shape[:1], -1, 1) - middle
        # Two columns whose larger one is the decision; NaN stays NaN.
        return landscape.agreement(jnp.concatenate([-decisions, decisions], -1))
    return landscape.agreement(outputs.reshape(len(outputs), -1, outputs.shape[-1]))
