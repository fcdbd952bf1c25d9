"""What is measured, against dense Hessians and rewrites in NumPy."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdtree_jax import landscape
from mdtree_jax.checks import UserError
from mdtree_jax.measuring import similarity
from mdtree_jax.measuring.kernels import measure_key
from mdtree_jax.models import build_model
from mdtree_jax.recipe.measure_settings import resolve
from tests.measuring.cohorts import CLASSES, CONFIG, SETTINGS, SHAPE, WIDTH, make_cohort, measure

pytestmark = pytest.mark.usefixtures("float64")


def test_hessian_metrics_are_those_of_the_dense_hessian(cohort, data, measured):
    members, variables = cohort[0].members, cohort[1]
    model = build_model("mlp", WIDTH, CLASSES, SHAPE, "float64")
    for row, member in enumerate(members):
        network = jax.tree.map(lambda leaf, row=row: jnp.asarray(leaf[row]), variables)
        flat, unravel = jax.flatten_util.ravel_pytree(network["params"])
        images = np.arange(20) % member.num_samples

        def loss(flat, network=network, unravel=unravel, images=images):
            logits = model.apply({**network, "params": unravel(flat)}, data.x_train[images], False)[0]
            return -jax.nn.log_softmax(logits)[np.arange(20), data.y_train[images]].mean()

        hessian = jax.hessian(loss)(flat)
        eigenvalues = np.linalg.eigvalsh(hessian)
        dominant = eigenvalues[np.argmax(np.abs(eigenvalues))]
        found = measured.members.iloc[row]
        assert found["hessian_max_eigenvalue"] == pytest.approx(dominant, rel=1e-6)
        assert found["hessian_trace"] == pytest.approx(np.trace(hessian), rel=1e-6, abs=1e-6)
        spread = 6 * found["scale_invariant_trace_se"]
        assert found["scale_invariant_trace"] == pytest.approx(flat**2 @ np.diag(hessian), abs=spread + 1e-9)
        layers = measured.layers.query("configuration == @member.index and seed == @member.seed").set_index("layer")
        diagonal = unravel(jnp.diag(hessian))
        head = layers.loc["head/kernel"]
        assert head["hessian_trace"] == pytest.approx(
            diagonal["head"]["kernel"].sum(), abs=6 * head["hessian_trace_se"] + 1e-9
        )
        assert len(layers) == len(jax.tree.leaves(network["params"]))
        assert found["ball_sharpness"] >= 0


@pytest.mark.parametrize(("trace", "eigenvalue"), [("xtrace", "lanczos"), ("hutchinson", "power")])
def test_what_is_estimated_is_as_far_off_as_it_says(cohort, data, measured, trace, eigenvalue):
    """With fewer products than parameters, beside the exact numbers of `measured`."""
    config = dataclasses.replace(
        CONFIG, metrics=["hessian"], trace_products=48, trace_method=trace, eigenvalue_method=eigenvalue,
        eigenvalue_steps=300, eigenvalue_tolerance=1e-7,
    )  # fmt: skip
    found = measure(*cohort, data, settings=resolve(config))
    assert found.choices["use_xtrace"] == (trace == "xtrace")
    np.testing.assert_allclose(
        found.members["hessian_max_eigenvalue"], measured.members["hessian_max_eigenvalue"], rtol=1e-3
    )
    off = []
    for table in ("members", "layers"):
        there, exact = getattr(found, table), getattr(measured, table)
        names = ["hessian_trace", "scale_invariant_trace"] if table == "members" else ["hessian_trace"]
        for name in names:
            error = there[f"{name}_se"].to_numpy(float)
            assert (error > 0).all()
            off.append((there[name] - exact[name]).to_numpy(float) / error)
    off = np.concatenate(off)
    assert np.abs(off).max() < 5
    assert 0.4 < np.sqrt(np.mean(off**2)) < 2


def test_similarity_is_that_of_a_rewrite_in_numpy(cohort, data, measured):
    members, variables = cohort[0].members, cohort[1]
    model = build_model("mlp", WIDTH, CLASSES, SHAPE, "float64")
    outputs, flat = {}, {}
    for row, member in enumerate(members):
        network = jax.tree.map(lambda leaf, row=row: jnp.asarray(leaf[row]), variables)
        key = jax.random.wrap_key_data(measure_key(0, 1, member.num_samples))
        images = landscape.mixup(key, jnp.asarray(data.x_train), member.num_samples, num_images=64, alpha=16.0)
        outputs[row] = np.asarray(jax.nn.softmax(model.apply(network, images, False)[0]))
        flat[row] = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(network["params"])])
    expected = []
    for a, b in itertools.combinations(range(len(members)), 2):
        if members[a].index == members[b].index:
            x, y = (outputs[row] - outputs[row].mean(0) for row in (a, b))
            hsic = [np.trace(p @ p.T @ q @ q.T) for p, q in ((x, y), (x, x), (y, y))]
            agreement = (outputs[a].argmax(1) == outputs[b].argmax(1)).mean()
            distance = np.linalg.norm(flat[a] - flat[b])
            expected.append([hsic[0] / np.sqrt(hsic[1] * hsic[2]), agreement, distance])
    np.testing.assert_allclose(measured.pairs[["cka", "agreement", "l2_distance"]], expected, rtol=1e-9)


def test_similarity_of_intermediates_debiased(cohort, data):
    """The unbiased estimator by its definition, with the diagonals of the Gram matrices set to zero."""
    config = dataclasses.replace(CONFIG, metrics=["similarity"], similarity_debiased=True)
    found = {
        name: measure(*cohort, data, settings=resolve(dataclasses.replace(config, similarity_features=name))).pairs
        for name in ("hidden1", "logits")
    }
    members, variables = cohort[0].members, cohort[1]
    model = build_model("mlp", WIDTH, CLASSES, SHAPE, "float64")
    for name, pairs in found.items():
        grams = []
        for row in (3, 4):  # the first two networks of the second configuration
            network = jax.tree.map(lambda leaf, row=row: jnp.asarray(leaf[row]), variables)
            key = jax.random.wrap_key_data(measure_key(0, 1, members[row].num_samples))
            images = landscape.mixup(
                key, jnp.asarray(data.x_train), members[row].num_samples, num_images=64, alpha=16.0
            )
            logits, intermediates, _ = model.apply(network, images, False)
            features = np.asarray(logits if name == "logits" else intermediates[name])
            gram = features @ features.T
            grams.append(gram - np.diag(np.diag(gram)))

        def hsic(k, m, n=64):
            rest = k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k @ m).sum()
            return (np.trace(k @ m) + rest) / (n * (n - 3))

        k, m = grams
        expected = hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))
        assert pairs.query("configuration == 1")["cka"].iloc[0] == pytest.approx(expected, rel=1e-9)
    with pytest.raises(UserError, match="unknown similarity_features 'x'; available: softmax, logits, "):
        measure(*cohort, data, settings=resolve(dataclasses.replace(config, similarity_features="x")))


def test_features_of_more_columns_than_images_are_kept_short(data):
    """CKA of 8 images with 27 features, against the same of all features: both estimators."""
    rng = np.random.default_rng(0)
    features = jnp.asarray(rng.standard_normal((3, 8, 27)) + 1.0)
    short = jax.vmap(similarity._fewer_columns)(features)
    assert short.shape == (3, 8, 8)
    for debiased in (False, True):
        found, expected = (landscape.linear_cka(f, debiased=debiased) for f in (short, features))
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert similarity._fewer_columns(features[0, :, :5]).shape == (8, 5)


def test_lines_curves_and_balls_are_those_of_a_rewrite(cohort, data, measured):
    """The straight line, the ends of the curve and the ball from the model alone, in plain loops."""
    members, variables = cohort[0].members, cohort[1]
    model = build_model("mlp", WIDTH, CLASSES, SHAPE, "float64")
    networks = [jax.tree.map(lambda leaf, row=row: jnp.asarray(leaf[row]), variables) for row in range(len(members))]

    def losses(params, stats, x, y):
        logits = model.apply({"params": params, "batch_stats": stats}, x, False)[0]
        return -np.asarray(jax.nn.log_softmax(logits))[np.arange(len(y)), y], np.asarray(logits).argmax(1) != y

    def recomputed(params, stats, num):
        """Averages over the whole batches of eight images that the subset holds."""
        means = []
        for i in range(num // 8):
            x = data.x_train[8 * i : 8 * i + 8]
            one = {"params": params, "batch_stats": jax.tree.map(jnp.zeros_like, stats)}
            # The running average moves by a tenth from zero.
            means.append(jax.tree.map(lambda a: a / 0.1, model.apply(one, x, True)[2]))
        return jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *means)

    first, second, num = networks[3], networks[4], members[3].num_samples
    x, y = data.x_train[:num], data.y_train[:num]
    heights, errors = [], []
    for t in np.linspace(0, 1, 5):
        params = jax.tree.map(lambda a, b, t=t: (1 - t) * a + t * b, first["params"], second["params"])
        each, wrong = losses(params, recomputed(params, first["batch_stats"], num), x, y)
        heights.append(each.mean())
        errors.append(100 * wrong.mean())
    pair = measured.pairs.query("configuration == 1 and seed_a == 0 and seed_b == 1").iloc[0]
    for name, values in (("barrier_loss", heights), ("barrier", errors)):
        line = np.linspace(values[0], values[-1], 5)
        assert pair[name] == pytest.approx((np.array(values) - line).max(), rel=1e-9, abs=1e-9)
    np.testing.assert_allclose(pair["curve_train_loss"][[0, -1]], [heights[0], heights[-1]], rtol=1e-9)
    np.testing.assert_allclose(pair["curve_train_error"][[0, -1]], [errors[0], errors[-1]], rtol=1e-9)
    flat, unravel = jax.flatten_util.ravel_pytree(first["params"])

    def loss(flat):
        logits = model.apply({"params": unravel(flat), "batch_stats": first["batch_stats"]}, x[:20], False)[0]
        return -jax.nn.log_softmax(logits)[jnp.arange(20), y[:20]].mean()

    radius, point, best = 0.005 * np.linalg.norm(flat), flat, 0.0
    for _ in range(SETTINGS.ball_steps):
        gradient = jax.grad(loss)(point)
        point = flat + radius * gradient / np.linalg.norm(gradient)
        best = max(best, float(loss(point) - loss(flat)))
    assert measured.members["ball_sharpness"][3] == pytest.approx(best, rel=1e-6)


def test_one_class_is_measured(cohort, data, measured):
    same = data._replace(y_train=np.zeros_like(data.y_train), y_test=np.zeros_like(data.y_test))
    found = measure(*cohort, same)
    numbers = found.members.select_dtypes(float)
    assert np.isfinite(numbers).all(axis=None)
    assert np.isfinite(found.pairs.select_dtypes(float)).all(axis=None)


def test_identical_networks_have_no_barrier(data):
    cohort, variables = make_cohort(seeds=(0, 1), sizes=(40,))
    twins = jax.tree.map(lambda leaf: np.stack([leaf[0], leaf[0]]), variables)
    pair = measure(cohort, twins, data).pairs.iloc[0]
    assert pair["cka"] == pytest.approx(1.0, abs=1e-12)
    assert pair[["l2_distance", "barrier", "barrier_loss", "aligned_barrier"]].abs().max() < 1e-9
    assert pair["agreement"] == 1.0
