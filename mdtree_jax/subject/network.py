"""A user's networks as `Subject`: any JAX model, wrapped in our interface and checked before anything is measured. JAX.

Networks come as a list of pytrees. One is either the parameters themselves, or a mapping with the key `params`, as
Flax has it, whose other collections (running averages) are its *state*.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mdtree_jax import landscape
from mdtree_jax.checks import UserError
from mdtree_jax.landscape.arguments import check_params
from mdtree_jax.models import Model

#: Images on which the model is tried before anything is measured.
TRIED_IMAGES = 64


class Subject(NamedTuple):
    """Networks of one architecture, trained in the same way from different seeds.

    Attributes:
        model: in the interface of `mdtree_jax.models`; `variables["batch_stats"]` is the state.
        variables: `{"params", "batch_stats"}` of each network, NumPy arrays.
        can_recompute: whether the state of a point between two networks can be made, or there is none.
        architecture: name of one of our architectures, empty for others.
    """

    model: Model
    variables: tuple[Any, ...]
    can_recompute: bool
    architecture: str = ""


class Examples(NamedTuple):
    """Images and labels of a user: (n, ...) floating point, (n,) int32; the test side may be empty (0, ...)."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def wrap(
    apply: Callable[[Any, Any], Any], networks: Sequence[Any], apply_train: Callable[[Any, Any], Any] | None = None
) -> Subject:
    """Return the subject of a function and the variables of its networks.

    Args:
        apply: `apply(variables, x) -> logits (n, classes)` in evaluation mode.
        networks: one pytree each, all of the same shapes.
        apply_train: `apply_train(variables, x) -> (logits, variables)` in training mode: of what it returns the
            collections beside `params` are used.

    Raises:
        UserError: no networks, networks that differ in structure or shapes, parameters that are not finite or not of
            floating point.
    """
    networks = _as_networks(networks)
    split = [_split(network) for network in networks]
    has_params = isinstance(networks[0], Mapping) and "params" in networks[0]
    variables = tuple({"params": _host(params), "batch_stats": _host(state)} for params, state in split)
    _check_alike(variables)
    _check_different(variables)
    for number, one in enumerate(variables):
        _check_numbers(one, number)

    has_state = bool(jax.tree.leaves(variables[0]["batch_stats"]))

    def theirs(ours: Any) -> Any:
        return {"params": ours["params"], **ours["batch_stats"]} if has_params else ours["params"]

    def ours(variables: Any, x: jax.Array, train: bool) -> tuple[jax.Array, dict, Any]:
        state = variables["batch_stats"]
        if not train or apply_train is None or not has_state:
            return apply(theirs(variables), x), {}, state
        logits, updated = apply_train(theirs(variables), x)
        return logits, {}, {name: updated.get(name, old) for name, old in state.items()}

    return Subject(Model(lambda key: variables[0], ours), variables, apply_train is not None or not has_state)


def wrap_model(model: Model, networks: Sequence[Any], architecture: str = "") -> Subject:
    """Return the subject of a network in our interface, one of our architectures or a user's `Model`.

    Raises `UserError` as `wrap`.
    """

    def apply(variables: Any, x: jax.Array) -> jax.Array:
        return model.apply({"batch_stats": {}, **variables}, x, False)[0]

    def apply_train(variables: Any, x: jax.Array) -> tuple[jax.Array, Any]:
        logits, _, state = model.apply(variables, x, True)
        return logits, {"batch_stats": state}

    return wrap(apply, networks, apply_train)._replace(architecture=architecture)


def examples(x_train: Any, y_train: Any, x_test: Any = None, y_test: Any = None, dtype: Any = np.float32) -> Examples:
    """Return checked images and labels.

    Raises:
        UserError: lengths that differ, no rows, images that are integers or not finite, labels that are no integers
            from 0, or of one class only; `x_test` without `y_test`, or of another shape.
    """
    if (x_test is None) != (y_test is None):
        raise UserError("x_test and y_test belong together; one of them is missing")
    train = _side("x_train", x_train, "y_train", y_train, dtype)
    if len(np.unique(train[1])) < 2:
        raise UserError(f"y_train holds only one class, {train[1][0]}; a diagnosis needs at least two")
    if x_test is None:
        return Examples(*train, train[0][:0], train[1][:0])
    test = _side("x_test", x_test, "y_test", y_test, dtype)
    if test[0].shape[1:] != train[0].shape[1:]:
        raise UserError(
            f"an image of x_test has shape {test[0].shape[1:]}, but one of x_train has {train[0].shape[1:]}; they must "
            "be equal"
        )
    return Examples(*train, *test)


