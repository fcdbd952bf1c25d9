"""Slices through the loss surface along filter-normalised directions (Li et al., 2018). JAX."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from mdtree_jax.checks import UserError
from mdtree_jax.landscape.paths.points import add_scaled, check_pair, check_parameters


def filter_normalized_directions(
    key: jax.Array, params: Any, num: int = 1, *, unit_axis: int = -1, ignore_vectors: bool = True
) -> tuple[Any, ...]:
    """Return `num` random directions, with every filter scaled to the norm of the network's filter.

    With BatchNorm, the scale of a filter is arbitrary, so steps are measured relative to it:
    d_i = g_i |w_i| / |g_i| for the i-th filter w_i of each array and g Gaussian (Li et al., 2018, section 4). A filter
    consists of all weights of one unit: the slice of an array of two or more axes at one index of `unit_axis`. Vectors
    (bias, BatchNorm scale and shift) get a direction of 0, or are one filter with `ignore_vectors=False`. A filter of
    zeros gets a direction of zeros.

    Args:
        key: random key of the Gaussians.
        params: pytree of floating-point arrays.
        num: 1 or 2.
        unit_axis: the axis of an array that counts its units: -1 for kernels (3, 3, inputs, units) and
            (inputs, units); 0 in PyTorch's layout.
        ignore_vectors: whether arrays with fewer than two axes stay constant along the slice.

    Raises:
        UserError: num not 1 or 2; parameters that are not floating-point; a `unit_axis` that an array does not have.
    """
    if num not in (1, 2):
        raise UserError(f"num {num} must be 1 or 2")
    check_parameters(params)
    least = min((jnp.ndim(leaf) for leaf in jax.tree.leaves(params) if jnp.ndim(leaf) > 1), default=2)
    if not -least <= unit_axis < least:
        raise UserError(f"unit_axis {unit_axis} must be from {-least} to {least - 1}: an array has {least} axes")
    leaves, structure = jax.tree.flatten(params)
    directions = []
    for number in range(num):
        keys = jax.random.split(jax.random.fold_in(key, number), len(leaves))
        drawn = [_direction(k, jnp.asarray(w), unit_axis, ignore_vectors) for k, w in zip(keys, leaves, strict=True)]
        directions.append(jax.tree.unflatten(structure, drawn))
    return tuple(directions)


def _direction(key: jax.Array, w: jax.Array, unit_axis: int, ignore_vectors: bool) -> jax.Array:
    if w.ndim < 2 and ignore_vectors:
        return jnp.zeros_like(w)
    g = jax.random.normal(key, w.shape, w.dtype)
    axes = tuple(i for i in range(w.ndim) if w.ndim < 2 or i != unit_axis % w.ndim)
    lengths = [jnp.sqrt(jnp.sum(a * a, axis=axes, keepdims=True)) for a in (w, g)]
    return g * (lengths[0] / lengths[1])


def loss_surface(
    evaluate: Callable[[Any], Any], params: Any, directions: Sequence[Any], radius: float = 1.0, num_points: int = 21
) -> tuple[Float[Array, " num_points"], Any]:
    """Return the values of a function of the parameters on a line or in a plane through them, one point at a time.

    Args:
        evaluate: maps parameters to a scalar or a pytree of scalars: a loss, or errors and losses.
        params: the centre.
        directions: one or two, pytrees like `params`.
        radius: the slice extends from -radius to +radius along each direction.
        num_points: number of points along each direction; odd, so that they include the centre.

    Returns:
        coordinates, and values like `evaluate`'s of shape (num_points,) or (num_points, num_points),
        [i, j] at coordinates[i] along the first and coordinates[j] along the second direction.

    Raises:
        UserError: radius <= 0, num_points even or < 3, not one or two directions, a direction of other shapes.
    """
    directions = tuple(directions)
    if not (radius > 0 and math.isfinite(radius)):
        raise UserError(f"radius {radius:g} must be above 0")
    if num_points < 3 or num_points % 2 == 0:
        raise UserError(f"num_points {num_points} must be 3, 5, 7, ..., so that the points include the centre")
    if len(directions) not in (1, 2):
        raise UserError(f"there are {len(directions)} directions; expected 1 or 2")
    for direction in directions:
        check_pair(params, direction)
    params = jax.tree.map(jnp.asarray, params)
    dtype = jnp.result_type(jax.tree.leaves(params)[0])
    half = num_points // 2
    coordinates = jnp.arange(-half, half + 1, dtype=dtype) * (radius / half)  # 0 exactly in the middle

    def at(place: tuple[jax.Array, ...]) -> Any:
        moved = params
        for direction, coordinate in zip(directions, place, strict=True):
            moved = add_scaled(moved, direction, coordinate)
        return evaluate(moved)

    places = jnp.meshgrid(*[coordinates] * len(directions), indexing="ij")
    values = lax.map(at, tuple(axis.reshape(-1) for axis in places))
    return coordinates, jax.tree.map(lambda v: v.reshape(*places[0].shape, *v.shape[1:]), values)
