"""Trained networks on disk, with Orbax: one checkpoint per cohort, every array with the members as leading axis.

The one importer of Orbax. Arrays go through NumPy on the way in and out, so a checkpoint does not remember the devices
it was made on. Orbax writes to a temporary folder and renames it: a checkpoint is whole or absent.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
from orbax.checkpoint import v1 as ocp

from mdtree_jax.checks import DamagedFile, UserError
from mdtree_jax.files import digest_of, one_sentence_on_write_failure
from mdtree_jax.store.grids import Grids
from mdtree_jax.store.ledger import Ledger
from mdtree_jax.store.manifest import check_table, read_manifest
from mdtree_jax.store.tables import has_value, read_metadata

# The interface's verbs were renamed within 0.12.
_save: Callable = getattr(ocp, "save", None) or ocp.save_pytree
_load: Callable = getattr(ocp, "load", None) or ocp.load_pytree
_metadata: Callable = getattr(ocp, "metadata", None) or ocp.pytree_metadata
_GROUP_BYTES = 256 * 2**20  # how much of a stacked checkpoint is in memory at once while one member is read

_DIGEST = "sha256"  # file of a state: the digest of the others
_OVERHEAD_BYTES = 2**17  # what a checkpoint of nothing takes, generously: 60 kB in some twenty files


def save_population(path: Path, variables: Any, members: Sequence[tuple[int, int]], grid: str | None = None) -> None:
    """Write the networks of a cohort to `path`, over what is there.

    `variables` is a nested dict of arrays (members, …); `members` their (configuration, seed), in the same order;
    `grid` the hash of the config in which configurations have these numbers, `Grids.here`. Raises `UserError` on a
    full disk.
    """
    variables = jax.tree.map(np.asarray, variables)
    wrong = [leaf.shape for leaf in jax.tree.leaves(variables) if leaf.shape[:1] != (len(members),)]
    if wrong:
        raise ValueError(f"an array of shape {wrong[0]} has no leading axis of {len(members)} members")
    about = {} if grid is None else {"grid": grid}
    _write(path, variables, {"members": [[int(c), int(s)] for c, s in members], **about})


def load_population(path: Path, grids: Grids | None = None) -> tuple[dict[str, Any], list[tuple[int, int]]]:
    """Return the stacked networks (NumPy) at `path` and the (configuration, seed) of each, in order.

    Configurations are counted as in `grids.here`, or as they were when the networks were written.
    """
    metadata = _read_metadata(path)
    return _read(path, metadata.metadata), _members(metadata, grids)


def load_member(path: Path, configuration: int, seed: int, grids: Grids | None = None) -> dict[str, Any]:
    """Return one network of the cohort at `path`, without the leading axis; `grids` are as of `load_population`.

    The stacked arrays are read in groups of at most 256 MiB (or one array, if that is larger) and cut at once, so a
    single network of a large cohort fits wherever that much does. Raises `UserError` if the member is not there.
    """
    metadata = _read_metadata(path)
    members = _members(metadata, grids)
    if (configuration, seed) not in members:
        raise UserError(f"{path} has no network of configuration {configuration} and seed {seed}")
    row = members.index((configuration, seed))
    leaves, structure = jax.tree.flatten(metadata.metadata)
    cut: list[np.ndarray | None] = [None] * len(leaves)
    for group in _groups([int(np.prod(leaf.shape)) * np.dtype(leaf.dtype).itemsize for leaf in leaves]):
        wanted = [leaf if i in group else ocp.PLACEHOLDER for i, leaf in enumerate(leaves)]
        loaded = structure.flatten_up_to(_read(path, jax.tree.unflatten(structure, wanted)))
        for i in group:
            cut[i] = np.array(loaded[i][row])
    return jax.tree.unflatten(structure, cut)


def load_network(run: str | Path, *, seed: int, **selection: float | str) -> tuple[dict[str, Any], pd.Series]:
    """Return the network of the run folder `run` with this `seed` and configuration, and its row of the table.

    `selection` names as many columns of `members.parquet` as it takes, `width=8, batch_size=64, data_fraction=0.5`
    or `configuration=17`. Raises `UserError` if no network, or more than one, fits, or checkpoints were not kept.
    """
    run = Path(run).expanduser().absolute()
    try:
        check_table(run / "members.parquet")
        members = pd.read_parquet(run / "members.parquet")
    except DamagedFile:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"{run} is not a run folder with finished networks ({error})") from error
    selection = {**selection, "seed": seed}
    unknown = [name for name in selection if name not in members]
    if unknown:
        raise UserError(f"unknown column '{unknown[0]}'; available: {', '.join(map(str, members.columns))}")
    fits = np.ones(len(members), bool)
    for name, value in selection.items():
        fits &= has_value(members[name], value)
    said = ", ".join(f"{name}={value if isinstance(value, str) else f'{value:g}'}" for name, value in selection.items())
    if fits.sum() != 1:
        raise UserError(f"{fits.sum()} networks of {run} have {said}; expected exactly one")
    row = members[fits].iloc[0]
    path = run / "checkpoints" / row["cohort"]
    paths = [one for one in (path, *sorted(path.parent.glob(f"{path.name}+*"))) if one.is_dir()]
    paths = [one for one in paths if ".damaged" not in one.name.removeprefix(path.name)]
    manifest = read_manifest(run / "manifest.json")
    grids = None if manifest is None else Grids(run, manifest)
    number = int(row["configuration"])
    if grids is not None:  # the table is one of before where a run was just extended
        number = grids.number_here(number, read_metadata(run / "members.parquet").get("config_hash"))
    holder = next((one for one in paths if (number, seed) in _members(_read_metadata(one), grids)), None)
    if holder is None:
        which = f"seed {seed} of cohort" if paths else "cohort"
        raise UserError(
            f"{run} has no checkpoint of {which} {row['cohort']}: it was run with keep=metrics_only or imported"
        )
    _check_networks(run, row["cohort"], holder)
    return load_member(holder, number, seed, grids), row


def _check_networks(run: Path, cohort: str, path: Path) -> None:
    """Raise `DamagedFile` if networks are not as they were written; of earlier versions that is not known."""
    ledger = Ledger(run)
    ledger.read([cohort])
    if ledger.digest(cohort, path) is None:
        return
    try:
        ledger.check(cohort, path)
    except DamagedFile as error:
        raise DamagedFile(f"{error}; repeat the sweep's command with check_files=true to train it again") from error


def save_state(path: Path, state: Mapping[str, np.ndarray]) -> None:
    """Write a flat dictionary of arrays: the state inside a cohort that takes long.

    The old state stays readable until the new one is complete. Raises `UserError` on a full disk.
    """
    fresh, old = (path.with_name(f"{path.name}.{suffix}") for suffix in ("new", "old"))
    arrays = {name: np.asarray(array) for name, array in state.items()}
    described = [[name, list(array.shape), array.dtype.str] for name, array in arrays.items()]
    # Orbax refuses arrays without elements; their description says all there is to know.
    full = {f"array{i:05d}": array for i, array in enumerate(arrays.values()) if array.size}
    _write(fresh, full, {"arrays": described})
    with one_sentence_on_write_failure(path):
        (fresh / _DIGEST).write_text(digest_of(fresh, without=_DIGEST))
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    fresh.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def load_state(path: Path) -> dict[str, np.ndarray] | None:
    """Return the state that `save_state` wrote to `path`, None if there is none that can be read."""
    # Killed between the two renames of save_state, the whole states are .new and .old; the newer one counts.
    for candidate in (path, *(path.with_name(f"{path.name}.{suffix}") for suffix in ("new", "old"))):
        if _is_whole(candidate):
            try:
                metadata = _read_metadata(candidate)
                arrays = _read(candidate, metadata.metadata)
            except UserError:  # what cannot be read is of no use; the cohort starts over
                continue
            described = metadata.custom_metadata["arrays"]
            return {
                name: arrays[f"array{i:05d}"] if f"array{i:05d}" in arrays else np.empty(shape, dtype)
                for i, (name, shape, dtype) in enumerate(described)
            }
    return None


def _is_whole(state: Path) -> bool:
    """Return whether a state is as it was written; of what is not, the cohort starts over."""
    with contextlib.suppress(OSError, ValueError):
        return (state / _DIGEST).read_text() == digest_of(state, without=_DIGEST)
    return False


def _write(path: Path, tree: Any, custom_metadata: dict[str, Any]) -> None:
    """Save `tree` at `path`, over what is there, after clearing what a killed process left beside it."""
    path = path.absolute()
    with one_sentence_on_write_failure(path), _quiet():
        path.parent.mkdir(parents=True, exist_ok=True)
        _check_space(path.parent, tree)
        for leftover in path.parent.glob(f"{path.name}.orbax-checkpoint-tmp*"):
            shutil.rmtree(leftover, ignore_errors=True)
        _save(path, tree, overwrite=True, custom_metadata=custom_metadata)


def _check_space(folder: Path, tree: Any) -> None:
    """Raise `OSError` if `tree` does not fit on the disk: Orbax's threads would say so in hundreds of lines."""
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) + _OVERHEAD_BYTES
    usage = shutil.disk_usage(folder)
    if usage.total > 0 and usage.free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _read(path: Path, wanted: Any) -> Any:
    """Load the arrays `wanted` (abstract, or placeholders) and make sure that none was cast."""
    with _quiet():
        try:
            loaded = _load(path.absolute(), wanted)
        except Exception as error:  # a damaged checkpoint can raise nearly anything
            raise UserError(f"the checkpoint {path} is damaged ({type(error).__name__})") from error
    for abstract, leaf in zip(jax.tree.leaves(wanted), jax.tree.leaves(loaded), strict=True):
        if abstract is not ocp.PLACEHOLDER and (leaf.dtype != abstract.dtype or leaf.shape != abstract.shape):
            raise UserError(f"the checkpoint {path} holds {leaf.dtype}{leaf.shape}, not what it says it holds")
    return loaded


