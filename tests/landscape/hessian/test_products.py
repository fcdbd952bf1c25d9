import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdtree_jax.checks import UserError
from mdtree_jax.landscape import ggn, hvp, xtrace
from mdtree_jax.landscape.hessian.products import flat_product, over_block
from tests.landscape.problems import dense, dense_hessian, regression, tiny_network


@pytest.mark.parametrize("batch_size", [None, 1, 3, 7, 100])
def test_hessian_of_a_regression_is_the_closed_form(batch_size):
    loss, params, data, hessian = regression(rows=7)
    got = dense(jax.vmap(hvp(loss, params, data, batch_size=batch_size)), jax.tree.map(lambda p: p[None], params))
    np.testing.assert_allclose(got, hessian, rtol=1e-12, atol=1e-13)


def test_a_short_last_batch_counts_by_its_rows():
    _, _, loss, params, data = tiny_network(rows=9)
    exact = dense_hessian(loss, params, data)
    for batch_size in (4, 3):  # 4 + 4 + 1; 3 + 3 + 3
        product = jax.jit(hvp(loss, params, data, batch_size=batch_size))
        np.testing.assert_allclose(dense(product, params), exact, rtol=1e-10, atol=1e-12)
    # Equal weights for the batches would be wrong, and this would see it.
    uneven = [
        dense_hessian(loss, params, jax.tree.map(lambda a, p=part: a[p], data)) for part in (slice(8), slice(8, 9))
    ]
    assert np.abs(sum(uneven) / 2 - exact).max() > 1e-3


def test_loss_without_data():
    _, _, loss, params, data = tiny_network()
    product = jax.jit(hvp(lambda p: loss(p, data), params))
    np.testing.assert_allclose(dense(product, params), dense_hessian(loss, params, data), rtol=1e-10, atol=1e-12)


def test_gauss_newton_equals_the_hessian_for_linear_outputs():
    _, params, data, hessian = regression(rows=7)

    def outputs(params, data):
        return data[0] @ params["weight"] + params["shift"]

    for batch_size in (None, 2):
        product = ggn(outputs, lambda o, d: ((o - d[1]) ** 2).mean(), params, data, batch_size=batch_size)
        np.testing.assert_allclose(dense(product, params), hessian, rtol=1e-12, atol=1e-13)


def test_gauss_newton_equals_the_hessian_at_zero_residual_and_not_elsewhere():
    outputs, _, _, params, data = tiny_network()
    target = outputs(params, data)

    def output_loss(out, batch):
        return ((out - batch[2]) ** 2).sum(1).mean()

    def product(target):
        return jax.jit(ggn(outputs, output_loss, params, (*data, target), batch_size=4))

    def hessian(target):
        return dense_hessian(lambda p, d: output_loss(outputs(p, d), d), params, (*data, target))

    np.testing.assert_allclose(dense(product(target), params), hessian(target), rtol=1e-9, atol=1e-11)
    assert np.abs(dense(product(target + 1), params) - hessian(target + 1)).max() > 0.1


def test_gauss_newton_of_cross_entropy_is_the_formula():
    outputs, output_loss, _, params, data = tiny_network(rows=5)
    jacobian = jax.jacrev(outputs)(params, data)
    jacobian = np.concatenate([np.asarray(j).reshape(5, 3, -1) for j in jax.tree.leaves(jacobian)], -1)
    p = np.asarray(jax.nn.softmax(outputs(params, data)))
    expected = sum(j.T @ (np.diag(q) - np.outer(q, q)) @ j for j, q in zip(jacobian, p, strict=True)) / 5
    got = dense(jax.jit(ggn(outputs, output_loss, params, data)), params)
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)
    assert np.linalg.eigvalsh(got).min() > -1e-12


def test_many_products_share_the_primal_computation():
    _, _, loss, params, data = tiny_network()

    def run(params, vectors):
        product = hvp(loss, params, data)
        return jax.lax.map(product, vectors)

    vectors = jax.tree.map(lambda p: jnp.ones((3, *p.shape)), params)
    jaxpr = jax.make_jaxpr(run)(params, vectors).jaxpr
    (loop,) = [e for e in jaxpr.eqns if e.primitive.name == "scan"]
    inner = str(loop.params["jaxpr"])
    assert "tanh" not in inner
    assert "exp " not in inner
    assert "tanh" in str(jaxpr)


@pytest.mark.parametrize("batched", [False, True])
def test_a_block_shares_each_batch(batched):
    """Batches are the outer loop: no forward pass within the loop over vectors, flat or not."""
    _, _, loss, params, data = tiny_network(rows=9)
    exact = dense_hessian(loss, params, data)

    def run(params, flat):
        multiply, _, _ = flat_product(hvp(loss, params, data, batch_size=4), params)
        return over_block(multiply, flat, batched)

    vectors = np.random.default_rng(0).standard_normal((3, len(exact)))
    np.testing.assert_allclose(jax.jit(run)(params, vectors), vectors @ exact, rtol=1e-10, atol=1e-12)
    (batches,) = [e for e in jax.make_jaxpr(run)(params, vectors).jaxpr.eqns if e.params.get("length") == 2]
    body = batches.params["jaxpr"].jaxpr
    assert "tanh" in str(body)
    assert all("tanh" not in str(e.params["jaxpr"]) for e in body.eqns if e.params.get("length") == 3)
    assert any(e.params.get("length") == 3 for e in body.eqns) != batched
    estimate = xtrace(8, block=2, batched=batched)
    products = (hvp(loss, params, data, batch_size=size) for size in (None, 4))
    traces = [float(estimate(product, jax.random.key(0), params).mean) for product in products]
    assert traces[0] == pytest.approx(traces[1], rel=1e-10)


def test_bad_data_is_one_sentence():
    loss, params, data, _ = regression()
    for make in (lambda p, f: hvp(f, p, data), lambda p, f: ggn(lambda p, d: f(p, d), lambda o, d: o, p, data)):
        with pytest.raises(UserError, match="the parameters are empty"):
            make({}, loss)
        with pytest.raises(UserError, match="parameters must be floating-point numbers"):
            make(jax.tree.map(lambda p: p.astype(int), params), loss)
        with pytest.raises(UserError, match="it must be a scalar"):
            make(params, lambda p, d: d[1])
    with pytest.raises(UserError, match=r"batch_size 0 must be a whole number of at least 1"):
        hvp(loss, params, data, batch_size=0)
    with pytest.raises(UserError, match=r"batch_size 4 needs data"):
        hvp(lambda p: loss(p, data), params, batch_size=4)
    with pytest.raises(UserError, match=r"is an empty batch; it needs at least one row"):
        hvp(loss, params, jax.tree.map(lambda a: a[:0], data))
    with pytest.raises(UserError, match=r"is uneven; all first axes must be equal"):
        hvp(loss, params, (data[0], data[1][:3]))
    with pytest.raises(UserError, match=r"has no rows"):
        hvp(loss, params, (jnp.float64(1),))
