"""`register`: one call that adds an entry of any kind to its table, with the function that goes with it. No JAX.

    import mdtree_jax
    from mdtree_jax import Measurement

    mdtree_jax.register(
        Measurement("weight_norm", unit="1", meaning="Euclidean norm of the parameters"), kernel=weight_norm
    )

`BINDERS` says for the type of an entry how that is done; the module that defines a type fills in its own. Functions are
kept as they are given and called by the room that runs them, so that registering imports no JAX.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from mdtree_jax.checks import UserError
from mdtree_jax.registry.table import Table


class Binder(NamedTuple):
    """How entries of one type are added and removed.

    Attributes:
        add: `add(entry, **bindings) -> entry`, as the table then holds it; raises `UserError` for one that does not fit
            and leaves the tables as they were.
        remove: `remove(name)` undoes it.
        takes: the names of its bindings.
    """

    add: Callable[..., Any]
    remove: Callable[[str], None]
    takes: tuple[str, ...] = ()


#: Type of an entry -> how it is added. A type that is derived from one of these is added as that.
BINDERS: dict[type, Binder] = {}


def in_table(table: Table[Any], needs: tuple[str, ...] = (), may_have: tuple[str, ...] = ()) -> Binder:
    """Return how an entry is added to a table, with functions that are bound to its name (`Table.bind`).

    Where an equal entry is there already, its functions are replaced.

    Args:
        table: of the entry's kind.
        needs: roles of the functions that an entry must have.
        may_have: roles of those that it may have.
    """

    def add(entry: Any, **functions: Callable[..., Any]) -> Any:
        for role in needs:
            if role not in functions:
                raise UserError(f"the {table.kind} '{entry.name}' needs {role}=, the function that is bound to it")
        for role, function in functions.items():
            if not callable(function):
                kind = type(function).__name__
                raise UserError(f"{role}= of the {table.kind} '{entry.name}' is of type {kind}; wanted a function")
        kept = table.register(entry)
        table.bind(entry.name, **functions)
        return kept

    return Binder(add, table.unregister, (*needs, *may_have))


def register(entry: Any, **bindings: Any) -> Any:
    """Add an entry to the table of its type, and return it as the table holds it.

    Args:
        entry: a `Measurement`, `Knob`, `Cause` or another type of `BINDERS`.
        bindings: functions that go with it, such as `kernel=` of a measurement.

    Raises:
        UserError: something of another type, a binding that its type does not take, or an entry that does not fit, such
            as one whose name is taken.
    """
    binder = _binder(entry)
    for name in bindings:
        if name not in binder.takes:
            taken = ", ".join(f"{known}=" for known in binder.takes) or "nothing"
            raise UserError(f"register({type(entry).__name__}, {name}=…): it takes {taken} beside the entry")
    return binder.add(entry, **bindings)


def unregister(entry: Any) -> None:
    """Remove an entry and what goes with it, as a test of an extension does at its end."""
    _binder(entry).remove(entry.name)


def _binder(entry: Any) -> Binder:
    found = next((BINDERS[kind] for kind in type(entry).__mro__ if kind in BINDERS), None)
    if found is None:
        known = ", ".join(sorted(kind.__name__ for kind in BINDERS))
        raise UserError(f"register({entry!r:.60}): it is of type {type(entry).__name__}; wanted one of {known}")
    return found
