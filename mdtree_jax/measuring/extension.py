"""Kernels from outside the package: the arguments of their functions, and how their results become columns. JAX.

The function of a kernel that needs a network is `function(network) -> scalar`; for a pair, it is
`function(pair) -> scalar`. It must be a pure JAX function of arrays, so that it can be compiled for many networks at
once. A kernel with several measurements returns a dictionary of scalars, by name. Values that are not finite are
counted, and left out of the means, as for every other kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from mdtree_jax.checks import UserError
from mdtree_jax.measuring.kernels import Binding, Data, NetworkItem, PairItem, Results, hessian_batch, make_loss
from mdtree_jax.measuring.trained import TrainedItem
from mdtree_jax.models import Model
from mdtree_jax.population.programs import hyperparameter_shapes
from mdtree_jax.recipe.measure_settings import MeasureSettings
from mdtree_jax.registry.kernels import KERNELS, function_of
from mdtree_jax.registry.measurements import of_kernel
from mdtree_jax.registry.objectives import DEFAULT_OBJECTIVE
from mdtree_jax.training import Hyperparameters, ObjectiveLike


class Network(NamedTuple):
    """A trained network, as passed to the function of a kernel.

    Attributes:
        params: its parameters, a pytree.
        batch_stats: its running averages of BatchNorm, a pytree; empty if it has none.
        batch: inputs (n, ...), for images (n, height, width, channels), and targets, for classes labels (n,): the
            first `grid.measure.hessian_images` of its training subset, repeated if the subset is smaller.
        loss: `loss(params)`, the objective's mean on the batch (for classes the cross-entropy in nats), without weight
            decay, BatchNorm in evaluation mode.
        outputs: `outputs(x)` of this network, for classes logits (images, classes), BatchNorm in evaluation mode.
        key: of `jax.random`; depends on `grid.measure.seed`, the network's seed and the size of its subset.
        hyperparameters: of its training: `learning_rate`, `weight_decay`, `num_samples` and further batched `knobs`,
            for a kernel that needs `training_settings`; else None.
    """

    params: Any
    batch_stats: Any
    batch: tuple[Any, jax.Array]
    loss: Callable[[Any], jax.Array]
    outputs: Callable[[Any], jax.Array]
    key: jax.Array
    hyperparameters: Hyperparameters | None = None


class Pair(NamedTuple):
    """Two networks of one configuration, trained from different seeds, as passed to the function of a kernel.

    Attributes:
        first, second: the networks, with the same batch.
        key: of `jax.random`; depends on `grid.measure.seed`, both seeds and the size of the subset.
    """

    first: Network
    second: Network
    key: jax.Array


def binding_of(name: str) -> Binding:
    """Return the program of a kernel that was registered with a function."""
    function, of_pairs = function_of(name), KERNELS[name].is_of_pairs
    assert function is not None  # of a kernel from outside

    def make(
        model: Model, settings: MeasureSettings, objective: ObjectiveLike = DEFAULT_OBJECTIVE
    ) -> Callable[..., Results]:
        def view(variables: Any, item: NetworkItem | TrainedItem | PairItem, data: Data) -> Network:
            batch = hessian_batch(item, data, settings)
            loss = make_loss(model, variables["batch_stats"], objective, batch[1])
            return Network(
                variables["params"],
                variables["batch_stats"],
                batch,
                lambda params: loss(params, batch),
                lambda x: model.apply(variables, x, False)[0],
                jax.random.wrap_key_data(item.key),
                item.hparams if isinstance(item, TrainedItem) else None,
            )

        def measure_network(item: NetworkItem | TrainedItem, data: Data) -> Results:
            return _results(name, function(view(item.variables, item, data)))

        def measure_pair(item: PairItem, data: Data) -> Results:
            first, second = (view(variables, item, data) for variables in (item.first, item.second))
            return _results(name, function(Pair(first, second, first.key)))

        return measure_pair if of_pairs else measure_network

    return Binding(make)


def _results(name: str, found: Any) -> Results:
    """Return what a function returned as results by measurement; raise `UserError` if they are not its scalars."""
    wanted = of_kernel(name)
    if not isinstance(found, Mapping):
        found = {wanted[0] if len(wanted) == 1 else name: found}
    if {*found} != {*wanted}:
        raise UserError(
            f"the function of kernel '{name}' returns {', '.join(map(repr, found))}, and its measurements are "
            f"{', '.join(map(repr, wanted)) or 'none'}"
        )
    for key, value in found.items():
        if np.shape(value) != ():
            raise UserError(
                f"the function of kernel '{name}' returns an array of shape {np.shape(value)} for '{key}'; expected a "
                "scalar"
            )
    return {key: jax.numpy.asarray(value) for key, value in found.items()}


def check_extensions(
    model: Model, settings: MeasureSettings, examples: tuple[Any, Any], objective: ObjectiveLike = DEFAULT_OBJECTIVE
) -> None:
    """Raise `UserError` unless the kernels from outside return scalars for networks and (abstract) examples."""
    network = jax.eval_shape(model.init, jax.random.key(0))
    count, key = jax.ShapeDtypeStruct((), np.int32), jax.ShapeDtypeStruct((2,), np.uint32)
    for name in settings.metrics:
        if function_of(name) is not None:
            of_pairs = KERNELS[name].is_of_pairs
            item: Any = PairItem(network, network, count, key) if of_pairs else NetworkItem(network, count, key)
            if "training_settings" in KERNELS[name].needs and not of_pairs:
                dtype = str(jax.tree.leaves(network["params"])[0].dtype)
                item = TrainedItem(network, count, key, network, hyperparameter_shapes((), dtype), count)
            measure = binding_of(name).make(model, settings, objective=objective)
            jax.eval_shape(measure, item, Data(*examples, *examples))
