"""The tables of a run folder, made from its parts, and their digests in its manifest."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from mdtree_jax.checks import UserError
from mdtree_jax.files import digest_of, write_atomically
from mdtree_jax.store.parts import Parts
from mdtree_jax.store.tables import collect, write_table


def write_run_tables(
    path: Path, parts: Parts, known: dict[str, str | None], save: Callable[[], None], *, csv: bool, is_final: bool
) -> None:
    """Write the tables of what is finished to the run folder at `path`, and the same as CSV if that is wanted.

    `known` are the tables that a run wrote there, with their sha256 where they are final; `save` writes that down.
    Raises `UserError` where a file of the name of a table was not written by a run here.
    """
    members, pairs = parts.joined_members(), parts.joined("pairs")
    tables = {"members": members, "collection": collect(members, pairs)}
    tables |= {"pairs": pairs, "layers": parts.joined("layers")} if parts.measured else {}
    tables |= {"history": parts.joined_history()} if parts.history else {}
    names = [f"{name}.{ending}" for name in tables for ending in ("parquet", *(("csv",) if csv else ()))]
    _claim(path, names, known, save)
    for name, table in tables.items():
        grid = {"config_hash": parts.grids.here} if name == "members" else None
        write_table(path / f"{name}.parquet", table, grid)
        if csv:
            write_atomically(path / f"{name}.csv", lambda aside, table=table: table.to_csv(aside, index=False))
    if is_final:
        known |= {name: digest_of(path / name) for name in names}
        save()


def _claim(path: Path, names: list[str], known: dict[str, str | None], save: Callable[[], None]) -> None:
    """Take tables of these names for the run's own; what their content is is not known from now on."""
    for name in names:
        if name not in known and os.path.lexists(path / name):
            raise UserError(f"{path / name} was not written by a run in this folder; move it away")
    if any(known.get(name, "") is not None for name in names):
        known |= dict.fromkeys(names)
        save()
