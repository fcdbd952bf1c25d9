"""Views: mappings and lists computed from tables, which include entries that are added later. No JAX."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar, overload

from mdtree_jax.registry.table import Table

Made = TypeVar("Made")
Value = TypeVar("Value")


class _Derived(Generic[Made]):
    """The result of `make()`, recomputed after one of the tables has changed."""

    def __init__(self, make: Callable[[], Made], *tables: Table[Any]):
        self._make, self._tables = make, tables
        self._seen: tuple[int, ...] | None = None
        self._made: Made

    def __call__(self) -> Made:
        seen = tuple(table.changes for table in self._tables)
        if seen != self._seen:
            self._made, self._seen = self._make(), seen
        return self._made


class MappingView(Mapping[str, Value], Generic[Value]):
    """A mapping that follows from tables.

    >>> from typing import NamedTuple
    >>> class Fruit(NamedTuple):
    ...     name: str
    ...     colour: str
    >>> fruits = Table("fruit", [Fruit("apple", "red")])
    >>> colours = MappingView(lambda: {fruit.name: fruit.colour for fruit in fruits.values()}, fruits)
    >>> fruits.register(Fruit("pear", "green")).name, colours["pear"], len(colours)
    ('pear', 'green', 2)

    Args:
        make: returns the mapping as the tables stand.
        tables: that it reads.
    """

    def __init__(self, make: Callable[[], Mapping[str, Value]], *tables: Table[Any]):
        self._current = _Derived(make, *tables)

    def __getitem__(self, name: str) -> Value:
        """Return the value of that name; raises `KeyError`."""
        return self._current()[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._current())

    def __len__(self) -> int:
        """Return the number of names."""
        return len(self._current())

    def __repr__(self) -> str:
        """Return what the mapping is now."""
        return repr(dict(self))


class ListView(Sequence[Value], Generic[Value]):
    """A sequence that follows from tables; equal to a list, tuple or view of the same items.

    Args:
        make: returns the items as the tables stand.
        tables: that it reads.
    """

    def __init__(self, make: Callable[[], Sequence[Value]], *tables: Table[Any]):
        self._current = _Derived(lambda: tuple(make()), *tables)

    @overload
    def __getitem__(self, index: int) -> Value: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Value]: ...

    def __getitem__(self, index: int | slice) -> Value | Sequence[Value]:
        """Return an item, or a tuple of some."""
        return self._current()[index]

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self._current())

    def __eq__(self, other: object) -> bool:
        """Say whether the items are those of another sequence."""
        return isinstance(other, (list, tuple, ListView)) and tuple(self) == tuple(other)

    def __repr__(self) -> str:
        """Return the items as they are now."""
        return repr(self._current())
