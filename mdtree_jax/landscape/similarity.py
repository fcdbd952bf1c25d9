"""Similarity of networks of one configuration: `linear_cka`, `agreement`, `l2_distance`, and means over pairs. JAX.

Measures take the outputs (or parameters) of k networks and return a symmetric (k, k) matrix for all pairs at once;
`mean_over_pairs` computes its mean with a standard error. Functions do not apply `jit` or `vmap` themselves.

| case | `linear_cka` | `agreement` | `l2_distance` |
|---|---|---|---|
| the diagonal; two networks equal bit by bit | exactly 1 | exactly 1 | exactly 0 |
| features that do not vary over the images | NaN, row and column | – | – |
| a network with NaN or infinity | NaN, row and column | NaN, row and column | NaN, row and column |
| fewer than two networks, no images, other shapes | `UserError` | `UserError` | `UserError` |

The similarity of a network with constant features is undefined: the formula gives 0/0. The diagonal shows which
networks have a value; `mean_over_pairs` leaves out the others, and returns the number of pairs used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from mdtree_jax.checks import UserError

#: Features vary when their standard deviation exceeds this many rounding units of their root mean square.
CONSTANT_ROUNDING_UNITS = 16


class MixupDraws(NamedTuple):
    """The random part of `mixup`: image i is `weight[i] x[first[i]] + (1 - weight[i]) x[second[i]]`.

    Attributes:
        first: rows of x; every row occurs once before any row is repeated.
        second: within each batch, a permutation of its `first`.
        weight: one number in (0, 1) per batch, repeated for its images.
    """

    first: Int[Array, " num_images"]
    second: Int[Array, " num_images"]
    weight: Float[Array, " num_images"]


def mixup(
    key: jax.Array,
    x: Float[Array, "rows ..."],
    num_samples: int | jax.Array,
    num_images: int = 768,
    batch_size: int = 128,
    alpha: float = 16.0,
) -> Float[Array, "num_images ..."]:
    """Return mixup images: lambda x + (1 - lambda) x', with one lambda ~ Beta(alpha, alpha) and permutation per batch.

    These are the inputs of the published similarity (Yang et al., 2021; mixup: Zhang et al., 2018). Draw them once and
    use them for all networks that are compared. The images are drawn without replacement from the first `num_samples`
    rows of `x`; if there are fewer than `num_images`, the same order is repeated.

    Args:
        key: random key.
        x: images.
        num_samples: 1 ... rows; may be traced.
        num_images: number of images to return.
        batch_size: size of a batch; the last one may be shorter.
        alpha: both parameters of the Beta distribution, more than 1/2; larger values are closer to the even mixture.

    Returns:
        The images, in the dtype of `x`.

    Raises:
        UserError: no images, `x` not floating-point, `num_samples` (if known) larger than the number of rows, or a
            number that is too small.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise UserError(f"mixup needs floating-point images, not {x.dtype}")
    if x.shape[0] < 1:
        raise UserError(f"mixup needs at least one image, but x has shape {x.shape}")
    if isinstance(num_samples, Integral) and not 1 <= num_samples <= x.shape[0]:
        raise UserError(f"num_samples={num_samples} of mixup must be between 1 and the {x.shape[0]} rows of x")
    draws = draw_mixup(key, x.shape[0], num_samples, num_images, batch_size, alpha, x.dtype)
    weight = draws.weight.reshape(-1, *[1] * (x.ndim - 1))
    return weight * x[draws.first] + (1 - weight) * x[draws.second]