def check_fit(subject: Subject, data: Examples) -> int:
    """Try every network on the first images and return the number of classes.

    Raises:
        UserError: `apply` fails or gives no logits (n, classes), logits that are not finite, labels without a logit,
            outputs that depend on the rest of the batch or change from call to call.
    """
    x = jnp.asarray(data.x_train[:TRIED_IMAGES])
    num_classes = 0
    for number, variables in enumerate(subject.variables):
        state = variables["batch_stats"]

        def apply(params: Any, x: Any, state: Any = state) -> Any:
            return subject.model.apply({"params": params, "batch_stats": state}, x, False)[0]

        if not number:
            num_classes = _num_classes(apply, variables["params"], x)
            if state and subject.can_recompute:
                _tried("apply_train(variables, x)", lambda x: subject.model.apply(variables, x, True)[0], x)  # noqa: B023
            landscape.check_apply(jax.jit(apply), variables["params"], x)
        elif not np.isfinite(np.asarray(jax.jit(apply)(variables["params"], x))).all():
            raise UserError(f"network {number + 1} gives logits that are not finite on the first {len(x)} images")
    for name, labels in (("y_train", data.y_train), ("y_test", data.y_test)):
        if len(labels) and labels.max() >= num_classes:
            raise UserError(
                f"{name} holds the label {labels.max()}, but the model gives {num_classes} logits, for the labels 0 to "
                f"{num_classes - 1}"
            )
    return num_classes


def _as_networks(networks: Any) -> list[Any]:
    if isinstance(networks, Mapping):
        return [networks]
    if not isinstance(networks, (list, tuple)):
        raise UserError(f"the networks are a {type(networks).__name__}; expected a list with the parameters of each")
    if not networks:
        raise UserError("the list of networks is empty; expected one or more, two for the metrics of pairs")
    if hasattr(networks[0], "shape"):
        raise UserError(
            "the list of networks holds arrays, not networks; expected a list with the parameters of each: [params]"
        )
    return list(networks)


def _split(network: Any) -> tuple[Any, dict[str, Any]]:
    if isinstance(network, Mapping) and "params" in network:
        return network["params"], {name: state for name, state in network.items() if name != "params"}
    return network, {}


def _host(tree: Any) -> Any:
    return jax.tree.map(np.asarray, tree)


def _check_alike(networks: Sequence[Any]) -> None:
    first = _shapes(networks[0])
    for number, network in enumerate(networks[1:], 2):
        other = _shapes(network)
        if missing := [name for name in first if name not in other] or [name for name in other if name not in first]:
            raise UserError(f"networks 1 and {number} have different parameters: '{missing[0]}' is in one only")
        wrong = [f"{name} {first[name]} and {other[name]}" for name in first if first[name] != other[name]]
        if wrong:
            raise UserError(f"networks 1 and {number} differ in shape: {', '.join(wrong[:3])}")


def _check_different(networks: Sequence[Any]) -> None:
    leaves = [jax.tree.leaves(network["params"]) for network in networks]
    for (i, a), (j, b) in itertools.combinations(enumerate(leaves, 1), 2):
        if all(map(np.array_equal, a, b)):
            raise UserError(
                f"networks {i} and {j} have the same parameters; give networks that were trained from different seeds"
            )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {leaf_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def leaf_name(path: Any) -> str:
    """Return a path of a pytree as text, `params/head/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _check_numbers(network: Any, number: int) -> None:
    check_params(network["params"])
    for path, leaf in jax.tree_util.tree_leaves_with_path(network):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise UserError(f"'{leaf_name(path)}' of network {number + 1} is of {leaf.dtype}; expected floating point")
        if not np.isfinite(leaf.astype(np.float64)).all():
            raise UserError(f"'{leaf_name(path)}' of network {number + 1} holds numbers that are not finite")


def _side(x_name: str, x: Any, y_name: str, y: Any, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x), np.asarray(y)
    if x.ndim < 2 or not len(x):
        raise UserError(f"{x_name} has shape {x.shape}; expected (n, ...) with at least one image")
    if not np.issubdtype(x.dtype, np.floating):
        raise UserError(f"{x_name} is of {x.dtype}; expected floating point, prepared as the model takes it")
    if not np.isfinite(x).all() or np.abs(x).max() > np.finfo(dtype).max:
        raise UserError(f"{x_name} holds numbers that are not finite as {np.dtype(dtype)}")
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        hint = "; convert one-hot labels with argmax" if y.ndim == 2 else ""
        raise UserError(
            f"{y_name} has shape {y.shape} and type {y.dtype}; expected integers of shape ({len(x)},){hint}"
        )
    if len(x) != len(y):
        raise UserError(f"{x_name} has {len(x)} rows and {y_name} has {len(y)}; expected as many")
    if y.min() < 0:
        raise UserError(f"{y_name} holds the label {y.min()}; labels count from 0")
    return x.astype(dtype), y.astype(np.int32)


def _num_classes(apply: Callable, params: Any, x: jax.Array) -> int:
    shape = _tried("apply(params, x)", apply, params, x).shape
    if len(shape) != 2 or shape[0] != len(x) or shape[1] < 2:
        raise UserError(f"apply(params, x) gives {shape} for {len(x)} images; expected logits of shape (n, classes)")
    return int(shape[1])


def _tried(what: str, function: Callable, *arguments: Any) -> Any:
    """Return the shapes that a user's function gives for arguments the last of which are images."""
    try:
        return jax.eval_shape(function, *arguments)
    except Exception as error:  # a user's code may raise anything
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{what} fails for images of shape {arguments[-1].shape}: {reason}") from error
