import pytest

from mdtree_jax import register
from mdtree_jax.registry.register import unregister


@pytest.fixture
def added():
    """Return `register`; what it adds is removed after the test."""
    entries = {}

    def add(entry, **functions):
        entries[type(entry), entry.name] = register(entry, **functions)
        return entries[type(entry), entry.name]

    yield add
    for entry in list(entries.values())[::-1]:
        unregister(entry)