def draw_mixup(
    key: jax.Array,
    num_rows: int,
    num_samples: int | jax.Array,
    num_images: int,
    batch_size: int,
    alpha: float,
    dtype: Any = jnp.float32,
) -> MixupDraws:
    """Return the random part of `mixup` for the first `num_samples` of `num_rows` images; see there."""
    for name, value, least in (("num_images", num_images, 0), ("batch_size", batch_size, 0), ("alpha", alpha, 0.5)):
        if not value > least:
            raise UserError(f"{name}={value} of mixup must be more than {least}")
    image_key, batch_key, weight_key = jax.random.split(key, 3)
    num_samples = jnp.asarray(num_samples, jnp.int32)
    num_batches = -(-num_images // batch_size)
    place = jnp.arange(num_images, dtype=jnp.int32)
    first = _random_order(image_key, num_samples, num_rows)[place % num_samples]

    sizes = jnp.minimum(num_images - batch_size * jnp.arange(num_batches, dtype=jnp.int32), batch_size)
    orders = jax.vmap(lambda key, size: _random_order(key, size, batch_size))(
        jax.random.split(batch_key, num_batches), sizes
    )
    batch = place // batch_size
    second = first[batch * batch_size + orders.reshape(-1)[:num_images]]
    weight = _symmetric_beta(weight_key, alpha, (num_batches,), dtype)
    return MixupDraws(first, second, weight[batch])


def _symmetric_beta(key: jax.Array, alpha: float, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Draw from Beta(alpha, alpha) by the polar method (Ulrich, 1984); alpha > 1/2.

    In closed form: a rejection method would be loops within loops, most of the program's time to compile.
    """
    u, v = jax.random.uniform(key, (2, *shape), dtype)
    return 0.5 + 0.5 * jnp.sqrt(1 - u ** (2 / (2 * alpha - 1))) * jnp.cos(2 * math.pi * v)


def _random_order(key: jax.Array, count: jax.Array, length: int) -> jax.Array:
    """Return a permutation of 0 ... count - 1 followed by the numbers up to `length`; `count` may be traced."""
    numbers = jnp.arange(length, dtype=jnp.int32)
    rank = jnp.where(numbers < count, jax.random.bits(key, (length,), jnp.uint32) >> 1, jnp.uint32(2**32 - 1))
    return lax.sort((rank, numbers), num_keys=1)[1]


def linear_cka(
    features: Float[Array, "networks images ..."] | Sequence[Float[Array, "images ..."]],
    debiased: bool = False,
) -> Float[Array, "networks networks"]:
    """Return the linear centred kernel alignment of every pair of networks.

    CKA(X, Y) = HSIC(X, Y) / sqrt(HSIC(X, X) HSIC(Y, Y)) (Kornblith et al., 2019) with X and Y centred over the images
    and HSIC(X, Y) = |X'Y|^2, the squared Frobenius norm. It is in [0, 1] and invariant to orthogonal transforms,
    isotropic scaling and shifts of X or Y. With few images and many features, it is always close to 1: `debiased` uses
    the unbiased estimator (Song et al., 2012; Nguyen et al., 2021), which sets the diagonals of the Gram matrices
    XX' and YY' to zero. For centred X and Y, with a and b the squared norms of their rows, that is

        n (n - 3) HSIC(X, Y) = |X'Y|^2 - n / (n - 2) a'b + (1'a) (1'b) / ((n - 1) (n - 2)),

    so no n x n matrix is needed; the result may be negative. If there are more features than images, |X'Y|^2 is
    computed from the Gram matrices, which are then smaller, so memory never exceeds that of the features. Edge cases:
    see the table of this module.

    Args:
        features: of all networks for the same images; trailing axes are flattened. For the published metric, these are
            the softmax outputs on `mixup` images.
        debiased: use the unbiased estimator.

    Returns:
        A symmetric matrix with 1 on the diagonal.

    Raises:
        UserError: fewer than two networks, fewer than two images (four if debiased), no features, different shapes, or
            numbers that are not floating-point.
    """
    features = _stacked("linear_cka", features, min_images=4 if debiased else 2)
    num_networks, num_images = features.shape[:2]
    x = features.reshape(num_networks, num_images, -1)
    centred = x - x.mean(1, keepdims=True)
    # With norm 1 no product overflows, and nothing depends on the scale.
    square, whole = (jnp.sum(a * a, (1, 2)) for a in (centred, x))
    rounding = CONSTANT_ROUNDING_UNITS * jnp.finfo(x.dtype).eps
    is_defined = (square > rounding**2 * whole) & jnp.isfinite(whole)
    centred = centred * lax.rsqrt(jnp.where(is_defined, square, 1))[:, None, None]
    hsic = _cross_norms(centred)
    if debiased:
        n = num_images
        rows = jnp.sum(centred * centred, -1)
        total = rows.sum(1)
        hsic = hsic - n / (n - 2) * _product(rows, rows.T) + total[:, None] * total[None, :] / ((n - 1) * (n - 2))
    own = jnp.diagonal(hsic)
    is_defined &= own > 0
    own = jnp.where(is_defined, own, 1)
    cka = hsic / jnp.sqrt(own[:, None] * own[None, :])
    cka = jnp.where(_is_equal(x), 1, (cka + cka.T) / 2)
    return _keep_defined(cka, is_defined)


def _cross_norms(x: jax.Array) -> jax.Array:
    """Return |X_i'X_j|^2 for x (k, n, d): row by row of pairs, in the smaller of feature and sample space."""
    num_networks, num_images, num_features = x.shape
    if num_features > num_images:  # the sum of XX' times YY', element by element
        gram = lax.map(lambda own: _product(own, own.T), x)
        return lax.map(lambda own: jnp.sum(own[None] * gram, (1, 2)), gram)
    side_by_side = x.transpose(1, 0, 2).reshape(num_images, -1)

    def row(own: jax.Array) -> jax.Array:
        product = _product(own.T, side_by_side).reshape(num_features, num_networks, num_features)
        return jnp.sum(product * product, (0, 2))

    return lax.map(row, x)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return the matrix product in full precision, also where the device's default is less."""
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def agreement(
    logits: Float[Array, "networks images classes"] | Sequence[Float[Array, "images classes"]],
) -> Float[Array, "networks networks"]:
    """Return the share of images for which two networks predict the same class, for every pair.

    Args:
        logits: of all networks for the same images; of equal logits, the first one counts.

    Returns:
        A symmetric matrix with 1 on the diagonal.

    Raises:
        UserError: fewer than two networks, no images, no classes, different shapes, or not floating-point.
    """
    logits = _stacked("agreement", logits, min_images=1)
    if logits.ndim != 3:
        raise UserError(f"agreement needs logits of shape (networks, images, classes), not {logits.shape}")
    predictions = lax.argmax(logits, 2, jnp.int32)
    share = lax.map(lambda own: jnp.mean((own[None] == predictions).astype(logits.dtype), 1), predictions)
    return _keep_defined(share, jnp.isfinite(logits).all((1, 2)))


def l2_distance(params_stack: Any) -> Float[Array, "networks networks"]:
    """Return the Euclidean distance between the parameters of every pair of networks.

    It is computed from differences, not from scalar products, to keep precision for close networks; the memory overhead
    is at most one copy of the stacked parameters.

    Args:
        params_stack: pytree of arrays with the networks as first axis.

    Returns:
        A symmetric matrix with 0 on the diagonal, in the widest dtype of the parameters.

    Raises:
        UserError: no parameters, first axes that differ, fewer than two networks, integer parameters.
    """
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(params_stack)]
    if not leaves or not all(leaf.ndim for leaf in leaves):
        raise UserError("l2_distance needs a pytree of arrays with the networks as first axis")
    if wrong := {str(leaf.dtype) for leaf in leaves if not jnp.issubdtype(leaf.dtype, jnp.floating)}:
        raise UserError(f"l2_distance needs floating-point parameters, not {', '.join(sorted(wrong))}")
    counts = sorted({leaf.shape[0] for leaf in leaves})
    if len(counts) > 1:
        raise UserError(
            f"l2_distance needs the networks as first axis of all parameters, but their lengths are {counts}"
        )
    _check_networks("l2_distance", counts[0])
    if not any(leaf.size for leaf in leaves):
        raise UserError("l2_distance needs at least one parameter")
    dtype = max((leaf.dtype for leaf in leaves), key=lambda dtype: jnp.finfo(dtype).bits)
    leaves = [leaf.reshape(counts[0], -1).astype(dtype) for leaf in leaves]

    def row(own: list[jax.Array]) -> jax.Array:
        return jnp.sqrt(sum(jnp.sum((leaf - mine[None]) ** 2, 1) for leaf, mine in zip(leaves, own, strict=True)))

    # Rounding is the same for both orders of a pair, so the matrix is symmetric as it is.
    distance = lax.map(row, leaves)
    return _keep_defined(distance, jnp.stack([jnp.isfinite(leaf).all(1) for leaf in leaves]).all(0))


def mean_over_pairs(
    matrix: Float[Array, "k k"], is_finite: Bool[Array, " k"]
) -> tuple[Float[Array, ""], Float[Array, ""], Int[Array, ""]]:
    """Return mean, standard error and number of the pairs of a symmetric matrix.

    Pairs that share a network are not independent, so the standard deviation over pairs would be too small. The
    standard error is the jackknife over networks (Arvesen, 1969): with M networks and m_i the mean over the pairs
    without network i, its square is (M - 1) / M times the sum of (m_i - mean of m)^2.

    Args:
        matrix: of a pairwise measure; NaN on the diagonal for a network without a value.
        is_finite: which networks to include; those without a value are always left out.

    Returns:
        mean over the off-diagonal pairs of the included networks, NaN for fewer than two; its standard error, NaN for
        fewer than three; the number of pairs.

    Raises:
        UserError: a matrix that is not square, `is_finite` of another length.
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or is_finite.shape != matrix.shape[:1]:
        raise UserError(
            f"mean_over_pairs needs a matrix (k, k) and is_finite (k,), not {matrix.shape} and {is_finite.shape}"
        )
    counts = is_finite & jnp.isfinite(jnp.diagonal(matrix))
    is_pair = counts[:, None] & counts[None, :] & ~jnp.eye(len(counts), dtype=bool)
    rows = jnp.where(is_pair, (matrix + matrix.T) / 2, 0).sum(1)
    number = counts.astype(jnp.int32).sum(dtype=jnp.int32)
    num_pairs = number * (number - 1) // 2
    m, total, nan = number.astype(matrix.dtype), rows.sum() / 2, jnp.asarray(math.nan, matrix.dtype)
    mean = jnp.where(number >= 2, total / jnp.maximum(m * (m - 1) / 2, 1), nan)
    without = (total - rows) / jnp.maximum((m - 1) * (m - 2) / 2, 1)
    spread = jnp.where(counts, without - jnp.where(counts, without, 0).sum() / jnp.maximum(m, 1), 0)
    variance = (m - 1) / jnp.maximum(m, 1) * jnp.sum(spread**2)
    return mean, jnp.where(number >= 3, jnp.sqrt(variance), nan), num_pairs


def _stacked(what: str, arrays: jax.Array | Sequence[jax.Array], min_images: int) -> jax.Array:
    """Return the outputs of all networks as one array (networks, images, ...), or raise what is wrong with them."""
    if isinstance(arrays, (list, tuple)):
        shapes = sorted({jnp.shape(array) for array in arrays})
        if len(shapes) > 1:
            raise UserError(f"{what} needs arrays of one shape for all networks, not {', '.join(map(str, shapes))}")
        _check_networks(what, len(arrays))
        arrays = jnp.stack(arrays)
    arrays = jnp.asarray(arrays)
    if arrays.ndim < 3:
        raise UserError(f"{what} needs an array of shape (networks, images, ...), not {arrays.shape}")
    if not jnp.issubdtype(arrays.dtype, jnp.floating):
        raise UserError(f"{what} needs floating-point numbers, not {arrays.dtype}")
    _check_networks(what, arrays.shape[0])
    if arrays.shape[1] < min_images:
        raise UserError(f"{what} needs at least {min_images} images, not {arrays.shape[1]}")
    if not arrays.size:
        raise UserError(f"{what} needs outputs that are not empty, but their shape is {arrays.shape}")
    return arrays


def _check_networks(what: str, number: int) -> None:
    if number < 2:
        raise UserError(f"{what} needs at least two networks, not {number}")


def _is_equal(x: jax.Array) -> jax.Array:
    """Return which networks have the same numbers, (k, k)."""
    return lax.map(lambda own: (x == own[None]).all((1, 2)), x)


def _keep_defined(matrix: jax.Array, is_defined: jax.Array) -> jax.Array:
    """Return the matrix with NaN in the rows and columns of networks that have no value."""
    return jnp.where(is_defined[:, None] & is_defined[None, :], matrix, jnp.asarray(math.nan, matrix.dtype))
