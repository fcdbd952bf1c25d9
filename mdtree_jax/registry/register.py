"""`register`: add an entry of any kind to its table, together with its functions. No JAX.

    import mdtree_jax
    from mdtree_jax import Measurement

    mdtree_jax.register(
        Measurement("largest_weight", unit="1", meaning="largest size of a parameter"), kernel=largest_weight
    )

`BINDERS` maps the type of an entry to the way it is added; the module that defines a type adds its own item. Functions
are stored and later called by the room that runs them, so registering does not import JAX.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from mdtree_jax.checks import UserError
from mdtree_jax.registry.table import Table


class Binder(NamedTuple):
    """How entries of one type are added and removed.

    Attributes:
        add: `add(entry, **bindings) -> entry`, as stored in the table; raises `UserError` for an invalid entry and
            leaves the tables unchanged.
        remove: `remove(name)` undoes it.
        takes: the names of its bindings.
    """

    add: Callable[..., Any]
    remove: Callable[[str], None]
    takes: tuple[str, ...] = ()


#: Type of an entry -> how it is added; subclasses are added like their base class.
BINDERS: dict[type, Binder] = {}


def in_table(table: Table[Any], needs: tuple[str, ...] = (), may_have: tuple[str, ...] = ()) -> Binder:
    """Return a binder that adds entries to a table and binds functions to their names (`Table.bind`).

    If an equal entry already exists, its functions are replaced.

    Args:
        table: the table for this kind of entry.
        needs: roles of the required functions.
        may_have: roles of the optional functions.
    """

    def add(entry: Any, **functions: Callable[..., Any]) -> Any:
        for role in needs:
            if role not in functions:
                raise UserError(f"the {table.kind} '{entry.name}' needs {role}=, the function that is bound to it")
        for role, function in functions.items():
            if not callable(function):
                kind = type(function).__name__
                raise UserError(f"{role}= of the {table.kind} '{entry.name}' is of type {kind}; it must be a function")
        kept = table.register(entry)
        table.bind(entry.name, **functions)
        return kept

    return Binder(add, table.unregister, (*needs, *may_have))


def register(entry: Any, **bindings: Any) -> Any:
    """Add an entry to the table of its type, and return it as the table holds it.

    Args:
        entry: a `Measurement`, `Knob`, `Cause` or another type of `BINDERS`.
        bindings: its functions, such as `kernel=` for a measurement.

    Raises:
        UserError: another type, a binding that the type does not accept, or an invalid entry, such as one whose name is
            taken.
    """
    binder = _binder(entry)
    for name in bindings:
        if name not in binder.takes:
            taken = ", ".join(f"{known}=" for known in binder.takes) or "nothing"
            raise UserError(f"register({type(entry).__name__}, {name}=…): besides the entry, it takes {taken}")
    return binder.add(entry, **bindings)


def unregister(entry: Any) -> None:
    """Remove an entry and its functions, for example at the end of a test."""
    _binder(entry).remove(entry.name)


def _binder(entry: Any) -> Binder:
    found = next((BINDERS[kind] for kind in type(entry).__mro__ if kind in BINDERS), None)
    if found is None:
        known = ", ".join(sorted(kind.__name__ for kind in BINDERS))
        raise UserError(f"register({entry!r:.60}): its type is {type(entry).__name__}; it must be one of {known}")
    return found
