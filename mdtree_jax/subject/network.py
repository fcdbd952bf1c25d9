"""A user's networks as `Subject`: any JAX model, wrapped in our interface and checked before anything is measured. JAX.

Networks come as a list of pytrees. One is either the parameters themselves, or a mapping with the key `params`, as
Flax has it, whose other collections (running averages) are its *state*.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mdtree_jax import landscape
from mdtree_jax.checks import UserError
from mdtree_jax.data.checked import targets_for
from mdtree_jax.landscape.arguments import check_params
from mdtree_jax.models import Model
from mdtree_jax.registry.objectives import DEFAULT_OBJECTIVE, TARGETS, Objective, find_objective
from mdtree_jax.subject.frameworks.base import leaf_name, outputs_of, shapes_text
from mdtree_jax.subject.frameworks.functions import with_key
from mdtree_jax.training import objective_functions
from mdtree_jax.training.arrays import in_dtype, num_rows, take_rows

#: Images on which the model is tried before anything is measured.
TRIED_IMAGES = 64


class Subject(NamedTuple):
    """Networks of one architecture, trained in the same way from different seeds.

    Attributes:
        model: in the interface of `mdtree_jax.models`; `variables["batch_stats"]` is the state.
        variables: `{"params", "batch_stats"}` of each network, NumPy arrays.
        can_recompute: whether the state of a point between two networks can be made, or there is none.
        architecture: name of one of our architectures, empty for others.
        objective: what the networks were trained for: a name of `registry.objectives`, or an `Objective`.
        init: `init(key) -> {"params", "batch_stats"}`, fresh variables, on the host; None where there is no way to make
            them.
        apply_train: `apply_train({"params", "batch_stats"}, x, key) -> (outputs, batch_stats)` in training mode, the
            key that of dropout; None where there is no such mode.
        notes: sentences on what was assumed or changed to take the networks in.
        given_form: `given_form({"params", "batch_stats"})`, a network in the form in which the given ones came, where
            that is a pytree; None for our own form.
    """

    model: Model
    variables: tuple[Any, ...]
    can_recompute: bool
    architecture: str = ""
    objective: str | Objective = DEFAULT_OBJECTIVE
    init: Callable[[Any], Any] | None = None
    apply_train: Callable[..., tuple[Any, Any]] | None = None
    notes: tuple[str, ...] = ()
    given_form: Callable[[Any], Any] | None = None


_NONE = np.empty((0,), np.float32)


class Examples(NamedTuple):
    """Inputs and targets of a user; the test side may be empty (0, ...), and so may the validation set.

    Inputs are an array (n, ...) or a pytree of them, floating point or int32; targets (n, ...) too.
    """

    x_train: Any
    y_train: np.ndarray
    x_test: Any
    y_test: np.ndarray
    x_validation: Any = _NONE
    y_validation: np.ndarray = _NONE


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
        given_form=theirs,
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

    return wrap(apply, networks, apply_train, model.init)._replace(architecture=architecture)


def examples(
    x_train: Any,
    y_train: Any,
    x_test: Any = None,
    y_test: Any = None,
    dtype: Any = np.float32,
    objective: str | Objective = DEFAULT_OBJECTIVE,
    x_validation: Any = None,
    y_validation: Any = None,
) -> Examples:
    """Return checked inputs and targets.

    Args:
        x_train: an array (n, ...), or a mapping or tuple of them: floating point, or integers such as token ids.
        y_train: (n, ...), what the objective takes.
        x_test, y_test: the same of the test set, or None.
        dtype: of floating-point arrays.
        objective: its name, or a user's own.
        x_validation, y_validation: the same of the validation set, or None.

    Raises:
        UserError: lengths that differ, no rows, images that are integers, numbers that are not finite, targets of
            another kind than the objective's, such as labels that are no integers from 0, or all the same;
            `x_test` without `y_test`, or of another shape.
    """
    entry = find_objective(objective)
    if (x_test is None) != (y_test is None):
        raise UserError("x_test and y_test belong together; one of them is missing")
    train = _side("x_train", x_train, "y_train", y_train, dtype, entry)
    if (train[1] == train[1][:1]).all():
        if entry.targets == "class" and train[1].ndim == 1:
            raise UserError(f"y_train holds only one class, {train[1][0]}; a diagnosis needs at least two")
        raise UserError(f"y_train holds {train[1][0].tolist()} only; a diagnosis needs targets that differ")
    test, validation = take_rows(train, slice(0)), take_rows(train, slice(0))
    if x_test is not None:
        test = _side("x_test", x_test, "y_test", y_test, dtype, entry)
        _check_shapes_alike("x_test", test[0], train[0])
    if x_validation is not None:
        validation = _side("x_validation", x_validation, "y_validation", y_validation, dtype, entry)
        _check_shapes_alike("x_validation", validation[0], train[0])
    return Examples(*train, *test, *validation)


def _check_shapes_alike(name: str, x: Any, x_train: Any) -> None:
    if jax.tree.structure(x) != jax.tree.structure(x_train):
        raise UserError(f"{name} and x_train hold other arrays; they must have the same names")
    for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(x_train), strict=True):
        if a.shape[1:] != b.shape[1:]:
            raise UserError(
                f"an image of {name} has shape {a.shape[1:]}, but one of x_train has {b.shape[1:]}; they must be equal"
            )


def check_fit(subject: Subject, data: Examples) -> int:
    """Try every network on the first examples and return the number of outputs: of classes, or for each place.

    Raises:
        UserError: `apply` fails or gives outputs of another shape than the objective takes (for classes logits
            (n, classes)), outputs that are not finite or are probabilities where logits are expected, labels without a
            logit, outputs that depend on the rest of the batch or change from call to call.
    """
    x = tried_inputs(data)
    objective, num_outputs = find_objective(subject.objective), 0
    for number, variables in enumerate(subject.variables):
        state = variables["batch_stats"]

        def apply(params: Any, x: Any, state: Any = state) -> Any:
            return subject.model.apply({"params": params, "batch_stats": state}, x, False)[0]

        if not number:
            num_outputs = _num_outputs(apply, variables["params"], x, data.y_train, objective)
            if state and subject.can_recompute:
                _tried("apply_train(variables, x)", lambda x: subject.model.apply(variables, x, True)[0], x)  # noqa: B023
            landscape.check_apply(jax.jit(apply), variables["params"], x)
            _check_logits(np.asarray(jax.jit(apply)(variables["params"], x)), objective)
        elif not np.isfinite(np.asarray(jax.jit(apply)(variables["params"], x))).all():
            word = "logits" if objective.has_classes else "outputs"
            raise UserError(f"network {number + 1} gives {word} that are not finite on the first {num_rows(x)} images")
    for name, labels in (("y_train", data.y_train), ("y_test", data.y_test)):
        if objective.has_classes and np.issubdtype(labels.dtype, np.integer) and labels.max(initial=0) >= num_outputs:
            raise UserError(
                f"{name} holds the label {labels.max()}, but the model gives {num_outputs} logits, for the labels 0 to "
                f"{num_outputs - 1}"
            )
    return num_outputs


def tried_inputs(data: Examples) -> Any:
    """Return the first inputs, on which models are tried."""
    return jax.tree.map(jnp.asarray, take_rows(data.x_train, slice(TRIED_IMAGES)))


def as_networks(networks: Any) -> list[Any]:
    """Return a list of networks, also of a single one; raises `UserError` for none, and for what is no network."""
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
    """Return outputs in float32 or more."""
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


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {leaf_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _check_numbers(network: Any, number: int) -> None:
    check_params(network["params"])
    for path, leaf in jax.tree_util.tree_leaves_with_path(network):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            continue
        if not np.isfinite(leaf.astype(np.float64)).all():
            raise UserError(f"'{leaf_name(path)}' of network {number + 1} holds numbers that are not finite")


def _side(x_name: str, x: Any, y_name: str, y: Any, dtype: Any, objective: Objective) -> tuple[Any, np.ndarray]:
    x = x if isinstance(x, (Mapping, tuple)) else np.asarray(x)  # a list is one array
    y, leaves = np.asarray(y), jax.tree_util.tree_leaves_with_path(x)
    for path, leaf in leaves:
        _check_inputs(x_name if len(leaves) == 1 else f"{x_name}['{leaf_name(path)}']", np.asarray(leaf), dtype)
    lengths = {len(leaf) for _, leaf in leaves}
    if len(lengths) != 1:
        raise UserError(f"{x_name} holds arrays of {', '.join(map(str, sorted(lengths)))} rows; they must be equal")
    (number,) = lengths
    are_labels = y.ndim == 1 and np.issubdtype(y.dtype, np.integer)
    are_shares = y.ndim == 2 and np.issubdtype(y.dtype, np.floating)
    if objective.targets == "class" and not (are_labels or are_shares):
        hint = "; convert one-hot labels with argmax" if y.ndim == 2 else ""
        hint = "; of numbers, give objective='regression'" if y.dtype.kind == "f" else hint
        raise UserError(
            f"{y_name} has shape {y.shape} and type {y.dtype}; expected integers of shape ({number},){hint}"
        )
    if number != len(y):
        raise UserError(f"{x_name} has {number} rows and {y_name} has {len(y)}; expected as many")
    if objective.targets == "class" and y.ndim == 1 and y.min() < 0:
        raise UserError(f"{y_name} holds the label {y.min()}; labels count from 0")
    one = TARGETS[objective.targets].one
    y = targets_for(objective, y, number, f"the {one}s of {y_name}", f"a {one} of {y_name}")
    return in_dtype(x, dtype), in_dtype(y, dtype)


def _check_inputs(name: str, x: np.ndarray, dtype: Any) -> None:
    """Raise `UserError` unless an array holds inputs: finite floating-point numbers, or integers that are no images."""
    if x.ndim < (1 if "[" in name else 2) or not len(x):
        raise UserError(f"{name} has shape {x.shape}; expected (n, ...) with at least one image")
    if not np.issubdtype(x.dtype, np.floating):
        if x.dtype.kind not in "ib" or x.ndim > 3:
            raise UserError(
                f"{name} is of {x.dtype}; expected floating point, prepared as the model takes it, or int32 token ids"
            )
    elif not np.isfinite(x).all() or np.abs(x).max() > np.finfo(dtype).max:
        raise UserError(f"{name} holds numbers that are not finite as {np.dtype(dtype)}")


def _num_outputs(apply: Callable, params: Any, x: Any, y: np.ndarray, objective: Objective) -> int:
    """Return the number of outputs for an example, or a place of a sequence; raises `UserError` for another shape."""
    outputs, number = _tried("apply(params, x)", apply, params, x), num_rows(x)
    shape, few = outputs.shape, y[:number]
    if objective.targets == "class":
        wanted, good = "logits of shape (n, classes)", len(shape) == 2 and shape[0] == number and shape[1] >= 2
        good &= few.ndim == 1 or few.shape == shape
    elif objective.targets == "tokens":
        wanted, good = "logits of shape (n, time, vocabulary)", shape[:-1] == few.shape and len(shape) == 3
    elif objective.targets == "any":
        wanted, good = "an output for each example, (n, ...)", len(shape) > 0 and shape[0] == number
    else:
        wanted = f"an output for each target, {('n', *few.shape[1:])}".replace("'", "")
        good = len(shape) > 0 and shape[0] == number and math.prod(shape) == few.size
    if not good:
        raise UserError(f"apply(params, x) gives {shape} for {number} images; expected {wanted}")
    functions = objective_functions(objective)
    for role, function in (("loss", functions.loss), ("error", functions.error)):
        found = _tried(f"{role}(outputs, targets) of objective '{objective.name}'", function, outputs, jnp.asarray(few))
        if getattr(found, "shape", None) != (number,):
            raise UserError(
                f"{role}(outputs, targets) of objective '{objective.name}' gives the shape "
                f"{getattr(found, 'shape', None)} for {number} examples; expected a number for each, ({number},)"
            )
    return int(shape[-1]) if len(shape) > 1 else 1


def _check_logits(outputs: np.ndarray, objective: Objective) -> None:
    """Raise `UserError` for outputs that are probabilities of classes where logits are expected.

    A loss of the user's own is the one of the training: where it applies a softmax itself, the other one is a fault of
    the network, which a finding tells.
    """
    takes_logits = objective.has_classes and objective.outputs == "logits" and objective.loss is None
    if takes_logits and outputs.min() >= 0 and np.allclose(outputs.sum(-1), 1, atol=1e-3):
        raise UserError(
            "the outputs are probabilities (rows that add up to 1), and logits are expected; leave the softmax out (a "
            f"loss that applies one itself learns badly behind it), or give objective=Objective('{objective.name}', "
            "outputs='probabilities')"
        )


def _tried(what: str, function: Callable, *arguments: Any) -> Any:
    """Return the shapes that a user's function gives for arguments the last of which are images."""
    try:
        return jax.eval_shape(function, *arguments)
    except Exception as error:  # a user's code may raise anything
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{what} fails for images of shape {shapes_text(arguments[-1])}: {reason}") from error
