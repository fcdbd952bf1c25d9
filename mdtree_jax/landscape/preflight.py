"""Checks before a kernel runs: can the landscape of this loss be measured? On the host, without `jit`.

With dropout, or BatchNorm in training mode, the Hessian of the loss is not that of the trained network; a loss that
changes from call to call has no Hessian. Call these checks once per kind of model, not under a transformation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mdtree_jax.checks import UserError
from mdtree_jax.landscape.arguments import check_params, check_scalar, count_rows

#: Relative differences above this many square roots of the rounding unit are no rounding (float32: 7e-4).
ROOTS = 2
#: Differences are relative to at least this: a cross-entropy is a difference of logits, however small it comes out.
SMALLEST_SCALE = 1e-2


def check_loss(loss: Callable[..., jax.Array], params: Any, data: Any = None) -> None:
    """Check that kernels can be run on `loss(params)` or `loss(params, data)`.

    Args:
        loss: as for `hvp`.
        params: of one network.
        data: pytree of arrays with the same first axis, or None. With two rows or more, it also checks that the loss is
            the mean over the rows.

    Raises:
        UserError: no parameters, integer or mixed types, no rows; a loss that is not scalar, not finite or not
            deterministic; a loss that depends on the order of the rows (dropout) or is not their mean (BatchNorm in
            training mode).
    """
    check_params(params)
    size = 0 if data is None else count_rows(data)
    value = _loss_value(loss, params, data)
    if not np.isfinite(value):
        raise UserError(f"the loss is {value} at the given parameters; it must be finite")
    again = _loss_value(loss, params, data)
    if _differ(value, again, params):
        raise UserError(
            f"the loss is {value} at first and {again} in a second call at the same parameters; it must be "
            f"deterministic, and this looks like dropout or another source of randomness"
        )
    if size > 1:
        _check_mean(loss, params, data, size, value)


def _check_mean(loss: Callable, params: Any, data: Any, size: int, value: float) -> None:
    rolled = _loss_value(loss, params, jax.tree.map(lambda a: jnp.roll(a, 1, 0), data))
    if _differ(value, rolled, params):
        raise UserError(
            f"the loss is {value}, but {rolled} with the rows of the data in another order; this looks like dropout, "
            f"which must be switched off"
        )
    half = size // 2
    first, second = (
        _loss_value(loss, params, jax.tree.map(lambda a, part=part: a[part], data))
        for part in (slice(None, half), slice(half, None))
    )
    mean = (half * first + (size - half) * second) / size
    if not _differ(value, mean, params):
        return
    if not _differ(value, first + second, params):
        raise UserError(f"the loss {value} is the sum over the rows of the data; it must be their mean")
    raise UserError(
        f"the loss is {value} on all rows, but {mean} as the mean over two halves of them: rows depend on each other; "
        f"this looks like BatchNorm in training mode, which must be in eval mode"
    )


def check_apply(apply: Callable[[Any, Any], jax.Array], params: Any, x: Any) -> None:
    """Check that the output of a network for each example is deterministic and independent of the other examples.

    Args:
        apply: `apply(params, x)`, an array (n, ...).
        params: of one network.
        x: pytree of arrays with the same first axis n; the checks need at least 2 rows.

    Raises:
        UserError: no parameters, integer or mixed types, no rows; outputs that do not have n rows, are not finite or
            not deterministic; an example with different outputs within a batch (dropout), or an output that depends on
            the other examples (BatchNorm in training mode).
    """
    check_params(params)
    size = count_rows(x)
    outputs = _outputs(apply, params, x, size)
    if not np.isfinite(outputs).all():
        raise UserError("the outputs at the given parameters are not finite; they must be")
    if _differ(outputs, _outputs(apply, params, x, size), params):
        raise UserError(
            "the outputs differ between two calls with the same parameters and examples; they must be deterministic, "
            "and this looks like dropout or another source of randomness"
        )
    copies = _outputs(apply, params, jax.tree.map(lambda a: jnp.repeat(a[:1], max(size, 2), 0), x), max(size, 2))
    first = np.broadcast_to(copies[:1], copies.shape)
    # Equal with NaN in them: examples without a spread, which the next check tells from dropout.
    if not np.array_equal(copies, first, equal_nan=True) and _differ(copies, first, params):
        raise UserError(
            "the same example twice in a batch gets two different outputs; this looks like dropout, which must be "
            "switched off"
        )
    half = max(size // 2, 1)
    if _differ(outputs[:half], _outputs(apply, params, jax.tree.map(lambda a: a[:half], x), half), params):
        raise UserError(
            "an example's output depends on the other examples of its batch; this looks like BatchNorm in training "
            "mode, which must be in eval mode"
        )


def _loss_value(loss: Callable, params: Any, data: Any) -> float:
    value = loss(params) if data is None else loss(params, data)
    check_scalar(value)
    return float(value)


def _outputs(apply: Callable, params: Any, x: Any, size: int) -> np.ndarray:
    outputs = np.asarray(apply(params, x))
    if outputs.ndim == 0 or outputs.shape[0] != size:
        raise UserError(f"the outputs of {size} examples have shape {outputs.shape}; the first axis must be {size}")
    return outputs


def _differ(a: Any, b: Any, params: Any) -> bool:
    """Return whether two results differ by more than rounding, relative to the larger."""
    tolerance = ROOTS * float(jnp.finfo(jnp.result_type(*jax.tree.leaves(params))).eps) ** 0.5
    scale = max(float(np.abs(a).max()), float(np.abs(b).max()), SMALLEST_SCALE)
    # NaN differs from everything.
    return not bool(np.abs(np.asarray(a) - np.asarray(b)).max() <= tolerance * scale)
