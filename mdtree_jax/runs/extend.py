"""Extending a run: what is trained and measured of a cohort that is there already in part. No JAX at import.

A network that is added to a cohort is executed as the cohort was, so that all its numbers are rounded alike, unless
more is added than was there: then as the whole cohort would be today.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mdtree_jax.checks import UserError
from mdtree_jax.recipe.cohort import Cohort
from mdtree_jax.registry.kernels import KERNELS, PAIR_CHOICES
from mdtree_jax.store.folder import RunFolder
from mdtree_jax.store.tables import OK, networks_of

Member = tuple[int, int]


class Networks(NamedTuple):
    """Networks of a cohort: (configuration, seed) of each, and their variables, stacked in this order."""

    members: list[Member]
    variables: Any


def members_of(cohort: Cohort) -> list[Member]:
    """Return (configuration, seed) of every member."""
    return [(member.index, member.seed) for member in cohort.members]


def members_by_key(cohorts: Iterable[Cohort]) -> dict[str, list[Member]]:
    """Return the members of every cohort, as a `RunFolder` takes them."""
    return {cohort.key: members_of(cohort) for cohort in cohorts}


def untrained(cohort: Cohort, folder: RunFolder) -> Cohort:
    """Return the cohort with those members that are not trained yet."""
    wanted = set(folder.parts.missing(cohort.key))
    members = tuple(member for member in cohort.members if (member.index, member.seed) in wanted)
    return dataclasses.replace(cohort, members=members)


def executor_before(cohort: Cohort, folder: RunFolder) -> dict[str, Any] | None:
    """Return the recorded executor with which the untrained members of a cohort go on, None to choose one anew."""
    name = folder.name_to_train(cohort.key)
    recorded = folder.executor(cohort.key, name)
    if recorded is None and 2 * len(folder.parts.missing(cohort.key)) <= len(cohort.members):
        recorded = folder.executor(cohort.key, cohort.key)
    return recorded


def growth_line(folder: RunFolder) -> str:
    """Return in one line what an extension of the run keeps and what it adds."""
    missing = sum(len(folder.parts.missing(key)) for key in folder.cohorts)
    kept = sum(map(len, folder.cohorts.values())) - missing
    return f"{folder.path} is extended ({folder.growth}): {kept} trained networks are kept and {missing} are added"


def check_networks_are_there(
    folder: RunFolder, cohorts: Iterable[Cohort], to_measure: Collection[str], measure: Mapping[str, Any]
) -> None:
    """Raise `UserError` if measuring `to_measure` may take trained networks that are not kept."""
    gone: dict[str, set[Member]] = {}
    for cohort in cohorts:
        if cohort.key in to_measure:
            kept = folder.checkpoints(cohort.key).values()
            gone[cohort.key] = needed_networks(folder, cohort, measure).difference(*kept)
    gone = {key: members for key, members in gone.items() if members}
    unmeasured = [key for key in gone if folder.measurement(key) is None]
    if unmeasured:
        raise UserError(
            f"{len(unmeasured)} trained cohorts of {folder.path} are not measured and their networks are gone (first: "
            f"{unmeasured[0]}), because they were imported or trained with keep=metrics_only and stages=[train]; "
            "measure where they were trained, or train them again under another out="
        )
    if gone:
        key, number = next(iter(gone)), sum(map(len, gone.values()))
        known = folder.measurement(key)
        added = [metric for metric in measure["metrics"] if known is None or metric not in known.metrics]
        why = f"to measure {', '.join(added)}"
        if not added:
            of_pairs = ", ".join(metric for metric in measure["metrics"] if metric in PAIR_CHOICES)
            why = f"to compare added networks with them ({of_pairs})"
        raise UserError(
            f"{number} networks of {folder.path} are needed {why}, and are not kept (first: of cohort {key}), because "
            "they were run with keep=metrics_only or imported; nothing was changed: add values of axes alone, or run "
            "the larger grid under another out="
        )


def needed_networks(folder: RunFolder, cohort: Cohort, measure: Mapping[str, Any]) -> set[Member]:
    """Return the trained members of a cohort whose networks may be needed to measure what is not measured of it.

    Which of the untrained ones will diverge, and so leave other pairs to be measured, is not known.
    """
    known = folder.measurement(cohort.key)
    if cohort.key not in folder.parts.trained:
        return set()
    rows = folder.trained_rows(cohort.key)
    if known is None:
        return set(networks_of(rows))
    finite = networks_of(rows[rows["status"] == OK])
    needed = set(networks_of(rows) - known.networks)
    if not known.metrics >= set(measure.get("metrics", ())):
        return needed | finite
    of_pairs = known.metrics & set(PAIR_CHOICES)
    compares = any(KERNELS[metric].compares for metric in of_pairs)  # all pairs, whatever is chosen
    added: dict[int, list[int]] = {}
    for configuration, seed in members_of(cohort):
        if (configuration, seed) not in known.networks:
            added.setdefault(configuration, []).append(seed)
    for configuration, seeds in added.items() if of_pairs else ():
        old = sorted(seed for number, seed in finite & known.networks if number == configuration)
        are_first = measure.get("pairs") == "first" and len(old) > 1 and old[1] < min(seeds)
        if compares or not are_first:
            needed |= {(configuration, seed) for seed in old}
    return needed


def stacked_networks(folder: RunFolder, cohort: Cohort, fresh: Networks | None) -> Any:
    """Return the variables of all members of a trained cohort, stacked in its order.

    `fresh` are those just trained, the others are read. In the place of a network that is not kept stands another one:
    it is not measured, see `check_networks_are_there`.
    """
    members = members_of(cohort)
    found = [] if fresh is None else [fresh]
    for path, held in folder.checkpoints(cohort.key).items():
        if fresh is None or held != set(fresh.members):
            found.append(_read_networks(folder, path, cohort, held))
    if len(found) == 1 and found[0].members == members:
        return found[0].variables
    place = {member: (part, row) for part, one in enumerate(found) for row, member in enumerate(one.members)}
    return _stacked([one.variables for one in found], [place.get(member, (0, 0)) for member in members])


def _read_networks(folder: RunFolder, path: Any, cohort: Cohort, held: Collection[Member]) -> Networks:
    from mdtree_jax.store.checkpoint import load_population

    folder.ledger.check(cohort.key, path)
    variables, members = load_population(path, folder.parts.grids)
    if len(members) != len(held) or set(members) != set(held):
        raise UserError(f"{path} does not hold the members of cohort {cohort.key}")
    return Networks(members, variables)


def _stacked(parts: Sequence[Any], places: Sequence[tuple[int, int]]) -> Any:
    """Return rows of nested dicts of stacked arrays, stacked anew; a place is (part, row)."""
    if isinstance(parts[0], Mapping):
        return {name: _stacked([part[name] for part in parts], places) for name in parts[0]}
    return np.stack([parts[part][row] for part, row in places])
