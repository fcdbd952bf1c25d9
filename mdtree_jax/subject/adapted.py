"""A model of any framework and its networks, in any form or from files, as `Subject`. JAX."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from mdtree_jax import lowering
from mdtree_jax.checks import UserError
from mdtree_jax.landscape.batch_norm import check_averages
from mdtree_jax.subject.checkpoints import load_checkpoint
from mdtree_jax.subject.frameworks import FUNCTIONS, Adapted, adapt, framework_of
from mdtree_jax.subject.frameworks.base import named_as
from mdtree_jax.subject.network import Subject, as_networks, wrap


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
    listed = _listed(networks, adapted.framework)
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


def unlike_averages(subject: Subject, x: Any) -> list[str]:
    """Return the names of the state that cannot be recomputed between two networks, on some inputs; see `landscape`."""

    def apply_train(variables: Any, x: Any) -> tuple[Any, Any]:
        outputs, _, state = subject.model.apply(variables, x, True)
        return outputs, {"batch_stats": state}

    variables = subject.variables[0]
    if not subject.can_recompute or not jax.tree.leaves(variables["batch_stats"]):
        return []
    return check_averages(lowering.jit(apply_train), variables, x)


def check_different(subject: Subject) -> None:
    """Raise `UserError` if two networks of a subject are the same: nothing can be said of a pair of them."""
    for i, j in same_networks(subject):
        raise UserError(
            f"networks {i} and {j} have the same parameters; give networks that were trained from different seeds"
        )


def same_networks(subject: Subject) -> list[tuple[int, int]]:
    """Return the pairs of networks, numbered from 1, that have the same parameters."""
    leaves = [jax.tree.leaves(network["params"]) for network in subject.variables]
    pairs = itertools.combinations(enumerate(leaves, 1), 2)
    return [(i, j) for (i, a), (j, b) in pairs if all(map(np.array_equal, a, b))]


def _listed(networks: Any, framework: str) -> list[Any]:
    """Return a list of networks, also of a single one: a path, or an object of the framework."""
    if isinstance(networks, (str, os.PathLike)) or framework_of(networks) not in (None, FUNCTIONS):
        return [networks]
    if framework != "functions" and isinstance(networks, (list, tuple)) and networks:
        return list(networks)
    return as_networks(networks)