def _read_metadata(path: Path) -> Any:
    """Return the checkpoint's metadata, or raise `UserError` that there is none."""
    with _quiet():
        try:
            return _metadata(path.absolute())
        except Exception as error:
            raise UserError(f"{path} is not a checkpoint, or is damaged ({type(error).__name__})") from error


def _members(metadata: Any, grids: Grids | None) -> list[tuple[int, int]]:
    members = [(int(c), int(s)) for c, s in metadata.custom_metadata["members"]]
    return members if grids is None else grids.members_here(members, metadata.custom_metadata.get("grid"))


def _groups(sizes: Sequence[int]) -> list[list[int]]:
    """Cut indices into runs whose sizes add up to at most `_GROUP_BYTES`, or that hold one index."""
    groups: list[list[int]] = []
    total = 0
    for i, size in enumerate(sizes):
        if not groups or total + size > _GROUP_BYTES:
            groups.append([])
            total = 0
        groups[-1].append(i)
        total += size
    return groups


@contextlib.contextmanager
def _quiet():
    """Keep the library's advice off the terminal while inside."""
    loggers = [logging.getLogger("absl"), logging.getLogger()]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)  # errors are raised as well
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


#: What a training state holds beside networks; not read, for it can be twice their size.
_OF_TRAINING = ("opt_state", "optimizer", "optimizer_state", "tx")


