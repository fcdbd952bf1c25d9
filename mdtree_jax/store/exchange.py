"""Finished cohorts that move between run folders: their parts, copied. Networks do not move with them."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from mdtree_jax.checks import UserError
from mdtree_jax.files import is_temporary, one_sentence_on_write_failure, write_atomically
from mdtree_jax.store.folder import RunFolder
from mdtree_jax.store.parts import HISTORY, MEASURED


def export_parts(run: RunFolder, target: str | Path) -> int:
    """Copy the parts of all finished cohorts of `run` (entered) into the folder `target`; return how many cohorts.

    Raises `UserError` if no cohort is finished, or `target` cannot be written.
    """
    _check_not_larger(run, "export_to")
    target = Path(target).expanduser()
    if not run.trained:
        raise UserError(f"{run.path} has no finished cohort to export; run the sweep without export_to= first")
    with one_sentence_on_write_failure(target):
        for key in run.trained:
            kinds = [*([HISTORY] if key in run.parts.history else []), "trained"]
            for kind in (*kinds, *(MEASURED if key in run.measured else ())):
                path = run.parts.path(key, kind)
                copy = functools.partial(shutil.copyfile, path)
                write_atomically(target / path.relative_to(run.path / "parts"), copy)
    return len(run.trained)


def import_parts(run: RunFolder, source: str | Path) -> tuple[int, int]:
    """Take over the parts in `source` (exported ones, or a run folder); return how many were new and known.

    Where any cohort of the source is measured, those that are only trained are left out: their networks are not in
    the parts, so they could never be measured. All are checked before the first is taken. Raises `UserError` for a
    folder without parts, a part of another config, and a part whose members are not those of this grid.
    """
    _check_not_larger(run, "import_from")
    source = Path(source).expanduser()
    folder = source / "parts" if (source / "parts").is_dir() else source
    found = [path for path in folder.rglob("*.parquet") if not is_temporary(path.name)]
    found = [path for path in found if path.parent == folder or path.parent.name in (HISTORY, *MEASURED)]
    if not found:
        raise UserError(f"import_from='{source}' holds no parts (*.parquet)")
    # In the order in which they are committed: learning curves, trained, then layers, pairs and members.
    kinds = (HISTORY, "trained", *MEASURED)
    paths = [(path, path.parent.name if path.parent != folder else "trained") for path in sorted(found)]
    paths.sort(key=lambda item: kinds.index(item[1]))
    trained, measured = ({path.stem for path, kind in paths if kind == which} for which in ("trained", "members"))
    paths = [(path, kind) for path, kind in paths if path.stem in (measured if kind in MEASURED else trained)]
    if measured:
        paths = [(path, kind) for path, kind in paths if path.stem in measured]
    alone = sorted(measured - trained - set(run.parts.trained))
    if alone:
        raise UserError(f"import_from='{source}' holds measurements of cohort {alone[0]}, but not its training")
    there: dict[str, dict[str, pd.DataFrame]] = {}
    source_of: dict[tuple[str, str], Path] = {}
    for path, kind in paths:
        there.setdefault(path.stem, {})[kind], _ = run.parts.check(path, path.stem, kind, is_own=False)
        source_of[path.stem, kind] = path
    wanted = {key: _kinds_to_import(run, key, rows) for key, rows in there.items()}
    with run.writing():
        for key, kind in [(key, kind) for key, kinds_of in wanted.items() for kind in kinds_of]:
            write_atomically(run.parts.path(key, kind), functools.partial(shutil.copyfile, source_of[key, kind]))
    run.read_parts()
    run.save_manifest()  # how the measurements that came were made is now how this folder measures
    fresh = sum(1 for kinds_of in wanted.values() if kinds_of)
    return fresh, len(wanted) - fresh


def _check_not_larger(run: RunFolder, option: str) -> None:
    """Raise `UserError` if the grid is larger than that of the folder."""
    if run.growth:
        raise UserError(
            f"{run.path} is of a smaller grid ({run.growth}), and {option}= moves what is finished; run the sweep "
            "without it first"
        )
    run.extend()  # the same grid can be written otherwise


def _kinds_to_import(run: RunFolder, key: str, there: Mapping[str, pd.DataFrame]) -> list[str]:
    """Return which parts of a cohort are taken over, in the order in which they are committed.

    Measurements go with the networks that they are of: a cohort that was trained here takes only those of networks
    with the same numbers, else it keeps what it has.
    """
    if key not in run.parts.trained:
        return [kind for kind in (HISTORY, "trained", *MEASURED) if kind in there]
    if key in run.parts.measured or MEASURED[-1] not in there:
        return []
    ours = run.trained_rows(key)
    ours = ours[[c for c in ours if not str(c).endswith("_seconds")]]
    if "trained" in there and not ours.equals(there["trained"].reindex(columns=ours.columns)):
        return []
    return list(MEASURED)
