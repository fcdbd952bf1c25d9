"""A user's networks as `Subject`: any JAX model, wrapped in our interface and checked before anything is measured. JAX.

Networks come as a list of pytrees. One is either the parameters themselves, or a mapping with the key `params`, as
Flax has it, whose other collections (running averages) are its *state*.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mdtree_jax import landscape
from mdtree_jax.checks import UserError
from mdtree_jax.landscape.arguments import check_params
from mdtree_jax.landscape.batch_norm import check_averages
from mdtree_jax.models import Model
from mdtree_jax.subject.checkpoints import load_checkpoint
from mdtree_jax.subject.data import num_rows, take
from mdtree_jax.subject.frameworks import FUNCTIONS, Adapted, adapt, framework_of
from mdtree_jax.subject.frameworks.base import leaf_name, named_as, outputs_of, shapes_text
from mdtree_jax.subject.frameworks.functions import with_key

#: Images on which the model is tried before anything is measured.
TRIED_IMAGES = 64


class Subject(NamedTuple):
    """Networks of one architecture, trained in the same way from different seeds.

    Attributes:
        model: in the interface of `mdtree_jax.models`; `variables["batch_stats"]` is the state.
        variables: `{"params", "batch_stats"}` of each network, NumPy arrays.
        can_recompute: whether the state of a point between two networks can be made, or there is none.
        architecture: name of one of our architectures, empty for others.
        init: `init(key) -> {"params", "batch_stats"}`, fresh variables, on the host; None where there is no way to make
            them.
        apply_train: `apply_train({"params", "batch_stats"}, x, key) -> (outputs, batch_stats)` in training mode, the
            key that of dropout; None where there is no such mode.
        notes: sentences on what was assumed or changed to take the networks in.
    """

    model: Model
    variables: tuple[Any, ...]
    can_recompute: bool
    architecture: str = ""
    init: Callable[[Any], Any] | None = None
    apply_train: Callable[..., tuple[Any, Any]] | None = None
    notes: tuple[str, ...] = ()


_NONE = np.empty((0,), np.float32)


class Examples(NamedTuple):
    """Inputs and labels of a user: (n, ...), an array or a pytree of arrays, and (n,) int32; the test side may be empty
    (0, ...), and so may the validation set.
    """

    x_train: Any
    y_train: np.ndarray
    x_test: Any
    y_test: np.ndarray
    x_validation: Any = _NONE
    y_validation: np.ndarray = _NONE.astype(np.int32)


def subject_of(
    model: Any,
    networks: Any,
    x: Any,
    apply_train: Callable[..., Any] | None = None,
    init: Callable[[Any], Any] | None = None,
    build: Callable[..., Any] | None = None,
    **options: Any,
) -> Subject:
    """Return the subject of a model of any framework and its networks.

    Args:
        model: a model object, a function, or a pair of functions; see `frameworks.adapt`.
        networks: in the form of the framework, or paths of checkpoints.
        x: inputs as the model takes them, of which some are tried.
        apply_train: in training mode, for a function without one.
        init: `init(key) -> variables`, for a function.
        build: returns a fresh model, for frameworks whose models hold their weights.
        options: of `load_checkpoint`, for paths: `step`, `weights`.

    Raises:
        UserError: a model that cannot be used, checkpoints that are not of it, networks that differ.
    """
    if apply_train is not None or init is not None:
        model = (*(model if isinstance(model, tuple) else (model,)), apply_train, init)[:3]
    adapted = adapt(model, x, build)
    listed = as_networks(networks, adapted.framework)
    loaded = [_network_of(adapted, model, network, options) for network in listed]
    subject = wrap_adapted(adapted, [variables for variables, _ in loaded])
    return subject._replace(notes=(*subject.notes, *dict.fromkeys(note for _, notes in loaded for note in notes)))


def _network_of(adapted: Adapted, model: Any, network: Any, options: dict[str, Any]) -> tuple[Any, tuple[str, ...]]:
    """Return the variables of a network, read first if it is a path, and sentences on what was chosen."""
    what, notes, choice = "a network", (), network
    if isinstance(network, (str, os.PathLike)):
        loaded = load_checkpoint(network, model, **options)
        what, notes, choice = f"the checkpoint '{network}'", loaded.notes, loaded.network
    choice, renamed = named_as(choice, adapted.names)
    try:
        return adapted.variables(choice), (*notes, *renamed)
    except UserError as error:
        raise UserError(f"{what} is not of this model: {error}") from None


def wrap_adapted(adapted: Adapted, networks: Sequence[Any]) -> Subject:
    """Return the subject of an adapted model and the variables of its networks; raises `UserError` as `wrap`."""
    subject = wrap(adapted.apply, networks, adapted.apply_train, adapted.init)
    return subject._replace(notes=(*adapted.notes, *subject.notes))


def wrap(
    apply: Callable[[Any, Any], Any],
    networks: Sequence[Any],
    apply_train: Callable[..., Any] | None = None,
    init: Callable[[Any], Any] | None = None,
) -> Subject:
    """Return the subject of a function and the variables of its networks.

    Args:
        apply: `apply(variables, x) -> logits (n, classes)` in evaluation mode.
        networks: one pytree each, all of the same shapes.
        apply_train: `apply_train(variables, x[, key]) -> (logits, variables)` in training mode: of what it returns the
            collections beside `params` are used.
        init: `init(key) -> variables`, fresh ones.

    Raises:
        UserError: no networks, networks that differ in structure or shapes, parameters that are not finite or not of
            floating point.
    """
    networks = as_networks(networks)
    has_params = isinstance(networks[0], Mapping) and "params" in networks[0]
    halves: set[str] = set()
    variables = tuple(_ours(network, halves) for network in networks)
    _check_alike(variables)
    _check_different(variables)
    for number, one in enumerate(variables):
        _check_numbers(one, number)

    has_state = bool(jax.tree.leaves(variables[0]["batch_stats"]))
    in_training = None if apply_train is None else with_key(apply_train)

    def theirs(ours: Any) -> Any:
        return {"params": ours["params"], **ours["batch_stats"]} if has_params else ours["params"]

    def ours(variables: Any, x: jax.Array, train: bool) -> tuple[jax.Array, dict, Any]:
        state = variables["batch_stats"]
        if not train or in_training is None or not has_state:
            return _full(outputs_of(apply(theirs(variables), x))), {}, state
        logits, state = trained(variables, x)
        return logits, {}, state

    def trained(variables: Any, x: Any, key: Any = None) -> tuple[jax.Array, Any]:
        assert in_training is not None  # asked of before
        logits, updated = in_training(theirs(variables), x, key)
        old = variables["batch_stats"]
        return _full(outputs_of(logits)), {name: updated.get(name, leaf) for name, leaf in old.items()}

    return Subject(
        Model(lambda key: variables[0], ours),
        variables,
        apply_train is not None or not has_state,
        init=None if init is None else lambda key: _ours(init(key), set()),
        apply_train=None if in_training is None else trained,
        notes=tuple(f"the weights are of {kind} and are measured in float32" for kind in sorted(halves)),
    )


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


def examples(
    x_train: Any,
    y_train: Any,
    x_test: Any = None,
    y_test: Any = None,
    dtype: Any = np.float32,
    x_validation: Any = None,
    y_validation: Any = None,
) -> Examples:
    """Return checked inputs and labels; inputs of whole numbers or booleans, such as token ids, become int32.

    Raises:
        UserError: lengths that differ, no rows, inputs that are not finite, labels that are no integers
            from 0, or of one class only; `x_test` without `y_test`, or of another shape.
    """
    if (x_test is None) != (y_test is None):
        raise UserError("x_test and y_test belong together; one of them is missing")
    train = _side("x_train", x_train, "y_train", y_train, dtype)
    if len(np.unique(train[1])) < 2:
        raise UserError(f"y_train holds only one class, {train[1][0]}; a diagnosis needs at least two")
    if x_test is None:
        return Examples(*train, take(train[0], slice(0)), train[1][:0])
    test = _side("x_test", x_test, "y_test", y_test, dtype)
    _check_shapes_alike("x_test", test[0], train[0])
    if x_validation is None:
        return Examples(*train, *test)
    validation = _side("x_validation", x_validation, "y_validation", y_validation, dtype)
    _check_shapes_alike("x_validation", validation[0], train[0])
    return Examples(*train, *test, *validation)


def _check_shapes_alike(name: str, x: Any, x_train: Any) -> None:
    shapes = [[a.shape[1:] for a in jax.tree.leaves(tree)] for tree in (x, x_train)]
    if jax.tree.structure(x) != jax.tree.structure(x_train):
        raise UserError(f"{name} has other parts than x_train; they must be equal")
    for ours, theirs in zip(*shapes, strict=True):
        if ours != theirs:
            raise UserError(f"an image of {name} has shape {ours}, but one of x_train has {theirs}; they must be equal")


def check_fit(subject: Subject, data: Examples) -> int:
    """Try every network on the first images and return the number of classes.

    Raises:
        UserError: `apply` fails or gives no logits (n, classes), logits that are not finite, labels without a logit,
            outputs that depend on the rest of the batch or change from call to call.
    """
    x = tried_inputs(data)
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
            raise UserError(f"network {number + 1} gives logits that are not finite on the first {num_rows(x)} images")
    for name, labels in (("y_train", data.y_train), ("y_test", data.y_test)):
        if len(labels) and labels.max() >= num_classes:
            raise UserError(
                f"{name} holds the label {labels.max()}, but the model gives {num_classes} logits, for the labels 0 to "
                f"{num_classes - 1}"
            )
    return num_classes


def tried_inputs(data: Examples) -> Any:
    """Return the first inputs, on which models are tried."""
    return jax.tree.map(jnp.asarray, take(data.x_train, slice(TRIED_IMAGES)))


def unlike_averages(subject: Subject, x: Any) -> list[str]:
    """Return the names of the state that cannot be recomputed between two networks, on some inputs; see `landscape`."""

    def apply_train(variables: Any, x: Any) -> tuple[Any, Any]:
        outputs, _, state = subject.model.apply(variables, x, True)
        return outputs, {"batch_stats": state}

    variables = subject.variables[0]
    if not subject.can_recompute or not jax.tree.leaves(variables["batch_stats"]):
        return []
    return check_averages(jax.jit(apply_train), variables, x)


def as_networks(networks: Any, framework: str = "functions") -> list[Any]:
    """Return a list of networks, also of a single one; raises `UserError` for none, and for what is no network."""
    if isinstance(networks, (Mapping, str, os.PathLike)) or framework_of(networks) not in (None, FUNCTIONS):
        return [networks]
    if framework != "functions" and isinstance(networks, (list, tuple)) and networks:
        return list(networks)
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


def _ours(network: Any, halves: set[str]) -> dict[str, Any]:
    """Return a network as `{"params", "batch_stats"}` of NumPy arrays, floats of fewer bits as float32.

    The names of their types are added to `halves`.
    """

    def host(leaf: Any) -> np.ndarray:
        array = np.asarray(leaf)
        if jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.itemsize < 4:
            halves.add(str(array.dtype))
            return array.astype(np.float32)
        return array

    params, state = _split(network)
    return {"params": jax.tree.map(host, params), "batch_stats": jax.tree.map(host, state)}


def _full(outputs: jax.Array) -> jax.Array:
    """Return outputs in at least float32."""
    is_half = jnp.issubdtype(outputs.dtype, jnp.floating) and outputs.dtype.itemsize < 4
    return outputs.astype(jnp.float32) if is_half else outputs


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


def _check_numbers(network: Any, number: int) -> None:
    check_params(network["params"])
    for path, leaf in jax.tree_util.tree_leaves_with_path(network):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            continue
        if not np.isfinite(leaf.astype(np.float64)).all():
            raise UserError(f"'{leaf_name(path)}' of network {number + 1} holds numbers that are not finite")


def _side(x_name: str, x: Any, y_name: str, y: Any, dtype: Any) -> tuple[Any, np.ndarray]:
    if not isinstance(x, (Mapping, tuple)):
        x = _input(x_name, x, dtype)
    else:
        x = jax.tree_util.tree_map_with_path(lambda path, a: _input(f"{x_name}/{leaf_name(path)}", a, dtype), x)
    y = np.asarray(y)
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        hint = "; convert one-hot labels with argmax" if y.ndim == 2 else ""
        raise UserError(
            f"{y_name} has shape {y.shape} and type {y.dtype}; expected integers of shape ({num_rows(x)},){hint}"
        )
    for rows in (len(array) for array in jax.tree.leaves(x)):
        if rows != len(y):
            raise UserError(f"{x_name} has {rows} rows and {y_name} has {len(y)}; expected as many")
    if y.min() < 0:
        raise UserError(f"{y_name} holds the label {y.min()}; labels count from 0")
    return x, y.astype(np.int32)


def _input(name: str, x: Any, dtype: Any) -> np.ndarray:
    """Return one array of inputs, floating point as `dtype` and whole numbers as int32."""
    x = np.asarray(x)
    if x.ndim < 1 or not len(x):
        raise UserError(f"{name} has shape {x.shape}; expected (n, ...) with at least one image")
    if x.dtype.kind in "iub":
        if x.dtype.kind != "b" and (x.min() < -(2**31) or x.max() >= 2**31):
            raise UserError(f"{name} holds whole numbers beyond 32 bits")
        return x.astype(np.int32)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise UserError(f"{name} is of {x.dtype}; expected numbers, prepared as the model takes them")
    if not np.isfinite(x).all() or np.abs(x).max() > np.finfo(dtype).max:
        raise UserError(f"{name} holds numbers that are not finite as {np.dtype(dtype)}")
    return x.astype(dtype)


def _num_classes(apply: Callable, params: Any, x: Any) -> int:
    shape = _tried("apply(params, x)", apply, params, x).shape
    if len(shape) != 2 or shape[0] != num_rows(x) or shape[1] < 2:
        raise UserError(
            f"apply(params, x) gives {shape} for {num_rows(x)} images; expected logits of shape (n, classes)"
        )
    return int(shape[1])


def _tried(what: str, function: Callable, *arguments: Any) -> Any:
    """Return the shapes that a user's function gives for arguments the last of which are images."""
    try:
        return jax.eval_shape(function, *arguments)
    except Exception as error:  # a user's code may raise anything
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{what} fails for images of shape {shapes_text(arguments[-1])}: {reason}") from error
