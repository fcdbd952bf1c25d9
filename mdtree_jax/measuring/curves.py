"""Curves that take long, trained in several calls: between them progress is shown and the state can be saved. JAX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mdtree_jax.measuring.flops import MeasureCost
from mdtree_jax.measuring.kernels import curve_block

#: Operations of one curve's training above which it is cut into calls of about as many: a minute or so on a core.
CURVE_BLOCK_FLOPS = 2e12


class Curves(NamedTuple):
    """The curves of a chunk under training: state, how many they are, share of the steps that is done, seconds."""

    state: Any
    num_curves: int
    fraction: float
    seconds: float

    def snapshot(self) -> dict[str, np.ndarray]:
        """Return the state as a flat dictionary of arrays, whose names sort in its order."""
        leaves = {f"curves/{i:04d}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(self.state))}
        return leaves | {"curve_seconds": np.asarray(self.seconds)}


def takes_long(cost: MeasureCost) -> bool:
    """Return whether a curve is trained in more than one call."""
    return cost.curve_flops > CURVE_BLOCK_FLOPS


def curves_in_blocks(
    start: Callable[..., Any],
    advance: Callable[..., Any],
    finish: Callable[..., Any],
    items: Any,
    data: Any,
    cost: MeasureCost,
    saved: Sequence[np.ndarray],
    sharding: Any,
    after_block: Callable[[Any, float], None],
) -> dict[str, jax.Array]:
    """Train and measure the curves of a chunk, the numbers those of a single call.

    Args:
        start, advance, finish: compiled parts of a curve over many pairs, see `measures.CurveParts`.
        items: the pairs, stacked.
        data: what they share.
        cost: of measuring; says how many steps a block has.
        saved: arrays of `Curves.snapshot`, in order; empty, or of other shapes, for a fresh start.
        sharding: of the items.
        after_block: called with state and fraction of the steps after every block but the last.
    """
    state = start(items, data)
    leaves, structure = jax.tree.flatten(state)
    length = curve_block(cost.settings) or 1
    if [array.shape for array in saved] == [leaf.shape for leaf in leaves]:
        kept = [jax.device_put(np.asarray(s, leaf.dtype), sharding) for s, leaf in zip(saved, leaves, strict=True)]
        state = structure.unflatten(kept)
    num_steps = cost.settings.curve_steps
    block = np.int32(-(-cost.curve_steps_of(CURVE_BLOCK_FLOPS) // length) * length)
    while (done := int(np.asarray(state.step)[0])) < num_steps:
        state = advance((items, state), (data, np.int32(done), block))
        if done + block < num_steps:
            after_block(state, (done + block) / num_steps)
    return finish((items, state), data)
