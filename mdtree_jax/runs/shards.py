"""Which cohorts of a grid a process works on: a share of the work, or those that are named. No JAX."""

from __future__ import annotations

import heapq
import re
from collections.abc import Sequence

from mdtree_jax.checks import UserError, nearest
from mdtree_jax.recipe.cohort import Cohort


def chosen_cohorts(
    cohorts: Sequence[Cohort], shard: str | None = None, names: Sequence[str] | None = None
) -> tuple[Cohort, ...]:
    """Return the cohorts of a shard, as `3/16`, or of these names; all without either, always in their order.

    Raises:
        UserError: a shard that cannot be read, or beyond the count, or without a cohort; an unknown name.
    """
    if shard is not None:
        number, count = _parsed(shard)
        if number > len(cohorts):
            raise UserError(f"shard={shard} has no cohort: this grid has {len(cohorts)}; use that many shards at most")
        chosen = set(_dealt(cohorts, count)[number - 1])
        return tuple(cohort for cohort in cohorts if cohort.key in chosen)
    if names is None:
        return tuple(cohorts)
    keys = [cohort.key for cohort in cohorts]
    unknown = [name for name in names if name not in set(keys)]
    if unknown:
        shown = ", ".join(keys[:4]) + (" …" if len(keys) > 4 else "")
        raise UserError(f"unknown cohort '{unknown[0]}'{nearest(unknown[0], keys)}; this grid has {len(keys)}: {shown}")
    if not names:
        raise UserError("cohorts=[] does nothing; name some, or leave it out")
    return tuple(cohort for cohort in cohorts if cohort.key in set(names))


def _parsed(shard: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", shard)
    number, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= count:
        raise UserError(f"shard={shard} is not one of 1/{count or 16} to {count or 16}/{count or 16}")
    return number, count


def _dealt(cohorts: Sequence[Cohort], count: int) -> list[list[str]]:
    """Return the keys of the cohorts dealt to so many shards: the largest left goes to the shard with least work.

    The work is counted in images that are seen times the width, so that it is the same on every machine; of two shards
    with as much, the earlier one gets it, so that none is left without a cohort.
    """
    work = {c.key: c.width * c.train_epochs * sum(m.num_samples for m in c.members) for c in cohorts}
    shards: list[list[str]] = [[] for _ in range(count)]
    totals = [(0, number) for number in range(count)]
    heapq.heapify(totals)
    for key in sorted(work, key=lambda key: -work[key]):
        total, number = heapq.heappop(totals)
        shards[number].append(key)
        heapq.heappush(totals, (total + work[key], number))
    return shards
