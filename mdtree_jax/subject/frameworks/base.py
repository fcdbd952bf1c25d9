"""What an adapter of a framework gives, and what adapters share: modes of a call, outputs, parameters by name. JAX."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mdtree_jax.checks import UserError, nearest


class Adapted(NamedTuple):
    """A model of any framework as pure functions of its variables.

    `variables` are `{"params": ..., other collections}`: floating-point parameters, and a state of arrays of any type.
    In training mode those leaves of the state that are running averages are updated by
    new = m * old + (1 - m) * batch, with m in [0, 1); all others stay as they are.

    Attributes:
        apply: `apply(variables, x) -> outputs (batch, ...)` in evaluation mode.
        apply_train: `apply_train(variables, x, key=None) -> (outputs, variables)` in training mode; without a key,
            dropout has one fixed mask. None where the model has no such mode.
        variables: `variables(network) -> variables` of a network in any form that the framework has for it: a model
            object, its state, a nested or flat mapping of names to arrays. Raises `UserError` for another architecture.
        init: `init(key) -> variables`, fresh ones; None where there is no way to make them.
        framework: name of the entry of `FRAMEWORKS`.
        names: of all arrays that `variables` takes, `layer/kernel`; empty where they are not known.
        notes: sentences on what the adapter had to assume.
    """

    apply: Callable[[Any, Any], Any]
    apply_train: Callable[..., tuple[Any, Any]] | None
    variables: Callable[[Any], Any]
    init: Callable[[Any], Any] | None
    framework: str
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


#: Argument of a call that sets its mode -> its value, for `train` or not.
MODES: dict[str, Callable[[bool], bool]] = {
    "train": lambda train: train,
    "training": lambda train: train,
    "is_training": lambda train: train,
    "deterministic": lambda train: not train,
    "inference": lambda train: not train,
    "use_running_average": lambda train: not train,
}


def mode_options(call: Callable[..., Any], train: bool) -> dict[str, bool]:
    """Return the arguments of a call that set its mode.

    >>> mode_options(lambda x, train=False, deterministic=True: x, train=True)
    {'train': True, 'deterministic': False}
    """
    try:
        parameters = inspect.signature(call).parameters
    except (TypeError, ValueError):
        return {}
    return {name: value(train) for name, value in MODES.items() if name in parameters}


def call_inputs(x: Any, call: Callable[..., Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments for inputs: a tuple as several, a mapping by keyword if the call has these names.

    >>> call_inputs({"ids": 1, "mask": 2}, lambda ids, mask: None), call_inputs({"ids": 1}, lambda batch: None)
    (((), {'ids': 1, 'mask': 2}), (({'ids': 1},), {}))
    """
    if isinstance(x, tuple):
        return x, {}
    if isinstance(x, Mapping):
        try:
            parameters = inspect.signature(call).parameters
        except (TypeError, ValueError):
            parameters = {}
        if x and all(name in parameters for name in x):
            return (), dict(x)
    return (x,), {}


def outputs_of(output: Any) -> Any:
    """Return the array of outputs in what a model returns: itself, `.logits`, `["logits"]`, or the first of a tuple."""
    if isinstance(output, Mapping):
        if not output:
            return output
        return output["logits"] if "logits" in output else next(iter(output.values()))
    if hasattr(output, "logits"):
        return output.logits
    return outputs_of(output[0]) if isinstance(output, (tuple, list)) and output else output


def fixed_key(key: Any) -> Any:
    """Return the key, or the one of the fixed mask of dropout."""
    return jax.random.key(0) if key is None else key


def rows_of(x: Any, num_rows: int) -> Any:
    """Return the first rows of inputs, repeated where there are fewer."""
    return jax.tree.map(lambda a: np.resize(np.asarray(a)[:num_rows], (num_rows, *np.shape(a)[1:])), x)


