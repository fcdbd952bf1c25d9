"""An extensible table of entries of one kind, found by name. No JAX.

The functions of an entry are bound to its name: `table.bind("tiny", build=tiny)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, Protocol, TypeVar

from mdtree_jax.checks import UserError, check_choice


class Named(Protocol):
    """Anything with a name; the type of a table's entries."""

    @property
    def name(self) -> str:
        """The entry's name, by which it is found."""
        ...


Entry = TypeVar("Entry", bound=Named)


class Table(Mapping[str, Entry], Generic[Entry]):
    """Entries by name, in the order in which they were added.

    >>> from typing import NamedTuple
    >>> class Fruit(NamedTuple):
    ...     name: str
    >>> fruits = Table("fruit", [Fruit("apple")])
    >>> fruits.register(Fruit("pear")).name, list(fruits)
    ('pear', ['apple', 'pear'])

    Args:
        kind: what an entry is called in messages.
        entries: the first entries.
    """

    def __init__(self, kind: str, entries: list[Entry] | tuple[Entry, ...] = ()):
        self.kind = kind
        #: Number of changes of the table, for values computed from it (`mdtree_jax.registry.views`).
        self.changes = 0
        self._entries: dict[str, Entry] = {}
        self._bound: dict[str, dict[str, Callable[..., Any]]] = {}
        for entry in entries:
            self.register(entry)

    def register(self, entry: Entry) -> Entry:
        """Add an entry and return it; adding an equal entry again has no effect.

        Raises:
            UserError: as `check`.
        """
        self.check(entry)
        if entry.name not in self._entries:
            self._entries[entry.name] = entry
            self.changes += 1
        return self._entries[entry.name]

    def check(self, entry: Entry) -> None:
        """Raise `UserError` if another entry has this name, or the name is not an identifier."""
        if not entry.name.isidentifier():
            raise UserError(f"the {self.kind} name {entry.name!r} is not an identifier (letters, digits and _)")
        if self._entries.get(entry.name, entry) != entry:
            raise UserError(f"a {self.kind} named '{entry.name}' is already registered; choose another name")

    def unregister(self, name: str) -> None:
        """Remove an entry and its functions, for example at the end of a test."""
        del self._entries[name]
        self.changes += 1
        self._bound.pop(name, None)

    def bind(self, name: str, **functions: Callable[..., Any]) -> None:
        """Bind functions to the entry of that name, by role; a function that is already bound is replaced.

        Raises:
            UserError: there is no such entry.
        """
        self.find(name)
        self._bound.setdefault(name, {}).update(functions)

    def bound(self, name: str, role: str) -> Callable[..., Any] | None:
        """Return the function bound to a name in a role, None if there is none.

        >>> from typing import NamedTuple
        >>> class Fruit(NamedTuple):
        ...     name: str
        >>> fruits = Table("fruit", [Fruit("apple")])
        >>> fruits.bind("apple", weigh=lambda: 0.1)
        >>> fruits.bound("apple", "weigh")(), fruits.bound("apple", "peel")
        (0.1, None)
        """
        return self._bound.get(name, {}).get(role)

    def find(self, name: str) -> Entry:
        """Return the entry of that name.

        Raises:
            UserError: there is none; the message lists the names.
        """
        return self._entries[check_choice(self.kind, name, self._entries)]

    def __getitem__(self, name: str) -> Entry:
        """Return the entry of that name; raises `KeyError`."""
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._entries)

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self._entries)
