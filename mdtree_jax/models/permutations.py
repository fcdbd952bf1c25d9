"""Which axes of the arrays of an architecture belong to the same units, for permutation alignment. Plain data.

A *rule* is bound to an architecture, beside its builder. It takes the parameters and returns for every layer, by its
path `"block/layer"`, the groups of its inputs and of its units; None is an axis that must stay, as pixels and classes.
The axes follow from the layers' layout: kernels (3, 3, inputs, units) and (inputs, units), vectors (units,).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mdtree_jax.checks import check_choice
from mdtree_jax.registry.architectures import ARCHITECTURES

Spec = dict[tuple[str, ...], tuple[str | None, ...]]


def permutes(*names: str) -> Callable:
    """Return a decorator that binds a rule to the architectures called `names`."""

    def decorate(rule: Callable) -> Callable:
        for name in names:
            ARCHITECTURES.bind(name, permutations=rule)
        return rule

    return decorate


def permutation_spec(model_name: str, variables: Mapping[str, Any]) -> Spec:
    """Return for every array of a network the group of units that each of its axes belongs to, or None.

    Keys are paths such as `("params", "stem", "kernel")`, values as long as the array has axes. Permuting every axis of
    a group alike, running averages included, does not change the network's function.

    Args:
        model_name: of a registered architecture.
        variables: `{"params", "batch_stats"}` of one network; only names and shapes are used.

    Raises:
        UserError: an architecture without a rule; those with one are listed.
    """
    known = [name for name in ARCHITECTURES if has_permutations(name)]
    rule = ARCHITECTURES.bound(check_choice("model with permutations", model_name, known), "permutations")
    assert rule is not None  # of the known ones
    layers = rule(variables["params"])
    spec: Spec = {}
    for path, leaf in _arrays(variables, ()):
        # The state of a user's network holds its collections by name.
        inputs, units = layers["/".join(name for name in path[1:-1] if name != "batch_stats")]
        spec[path] = (*(None,) * (leaf.ndim - 2), inputs, units) if leaf.ndim > 1 else (units,)
    return spec


def _arrays(tree: Any, path: tuple[str, ...]) -> Any:
    if isinstance(tree, Mapping):
        for name, child in tree.items():
            yield from _arrays(child, (*path, name))
    else:
        yield path, tree


def has_permutations(model_name: str) -> bool:
    """Return whether the architecture has a rule, so that `permutation_spec` answers."""
    return ARCHITECTURES.bound(model_name, "permutations") is not None