def tried(what: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return the shapes that a model's function gives; raises `UserError` that opens with `what` where it fails."""
    try:
        return jax.eval_shape(function, *arguments)
    except UserError:
        raise
    except Exception as error:  # a user's code may raise anything
        raise UserError(f"{what}: {reason(error)}") from error


def reason(error: BaseException | None) -> str:
    """Return what an exception says, in one line of at most 200 characters."""
    return " ".join(f"{error or type(error).__name__}".split())[:200]


def shapes_text(x: Any) -> str:
    """Return the shapes of inputs in words.

    >>> shapes_text(np.zeros((2, 3))), shapes_text({"ids": np.zeros((2, 3)), "mask": np.zeros((2, 1))})
    ('(2, 3)', 'ids (2, 3), mask (2, 1)')
    """
    named = [(leaf_name(path), jnp.shape(leaf)) for path, leaf in jax.tree_util.tree_leaves_with_path(x)]
    return ", ".join(f"{name} {shape}".strip() for name, shape in named)


def leaf_name(path: Any) -> str:
    """Return a path of a pytree as text, `params/head/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named_leaves(tree: Any) -> dict[str, Any]:
    """Return the arrays of a pytree by name, `a/b/c`; a dot in a key counts as a slash."""
    return {leaf_name(path).replace(".", "/"): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def fit_names(given: Mapping[str, Any], wanted: Mapping[str, Any], optional: Iterable[str] = ()) -> dict[str, Any]:
    """Return the arrays of a network under the names that its model has for them.

    Args:
        given: name -> array.
        wanted: name -> array or abstract array, of the model.
        optional: names of which the model's own array is used where none is given.

    Raises:
        UserError: names that are missing or not the model's, and other shapes; the first is named, with its shape and
            the nearest name that there is.
    """
    optional = set(optional)
    missing = [name for name in wanted if name not in given and name not in optional]
    unknown = [name for name in given if name not in wanted]
    if missing or unknown:
        raise UserError(_strangers(missing, unknown, given, wanted))
    for name, array in wanted.items():
        if name in given and tuple(np.shape(given[name])) != tuple(np.shape(array)):
            raise UserError(f"'{name}' has shape {tuple(np.shape(given[name]))} instead of {tuple(array.shape)}")
    return {name: given.get(name, array) for name, array in wanted.items()}


def fit_tree(network: Any, wanted: Any) -> Any:
    """Return a network's arrays in the containers of `wanted`, by their names; raises `UserError` as `fit_names`."""
    names = named_leaves(wanted)
    arrays = fit_names(named_leaves(network), names)
    return jax.tree.structure(wanted).unflatten([arrays[name] for name in names])


#: What training code and savers put before the names of a network's arrays.
PREFIXES = ("module/", "model/", "_orig_mod/", "net/", "network/", "params/", "state/", "batch_stats/")

#: Ends of names in PyTorch's state dicts that no output depends on: of BatchNorm's batches since the start.
COUNTERS = ("num_batches_tracked",)


def named_as(network: Any, names: Iterable[str]) -> tuple[Any, tuple[str, ...]]:
    """Return a network under the names of its model, without prefixes, and sentences on what was left out.

    Args:
        network: a nested or flat mapping; anything else is returned as it is.
        names: of the model's arrays; where there are none, nothing is changed.
    """
    wanted = set(names)
    if not wanted or not isinstance(network, Mapping):
        return network, ()
    found: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    stripped: dict[str, None] = {}
    for name, array in named_leaves(network).items():
        short, gone = _short_name(name, wanted)
        if short in wanted and short not in found:
            found[short] = array
            stripped |= dict.fromkeys(gone)
        else:
            rest[name] = array
    notes = []
    if said := [one.replace("/", ".") for one in stripped if one in PREFIXES[:5]]:
        notes.append(f"the names in the checkpoint were taken without {' and '.join(said)}")
        if wanted <= set(found):
            unused = [name for name in rest if not name.endswith(COUNTERS)]
            if unused:
                notes.append(f"not used of the checkpoint: {', '.join(unused[:3])}{' …' if len(unused) > 3 else ''}")
            rest = {}
    return {**found, **rest}, tuple(notes)


def _short_name(name: str, wanted: set[str]) -> tuple[str, list[str]]:
    """Return a name without the prefixes that keep it from being one of `wanted`, and the prefixes."""
    gone, short = [], name.removesuffix("/value")
    while short not in wanted:
        if f"params/{short}" in wanted:
            return f"params/{short}", gone
        prefix = next((one for one in PREFIXES if short.startswith(one)), None)
        if prefix is None:
            return name, []
        gone.append(prefix)
        short = short.removeprefix(prefix)
    return short, gone


def _strangers(missing: list[str], unknown: list[str], given: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    faults = []
    if missing:
        name = missing[0]
        faults.append(f"it lacks {name} {tuple(np.shape(wanted[name]))}{nearest(name, unknown or list(given))}")
    if unknown:
        name = unknown[0]
        close = "" if missing else nearest(name, list(wanted))
        faults.append(f"{'' if missing else 'it '}holds {name} {tuple(np.shape(given[name]))}{close}")
    more = len(missing) + len(unknown) - len(faults)
    return " and ".join(faults) + (f", and {more} more differ" if more > 0 else "")


def fit_in_order(given: Sequence[Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return arrays that come in the model's order by its names; raises `UserError` for other numbers or shapes."""
    if len(given) != len(wanted):
        raise UserError(f"it holds {len(given)} arrays; the model has {len(wanted)}")
    return fit_names(dict(zip(wanted, given, strict=True)), wanted)


def with_params(network: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a network as a mapping with `params`; one that has none, by name or as a prefix, is the parameters."""
    has_params = any(str(name) == "params" or str(name).startswith("params/") for name in network)
    return network if has_params else {"params": network}


def is_floating(leaf: Any) -> bool:
    """Return whether an array is of real floating-point numbers, bfloat16 included."""
    return bool(jnp.issubdtype(jnp.result_type(leaf), jnp.floating))
