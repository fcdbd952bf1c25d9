"""Finished cohorts that move between run folders: parts of one recipe are joined, whatever axes each had."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mdtree_jax.checks import DamagedFile, UserError
from mdtree_jax.files import is_temporary
from mdtree_jax.store.folder import RunFolder
from mdtree_jax.store.grids import Grids
from mdtree_jax.store.joined import Joined
from mdtree_jax.store.ledger import Ledger
from mdtree_jax.store.manifest import FORMAT, read_manifest
from mdtree_jax.store.parts import HISTORY, MEASURED, Parts


def export_parts(run: RunFolder, target: str | Path) -> int:
    """Copy the parts of all finished cohorts of `run` (entered) to the run folder `target`; return how many cohorts.

    The networks stay. Raises `UserError` if no cohort is finished, or `target` is not empty and of another recipe, or
    cannot be written.
    """
    _check_not_larger(run, "export_to")
    if not run.trained:
        raise UserError(f"{run.path} has no finished cohort to export; run the sweep without export_to= first")
    with RunFolder(target, run.config, run.cohorts) as other:
        other.extend()
        _join(other, [_Source(run.path, run.parts, run.ledger)], keep=False)
    return len(run.trained)


def import_parts(
    run: RunFolder, sources: Sequence[str | Path], *, keep: bool = False, option: str = "import_from"
) -> tuple[int, int]:
    """Join the finished cohorts of run folders, or of folders of parts, to `run`; return how many were new and known.

    A source may have fewer values of an axis or seeds than the grid of `run`; of a network that several have, the first
    counts. Where any cohort of a source is measured, those that are only trained are left out: their networks are not
    in the parts, so they could not be measured. `keep` copies the networks where they are kept. All or nothing is
    taken.

    Raises:
        UserError: a source without parts, of another recipe (every key that differs is named), with damaged parts, or
            measured otherwise; two sources with seeds of one configuration between which pairs were to be measured.
    """
    _check_not_larger(run, option)
    return _join(run, [_read_source(run, Path(source).expanduser().absolute(), option) for source in sources], keep)


class _Source:
    """A folder that is joined to a run: its parts, counted as in the grid of the run, and its records."""

    def __init__(self, path: Path, parts: Parts, ledger: Ledger, config: dict[str, Any] | None = None):
        self.path, self.parts, self.ledger, self.config = path, parts, ledger, config

    @property
    def keys(self) -> list[str]:
        """Cohorts that are taken from here."""
        return [key for key in self.parts.trained if key in self.parts.measured or not self.parts.measured]

    @property
    def measure(self) -> dict[str, Any] | None:
        """How was measured here, None if nothing was."""
        found = (self.parts.metadata[key, MEASURED[-1]].get("measure") or {} for key in self.parts.measured)
        return next(found, None)

    def networks(self, key: str) -> dict[str, Path]:
        """Return where networks of a cohort are kept, by the name that they have."""
        folder = self.path / "checkpoints"
        return {path.name: path for path in self.ledger.files(key, "checkpoints") if path.parent == folder}


def _join(run: RunFolder, sources: Sequence[_Source], keep: bool) -> tuple[int, int]:
    joined: dict[str, Joined] = {}
    fresh, known = set(), set()
    for source in sources:
        run.check_measured_alike(source.path, source.measure)
        for key in source.keys:
            cohort = joined.setdefault(key, Joined(key, run.parts, run.ledger[key].executors))
            networks = source.networks(key) if keep else {}
            is_new = cohort.add(source.path, source.parts, source.ledger[key].executors, networks)
            (fresh if is_new else known).add(key)
    for source in sources:
        _check_networks(source, joined.values())
    with run.writing():
        run.join({key: cohort for key, cohort in joined.items() if cohort.is_changed}, [s.config for s in sources])
    return len(fresh), len(known - fresh)


def _check_networks(source: _Source, joined: Any) -> None:
    for cohort in joined:
        for path in cohort.networks.values():
            if path.is_relative_to(source.path):
                _checked(functools.partial(source.ledger.check, cohort.key, path))


def _checked(check: Any) -> None:
    try:
        check()
    except DamagedFile as error:
        raise _damaged(error) from error


def _damaged(error: object) -> DamagedFile:
    return DamagedFile(f"{error}; nothing was imported: repeat the sweep's command there, which makes it again")


def _read_source(run: RunFolder, path: Path, option: str) -> _Source:
    if path.resolve() == run.path.resolve():
        raise UserError(f"{option}='{path}' is the run folder itself; leave it out")
    try:
        manifest = read_manifest(path / "manifest.json")
    except DamagedFile as error:
        raise _damaged(error) from error
    ledger = Ledger(path)
    if manifest is None:
        return _source_of_parts_alone(run, path, ledger, option)
    ledger.read(run.cohorts)
    if ledger.damaged:
        raise _damaged(f"the record of cohort {ledger.damaged[0]} in {path} is damaged")
    for key in run.cohorts:  # a kill never leaves measurements of what was not trained
        if ledger.files(key, "parts") and not (trained := path / "parts" / f"{key}.parquet").exists():
            raise _damaged(f"{trained} is missing")
    if manifest["format"] < FORMAT:
        ledger.adopt(run.cohorts)
    grids = Grids(path, manifest, run.config)
    grids.since(grids.stored)  # refuses another recipe
    parts = Parts(path, manifest, grids, run.cohorts, ledger)
    _read(parts)
    if not parts.trained:
        raise UserError(f"{option}='{path}' has no finished cohort of this grid")
    return _Source(path, parts, ledger, None if grids.since(grids.stored) is None else manifest["config"])


def _source_of_parts_alone(run: RunFolder, path: Path, ledger: Ledger, option: str) -> _Source:
    """Return a source of parts alone, `<cohort>.parquet` and folders by kind, as earlier versions exported them."""
    folder = path / "parts" if (path / "parts").is_dir() else path
    found = [one for one in folder.rglob("*.parquet") if not is_temporary(one.name)]
    found = [one for one in found if one.parent == folder or one.parent.name in (HISTORY, *MEASURED)]
    if not found:
        raise UserError(f"{option}='{path}' holds no parts (*.parquet)")
    for one in sorted(found):
        if one.stem not in run.cohorts:
            raise UserError(f"{one} is of a sweep with another config than {run.path}")
    alone = sorted(
        {one.stem for one in found if one.parent != folder} - {one.stem for one in found if one.parent == folder}
    )
    if alone:
        raise UserError(f"{option}='{path}' holds measurements of cohort {alone[0]}, but not its training")
    ledger.adopt_files(found)
    parts = _PartsAlone(folder, {"config": run.config, "sessions": []}, run.parts.grids, run.cohorts, ledger)
    _read(parts)
    return _Source(path, parts, ledger)


class _PartsAlone(Parts):
    """Parts that lie in their folder itself."""

    def path(self, key: str, kind: str = "trained") -> Path:
        return self._folder / f"{key}.parquet" if kind == "trained" else self._folder / kind / f"{key}.parquet"


def _read(parts: Parts) -> None:
    parts.read(rewrite=False)
    if parts.damaged:
        raise _damaged(f"{parts.damaged[0].path} is damaged or not a part of a sweep")


def _check_not_larger(run: RunFolder, option: str) -> None:
    """Raise `UserError` if the grid is larger than that of the folder."""
    if run.growth:
        raise UserError(
            f"{run.path} is of a smaller grid ({run.growth}), and {option}= moves what is finished; run the sweep "
            "without it first"
        )
    run.extend()  # the same grid can be written otherwise
