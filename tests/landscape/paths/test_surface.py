import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdtree_jax.checks import UserError
from mdtree_jax.landscape import filter_normalized_directions, loss_surface

pytestmark = pytest.mark.usefixtures("strict")


def network():
    rng = np.random.default_rng(0)
    shapes = {"conv": (3, 3, 4, 5), "bias": (7,)}
    return {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}


def test_every_filter_of_a_direction_is_as_long_as_the_networks():
    params = network()
    params["conv"] = params["conv"].at[..., 2].set(0)
    make = jax.jit(filter_normalized_directions, static_argnames=("num", "unit_axis", "ignore_vectors"))
    first, second = jax.device_get(make(jax.random.key(0), params, num=2, ignore_vectors=False))
    params = jax.device_get(params)
    for unit in range(5):
        length = np.linalg.norm(params["conv"][..., unit])
        for direction in (first, second):
            np.testing.assert_allclose(np.linalg.norm(direction["conv"][..., unit]), length, rtol=1e-12)
    assert np.abs(first["conv"] - second["conv"]).max() > 0.1
    np.testing.assert_allclose(np.linalg.norm(first["bias"]), np.linalg.norm(params["bias"]))
    assert not filter_normalized_directions(jax.random.key(0), {"bias": params["bias"]})[0]["bias"].any()
    turned = {"w": params["conv"].transpose(3, 0, 1, 2)}  # units first, as in PyTorch
    direction = jax.device_get(make(jax.random.key(0), turned, unit_axis=0)[0])
    for unit in range(5):
        np.testing.assert_allclose(np.linalg.norm(direction["w"][unit]), np.linalg.norm(turned["w"][unit]))


def test_directions_are_random_within_a_filter():
    """Cosines of two random directions in d dimensions have mean 0 and variance 1 / d."""
    params = {"w": np.ones((16, 2000))}
    first, second = jax.device_get(filter_normalized_directions(jax.random.key(1), params, 2))
    cosines = np.sum(first["w"] * second["w"], axis=0) / 16
    assert abs(cosines.mean()) < 4 * (1 / 16 / 2000) ** 0.5
    spread = (1 / 16) * (2 / 2000) ** 0.5
    assert abs(cosines.var() - 1 / 16) < 4 * spread
    assert abs(1.5 * cosines.var() - 1 / 16) > 4 * spread


def test_slices_of_a_quadratic():
    centre, u, v = jnp.array([1.0, 0.0, 2.0]), jnp.array([1.0, 2.0, 0.0]), jnp.array([0.0, 0.5, -1.0])

    def evaluate(w):
        return {"loss": jnp.vdot(w, w), "first": w[0]}

    coordinates, values = loss_surface(evaluate, centre, [u], radius=2.0, num_points=5)
    np.testing.assert_allclose(coordinates, [-2, -1, 0, 1, 2])
    np.testing.assert_allclose(values["loss"], 5 + 2 * np.asarray(coordinates) + 5 * np.asarray(coordinates) ** 2)
    coordinates, values = loss_surface(evaluate, centre, (u, v), radius=0.3, num_points=7)
    a, b = np.meshgrid(coordinates, coordinates, indexing="ij")
    expected = 5 + 2 * a - 4 * b + 5 * a**2 + 1.25 * b**2 + 2 * a * b
    np.testing.assert_allclose(values["loss"], expected, rtol=1e-12)
    np.testing.assert_allclose(values["first"], 1 + a, rtol=1e-12)
    assert values["loss"][3, 3] == 5


def test_batched_equals_one_by_one_and_nan_harms_no_other():
    params = {"w": np.random.default_rng(0).normal(size=(3, 4))}
    params = jax.tree.map(lambda leaf: np.stack([leaf, 2 * leaf, leaf * np.nan]), params)

    def one(params):
        directions = filter_normalized_directions(jax.random.key(0), params, 2)
        return loss_surface(lambda w: sum((leaf**3).sum() for leaf in w.values()), params, directions, num_points=3)

    single = jax.jit(one)
    alone = [single(jax.tree.map(lambda leaf, i=i: leaf[i], params)) for i in range(3)]
    alone = jax.tree.map(lambda *leaves: np.stack(leaves), *alone)
    for batched in (jax.jit(jax.vmap(one))(params), jax.lax.map(one, params)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), batched, alone)
    assert np.isnan(alone[1][2]).all()
    assert np.isfinite(alone[1][:2]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius": 0.0}, "radius 0 must be above 0"),
        ({"radius": -1.0}, "radius -1 must be above 0"),
        ({"num_points": 4}, r"num_points 4 must be 3, 5, 7"),
        ({"directions": ()}, "there are 0 directions; expected 1 or 2"),
        ({"directions": [jnp.ones(3, jnp.float32)]}, r"leaf '' has shape \(2,\) in one network and \(3,\)"),
    ],
)
def test_bad_slices(options, message):
    with pytest.raises(UserError, match=message):
        loss_surface(**({"evaluate": jnp.sum, "params": jnp.ones(2), "directions": [jnp.ones(2)]} | options))


def test_bad_directions():
    key = jax.random.key(0)
    with pytest.raises(UserError, match="num 3 must be 1 or 2"):
        filter_normalized_directions(key, network(), 3)
    with pytest.raises(UserError, match="parameters hold 'w' of type int64; expected floating-point numbers"):
        filter_normalized_directions(key, {"w": jnp.ones((2, 2), int)})
    with pytest.raises(UserError, match="unit_axis 2 must be from -2 to 1: an array has 2 axes"):
        filter_normalized_directions(key, {"w": np.ones((2, 2))}, unit_axis=2)
