"""Which member trains when and where: passes, devices, lanes, slots. NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Pass(NamedTuple):
    """Members held in memory together.

    Attributes:
        members: (devices * slots,) the index of the member in every slot, -1 for none.
        queue: (devices * lanes, length) int32, the slots of its device that a lane trains, in order; -1 for none.
    """

    members: np.ndarray
    queue: np.ndarray


def assign_lanes(costs: Sequence[int], num_lanes: int) -> list[list[int]]:
    """Return for every lane the members it trains, in order: the longest first, each to the lane that ends first.

    Depends on nothing but the arguments (Graham's rule: the end is at most 4/3 of the best possible).

    >>> assign_lanes([1, 2, 3, 4], num_lanes=2)
    [[3, 0], [2, 1]]
    """
    lanes: list[list[int]] = [[] for _ in range(num_lanes)]
    load = np.zeros(num_lanes, dtype=np.int64)
    for member in sorted(range(len(costs)), key=lambda m: (-costs[m], m)):
        lane = int(np.argmin(load))
        lanes[lane].append(member)
        load[lane] += costs[member]
    return lanes


def balance(costs: Sequence[int], num_lanes: int) -> float:
    """Return the share of lane steps that are steps of a member, if all lanes run until the last one ends.

    >>> balance([1, 2, 3, 4], num_lanes=4)
    0.625
    """
    loads = [sum(costs[m] for m in lane) for lane in assign_lanes(costs, num_lanes)]
    return sum(loads) / (num_lanes * max(*loads, 1))


def plan_passes(
    costs: Sequence[int], members_per_pass: int, num_devices: int, lanes_per_device: int
) -> tuple[Pass, ...]:
    """Return the passes of a cohort, all of one shape, so that one compiled program does them.

    Args:
        costs: of every member, proportional to its steps.
        members_per_pass: most members in memory at once; taken in the order of the cohort.
        num_devices: over which a pass is spread.
        lanes_per_device: members a device steps together.
    """
    starts = range(0, len(costs), members_per_pass)
    groups = [range(start, min(start + members_per_pass, len(costs))) for start in starts]
    assigned = [assign_lanes([costs[m] for m in group], num_devices * lanes_per_device) for group in groups]
    length = max(len(lane) for lanes in assigned for lane in lanes)
    # Every lane owns `length` slots: the shape depends on nothing but the longest queue.
    slots = np.arange(lanes_per_device * length, dtype=np.int32).reshape(lanes_per_device, length)
    passes = []
    for group, lanes in zip(groups, assigned, strict=True):
        members = np.full((len(lanes), length), -1)
        for lane, queued in enumerate(lanes):
            members[lane, : len(queued)] = [group[position] for position in queued]
        queue = np.where(members >= 0, np.tile(slots, (num_devices, 1)), -1).astype(np.int32)
        passes.append(Pass(members.reshape(-1), queue))
    return tuple(passes)


class Block(NamedTuple):
    """How many steps a loop of known length has, and whether every epoch is a whole number of such loops."""

    length: int
    is_exact: bool


def block_of(steps_per_epoch: Sequence[int] | np.ndarray, most: int = 512, pause: float = 0.1) -> Block:
    """Return the loop of known length in which the epochs of a cohort's members lose least.

    An epoch takes as many of these loops as it needs; steps of the last one that are beyond its end are idle. After a
    loop the device waits for the host, for the time of `pause` steps, an assumption that was not measured.

    Args:
        steps_per_epoch: of every member.
        most: steps.
        pause: in steps.

    >>> block_of([390, 390]).length, block_of([40, 80, 120]), block_of([7, 100])
    (390, Block(length=40, is_exact=True), Block(length=4, is_exact=False))
    """
    steps, times = np.unique(np.maximum(steps_per_epoch, 1), return_counts=True)
    lengths = np.arange(1, min(most, int(steps.max())) + 1)
    cost = (-(-steps[:, None] // lengths) * (lengths + pause) * times[:, None]).sum(0)
    length = int(lengths[np.flatnonzero(cost == cost.min())[-1]])
    return Block(length, not (steps % length).any())
