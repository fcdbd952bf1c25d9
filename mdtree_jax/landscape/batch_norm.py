"""BatchNorm statistics of given weights, recomputed over batches. JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from mdtree_jax.checks import UserError


def recompute_batch_stats(
    apply_train: Callable[[Any, Any], tuple[Any, Any]],
    variables: Any,
    draw: Callable[[jax.Array], Any],
    num_batches: int | jax.Array,
) -> Any:
    """Return BatchNorm statistics as the average over batches of each batch's mean and variance.

    Weights between two networks have no running averages of their own, and those of the endpoints are not valid for
    them: they are recomputed before the weights are evaluated (Izmailov et al., 2018, section 3.2; Garipov et al.,
    2018, A.2).

    This works for any model whose running averages are updated by new = m * old + (1 - m) * batch in training mode. The
    momentum m of each leaf is determined from two calls on the first batch, with old = 0 and with old = s, a number of
    the magnitude of the batch statistics to limit rounding errors: m = (new(s) - new(0)) / s. Every batch then gives
    batch = new(0) / (1 - m). A leaf that is not updated is returned unchanged, and so is one that is not of floating
    point (a counter); one that `apply_train` hands on as it is, such as a frozen weight, also keeps its value in every
    call. The cost is num_batches + 1 forward passes. `check_averages` finds states of other kinds.

    Args:
        apply_train: `apply_train(variables, x) -> (outputs, updated)` in training mode, where
            `updated["batch_stats"]` are the running averages after the batch.
        variables: `{"params": ..., "batch_stats": ...}`; only the shapes of the running averages are used.
        draw: `draw(index) -> x`, the batch with that index, int32 from 0; all batches have the same size.
        num_batches: at least 1; may be traced.

    Returns:
        The new `batch_stats`; an empty tree, without calling the model, if it has none.

    Raises:
        UserError: a static `num_batches` below 1.
    """
    whole = variables.get("batch_stats", {})
    if not any(map(_is_floating, jax.tree.leaves(whole))):
        return whole
    if not isinstance(num_batches, jax.Array) and num_batches < 1:
        raise UserError(f"num_batches {num_batches} must be at least 1")
    stats = _updated(apply_train, variables, jax.eval_shape(draw, jax.ShapeDtypeStruct((), jnp.int32)))
    if not jax.tree.leaves(stats):
        return whole
    num_batches = jnp.asarray(num_batches, jnp.int32)

    def body(call: jax.Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        # Call 0 is the first batch, call 1 the same with old = s, call i > 1 batch i - 1: one program for all.
        total, momentum = carry
        is_probe = call == 1
        scale = jax.tree.map(lambda first: jnp.maximum(jnp.abs(first).max(), 1), total)
        old = jax.tree.map(lambda s, leaf: jnp.full_like(leaf, jnp.where(is_probe, s, 0)), scale, stats)
        given = {**variables, "batch_stats": joined(old, whole)}
        _, updated = apply_train(given, draw(jnp.maximum(call - 1, 0)))
        new = _of(updated["batch_stats"], stats)
        # The mean over channels: one momentum a leaf, less rounding.
        probed = jax.tree.map(lambda new, first, s: ((new - first) / s).mean(), new, total, scale)
        momentum = jax.tree.map(lambda new, old: jnp.where(is_probe, new, old), probed, momentum)
        return jax.tree.map(lambda total, new: jnp.where(is_probe, total, total + new), total, new), momentum

    zeros = jax.tree.map(jnp.zeros_like, stats), jax.tree.map(lambda leaf: jnp.zeros((), leaf.dtype), stats)
    total, momentum = lax.fori_loop(jnp.zeros_like(num_batches), num_batches + 1, body, zeros)

    def average(total: jax.Array, m: jax.Array, old: jax.Array) -> jax.Array:
        is_fixed = jnp.abs(1 - m) < 16 * jnp.finfo(m.dtype).eps
        weight = jnp.where(is_fixed, 1, 1 - m) * num_batches.astype(m.dtype)
        return jnp.where(is_fixed, old, total / weight)

    return joined(jax.tree.map(average, total, momentum, stats), whole)


def check_averages(apply_train: Callable[[Any, Any], tuple[Any, Any]], variables: Any, x: Any) -> list[str]:
    """Return the leaves of a state that are no running averages, so that `recompute_batch_stats` would be wrong.

    Every leaf's m is computed with two scales of the old averages that differ from leaf to leaf: the two must agree, be
    the same for all its entries, and lie in [0, 1]. An average that is corrected for its beginning, or made from
    another leaf, fails.

    Args:
        apply_train, variables: as of `recompute_batch_stats`.
        x: one batch, of at least two different examples.
    """
    whole = variables.get("batch_stats", {})
    stats = _updated(apply_train, variables, x)

    def updated(scales: Any) -> Any:
        old = jax.tree.map(lambda scale, leaf: jnp.full_like(leaf, scale), scales, stats)
        return _of(apply_train({**variables, "batch_stats": joined(old, whole)}, x)[1]["batch_stats"], stats)

    first = updated(jax.tree.map(lambda leaf: jnp.zeros((), leaf.dtype), stats))
    structure = jax.tree.structure(stats)
    found = []
    for ratios in ([1.0] * structure.num_leaves, [0.5 + (7 * i % 11) / 8 for i in range(structure.num_leaves)]):
        sizes = [
            jnp.maximum(jnp.abs(leaf).max(), 1) * r for leaf, r in zip(jax.tree.leaves(first), ratios, strict=True)
        ]
        scales = structure.unflatten(sizes)
        found.append(jax.tree.map(lambda new, old, s: (new - old) / s, updated(scales), first, scales))
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(stats)]
    wrong = []
    for name, one, other in zip(names, *map(jax.tree.leaves, found), strict=True):
        m = one.mean()
        fits = (
            (jnp.abs(one - m) < _SLACK).all() & (jnp.abs(other - m) < _SLACK).all() & (m > -_SLACK) & (m < 1 + _SLACK)
        )
        if not bool(fits):
            wrong.append(name)
    return wrong


#: How much the momentum of a leaf may vary from rounding.
_SLACK = 1e-3


def _updated(apply_train: Callable[[Any, Any], tuple[Any, Any]], variables: Any, x: Any) -> Any:
    """Return the running averages with None for leaves that no batch moves: not of floating point, or handed on."""
    whole = variables.get("batch_stats", {})
    leaves, structure = jax.tree.flatten(whole)
    abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a)), (variables, x))
    rest = {name: value for name, value in abstract[0].items() if name != "batch_stats"}

    def updated(stats: Any, rest: Any, x: Any) -> Any:
        return apply_train({**rest, "batch_stats": stats}, x)[1]["batch_stats"]

    program = jax.make_jaxpr(updated)(abstract[0]["batch_stats"], rest, abstract[1]).jaxpr
    given = program.invars[: len(leaves)]

    def moved(leaf: Any, old: Any, new: Any) -> Any:
        return leaf if _is_floating(leaf) and _origin(program, new) is not old else None

    return structure.unflatten([moved(*three) for three in zip(leaves, given, program.outvars, strict=True)])


def _is_floating(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def _origin(program: Any, new: Any) -> Any:
    """Return the variable of a traced program that `new` is handed on from, also through functions under `jit`."""
    for call in program.eqns:
        place = next((place for place, variable in enumerate(call.outvars) if variable is new), None)
        if place is None or call.primitive.name not in ("jit", "pjit"):
            continue
        inner = call.params["jaxpr"].jaxpr
        origin = _origin(inner, inner.outvars[place])
        given = next((place for place, variable in enumerate(inner.invars) if variable is origin), None)
        return new if given is None else _origin(program, call.invars[given])
    return new


def _of(tree: Any, part: Any) -> Any:
    """Return the tree with None where `part` has None."""
    return jax.tree.map(lambda one, leaf: None if one is None else leaf, part, tree, is_leaf=lambda leaf: leaf is None)


def joined(part: Any, whole: Any) -> Any:
    """Return `part` with the leaves of `whole` where it has None."""
    return jax.tree.map(
        lambda one, other: other if one is None else one, part, whole, is_leaf=lambda leaf: leaf is None
    )
