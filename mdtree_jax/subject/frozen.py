"""Networks of which only a part was trained, such as pretrained and fine-tuned ones: the rest is held fixed. JAX."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from mdtree_jax.checks import UserError, nearest
from mdtree_jax.landscape.batch_norm import joined
from mdtree_jax.models import Model
from mdtree_jax.subject.frameworks.base import leaf_name
from mdtree_jax.subject.network import Subject


def freeze(subject: Subject, frozen: str | Sequence[str]) -> Subject:
    """Return the subject whose frozen parameters are no parameters: Hessian, curves, norms and probes see the others.

    The frozen ones move to the state, in which nothing moves them. Running averages that are the same in all networks
    were fixed in training too, so the model then stays in evaluation mode.

    Args:
        subject: networks that have the frozen parameters in common.
        frozen: names of parameters, `encoder/layer0/kernel`, of what holds them, `encoder`, or patterns, `*/bias`; a
            dot counts as a slash. Empty: the subject as it is.

    Raises:
        UserError: a name that is no parameter's, parameters that differ between the networks, nothing left to train.
    """
    wanted = [frozen] if isinstance(frozen, str) else list(frozen)
    if not wanted:
        return subject
    names = _matching(wanted, _names(subject.variables[0]["params"]))
    _check_fixed(subject, names)
    is_fixed = _has_fixed_state(subject)

    def part(params: Any, is_frozen: bool) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf if (_name(path) in names) is is_frozen else None, params
        )

    def split(variables: Any) -> dict[str, Any]:
        params, state = variables["params"], variables["batch_stats"]
        return {"params": part(params, False), "batch_stats": {"frozen": part(params, True), "state": state}}

    def whole(variables: Any) -> dict[str, Any]:
        held = variables["batch_stats"]
        return {"params": joined(variables["params"], held["frozen"]), "batch_stats": held["state"]}

    def apply(variables: Any, x: Any, train: bool) -> tuple[Any, Any, Any]:
        outputs, named, state = subject.model.apply(whole(variables), x, train and not is_fixed)
        return outputs, named, {**variables["batch_stats"], "state": state}

    def apply_train(variables: Any, x: Any, key: Any) -> tuple[Any, Any]:
        assert subject.apply_train is not None  # asked of below
        outputs, state = subject.apply_train(whole(variables), x, key)
        held = variables["batch_stats"]
        return outputs, {**held, "state": held["state"] if is_fixed else state}

    first = split(subject.variables[0])["batch_stats"]["frozen"]
    init = subject.init

    def fresh(key: Any) -> Any:
        assert init is not None  # asked of below
        made = split(init(key))
        return {**made, "batch_stats": {**made["batch_stats"], "frozen": first}}

    variables = tuple(split(one) for one in subject.variables)
    return subject._replace(
        model=Model(lambda key: variables[0], apply),
        variables=variables,
        can_recompute=subject.can_recompute or is_fixed,
        architecture="",  # units of a frozen layer cannot be permuted
        init=init and fresh,
        apply_train=subject.apply_train and apply_train,
        given_form=lambda one: whole(one) if subject.given_form is None else subject.given_form(whole(one)),
        notes=(*subject.notes, _said(subject.variables[0]["params"], names)),
    )


def _name(path: Any) -> str:
    return leaf_name(path).replace(".", "/")


def _names(params: Any) -> list[str]:
    return [_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]


def _matching(wanted: Sequence[str], names: Sequence[str]) -> set[str]:
    """Return the names of parameters that are frozen; raises `UserError` for what matches none, or leaves none."""
    found: set[str] = set()
    for given in wanted:
        one = str(given).replace(".", "/").removeprefix("params/").rstrip("/")
        matches = {name for name in names if name == one or name.startswith(f"{one}/") or fnmatch.fnmatch(name, one)}
        if not matches:
            parts = {"/".join(name.split("/")[:end]) for name in names for end in range(1, name.count("/") + 2)}
            listed = f"{', '.join(names[:6])}{' …' if len(names) > 6 else ''}"
            raise UserError(f"frozen={given}: there is no such parameter{nearest(one, sorted(parts))}; it has {listed}")
        found |= matches
    if len(found) == len(names):
        raise UserError(f"frozen={','.join(map(str, wanted))} leaves no parameter that was trained")
    return found


def _check_fixed(subject: Subject, names: set[str]) -> None:
    flat = [dict(jax.tree_util.tree_leaves_with_path(one["params"])) for one in subject.variables]
    for path, leaf in flat[0].items():
        for number, other in enumerate(flat[1:], 2):
            if _name(path) in names and not np.array_equal(leaf, other[path]):
                raise UserError(
                    f"'{_name(path)}' is frozen, but differs between networks 1 and {number}; give networks that were "
                    "made from the same pretrained one, or leave it out of frozen="
                )


def _has_fixed_state(subject: Subject) -> bool:
    """Return whether there is a state, and no training moved it: it is the same in two networks or more."""
    states = [jax.tree.leaves(one["batch_stats"]) for one in subject.variables]
    same = all(np.array_equal(a, b) for other in states[1:] for a, b in zip(states[0], other, strict=True))
    return len(states) > 1 and bool(states[0]) and same


def _said(params: Any, names: set[str]) -> str:
    sizes = {_name(path): np.size(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    held = sum(sizes[name] for name in names)
    return f"{held} of {sum(sizes.values())} parameters are frozen, and all metrics are of the others"
