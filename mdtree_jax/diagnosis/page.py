"""Registry of the function that writes a report: `report` is a layer above, so the package's facade registers it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_loaders: list[Callable[[], Callable[..., Any]]] = []


def register(load: Callable[[], Callable[..., Any]]) -> None:
    """Register `load()`, which returns the function that writes a page; it is called for the first page."""
    _loaders[:] = [load]


def writer() -> Callable[..., Any]:
    """Return the function that writes a page: `write(path, diagnosis, reference, **options) -> path`."""
    return _loaders[0]()
