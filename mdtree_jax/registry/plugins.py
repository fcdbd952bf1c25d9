"""Plugins: modules that register entries when they are imported. No JAX.

Before it composes its configuration, a command imports the modules named by `plugins=[package.module, …]` and those
that installed packages declare in the entry point group `mdtree_jax.plugins`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from importlib.metadata import entry_points

from mdtree_jax.checks import UserError
from mdtree_jax.registry.resolve import import_own

GROUP = "mdtree_jax.plugins"


def load_plugins(modules: Iterable[str] = ()) -> None:
    """Import installed plugins, then `modules`; modules that are already imported are skipped.

    Raises:
        UserError: a module does not exist, or its import fails.
    """
    _load_installed()
    for module in modules:
        import_own(module, f"plugins=[{module}]")


@functools.cache
def _load_installed() -> None:
    for point in entry_points(group=GROUP):
        package = point.dist.name if point.dist is not None else "unknown"
        try:
            import_own(point.module, f"the plugin '{point.name}'")
        except UserError as error:
            raise UserError(f"{error}; it comes with the installed package '{package}'") from error.__cause__