def load_content(path: Path, step: int | None = None) -> Any:
    """Return the pytree of a user's Orbax checkpoint, as nested dicts of NumPy arrays.

    Checkpoints of both Orbax interfaces are read, and of a `CheckpointManager` (its folder, the folder of a step, or
    the item in it). The arrays go to the host whatever devices they were on, also such as are not here. The optimizer's
    state is left out.

    Args:
        path: the folder.
        step: of a manager's folder; None is the latest.

    Raises:
        UserError: a folder that is not a checkpoint, or is damaged; no such step.
    """
    path = path.absolute()
    if not path.is_dir():
        raise UserError(f"{path} is not a folder; an Orbax checkpoint must be a folder")
    path = _of_step(path, step)
    items = sorted(item for item in path.iterdir() if item.is_dir() and (item / "_METADATA").is_file())
    for candidate in (path, *items):
        loaded = _load_any(candidate)
        if isinstance(loaded, Mapping) and loaded:
            return loaded
    raise UserError(f"{path} is not a checkpoint that Orbax can read, or is damaged")


def _of_step(path: Path, step: int | None) -> Path:
    """Return the folder of a step, the latest if none is given; `path` itself if it has no folders of steps."""
    named = {item: re.fullmatch(r"(?:\w*_)?(\d+)", item.name) for item in path.iterdir() if item.is_dir()}
    steps = {int(found[1]): item for item, found in named.items() if found}
    if (path / "_METADATA").is_file() or not steps:
        if step is not None:
            raise UserError(f"step={step} is given, but {path} has no folders of steps")
        return path
    if step is not None and step not in steps:
        raise UserError(f"{path} has no step {step}; available: {', '.join(map(str, sorted(steps)))}")
    return steps[max(steps) if step is None else step]


def _load_any(path: Path) -> Any:
    """Return the pytree at `path` in NumPy arrays, by its metadata where there are any; None if there is none."""
    import orbax.checkpoint as old

    reader = old.Checkpointer(old.PyTreeCheckpointHandler())

    def by_metadata() -> Any:
        tree: Any = getattr(reader.metadata(path).item_metadata, "tree", None)
        if isinstance(tree, Mapping):
            tree = {name: value for name, value in tree.items() if name not in _OF_TRAINING}
        kinds = jax.tree.map(lambda _: old.RestoreArgs(restore_type=np.ndarray), tree)
        return reader.restore(path, args=old.args.PyTreeRestore(tree, restore_args=kinds, partial_restore=True))

    with _quiet():
        for load in (by_metadata, lambda: _load(path), lambda: old.PyTreeCheckpointer().restore(path)):
            with contextlib.suppress(Exception):  # a folder of another kind can raise nearly anything
                return jax.tree.map(np.asarray, load())
    return None
