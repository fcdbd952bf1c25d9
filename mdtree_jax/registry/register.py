"""`register`: one call adds an entry to its table, with the functions that it is bound to. No JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from mdtree_jax.checks import UserError, nearest
from mdtree_jax.registry.architectures import ARCHITECTURES, Architecture
from mdtree_jax.registry.causes import CAUSES, Cause
from mdtree_jax.registry.datasets import DATASETS, Dataset
from mdtree_jax.registry.knobs import KNOBS, Knob
from mdtree_jax.registry.objectives import OBJECTIVES, Objective
from mdtree_jax.registry.table import Table


class Kind(NamedTuple):
    """A kind of entry: its table, and the roles of the functions that must and that may be bound to one."""

    table: Table[Any]
    needs: tuple[str, ...] = ()
    may_have: tuple[str, ...] = ()


#: Type of an entry -> where it goes.
KINDS: dict[type, Kind] = {
    Architecture: Kind(ARCHITECTURES, ("build",), ("permutations",)),
    Dataset: Kind(DATASETS, ("load",)),
    Objective: Kind(OBJECTIVES, ("loss", "error")),
    Knob: Kind(KNOBS),
    Cause: Kind(CAUSES),
}


def register(entry: Any, **functions: Callable[..., Any]) -> Any:
    """Add an entry to its table and bind functions to it; return the entry.

        register(Architecture("tiny", "one hidden layer"), build=tiny)
        register(Dataset("rings", "two rings in the plane"), load=rings)

    An equal entry may be registered again: its functions are replaced.

    Raises:
        UserError: no kind of entry, another entry of this name, a role that the kind does not have or that is missing.
    """
    kind = KINDS.get(type(entry))
    if kind is None:
        kinds = ", ".join(one.__name__ for one in KINDS)
        raise UserError(f"a {type(entry).__name__} cannot be registered; there are: {kinds}")
    roles = (*kind.needs, *kind.may_have)
    said = f"the {kind.table.kind} '{entry.name}'"
    for role, function in functions.items():
        if role not in roles:
            there = ", ".join(roles) or "none"
            raise UserError(f"{said} takes no function '{role}'{nearest(role, roles)}; there are: {there}")
        if not callable(function):
            raise UserError(f"{role}= of {said} is a {type(function).__name__}; wanted a function")
    missing = [role for role in kind.needs if role not in functions]
    if missing:
        raise UserError(f"{said} needs {missing[0]}=, the function that is bound to it")
    kind.table.register(entry)
    kind.table.bind(entry.name, **functions)
    return entry
