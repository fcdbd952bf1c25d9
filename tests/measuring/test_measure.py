"""Measuring of cohorts, against dense Hessians and rewrites in NumPy; chunks, resume, diverged members, devices."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from mdtree_jax import landscape
from mdtree_jax.checks import UserError
from mdtree_jax.data import LoadedDataset
from mdtree_jax.measuring import curves as curve_blocks
from mdtree_jax.measuring import measure as measure_module
from mdtree_jax.measuring import similarity
from mdtree_jax.measuring.kernels import measure_key
from mdtree_jax.measuring.measure import measure_cohort
from mdtree_jax.measuring.programs import Choices
from mdtree_jax.models import Model, build_model, count_flops
from mdtree_jax.recipe.cohort import Cohort, Member, Recipe
from mdtree_jax.recipe.measure_settings import MeasureConfig, resolve

SHAPE, CLASSES = (3, 3, 1), 3
RECIPE = Recipe("digits", "mlp", num_classes=CLASSES, image_shape=SHAPE)
CONFIG = MeasureConfig(
    hessian_images=20,
    trace_products=400,
    trace_relative_error=1e-6,
    eigenvalue_tolerance=1e-8,
    eigenvalue_steps=80,
    similarity_images=64,
    barrier_points=5,
    curve_steps=5,
    curve_batch_size=8,
    statistics_batch_size=8,
)
SETTINGS = resolve(CONFIG)
BUDGET = 2**30
WIDTH = 6


@pytest.fixture(scope="module", autouse=True)
def float64():
    """The compiler's optimizations take longer than these small programs run."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    with jax.enable_x64(True):
        yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((100, *SHAPE)), rng.integers(0, CLASSES, 100).astype(np.int32)
    return LoadedDataset(x[:40], y[:40], x[40:], y[40:], CLASSES, "random")


def make_cohort(seeds=(0, 1, 2), sizes=(16, 40)):
    """Return a cohort of two configurations and untrained networks, BatchNorm statistics at random."""
    members = [Member(i, seed, n, n / 40, 0.1, 0.0) for i, n in enumerate(sizes) for seed in seeds]
    model = build_model("mlp", WIDTH, CLASSES, SHAPE, "float64")
    networks = [model.init(jax.random.key(10 * m.index + m.seed)) for m in members]
    rng = np.random.default_rng(1)
    variables = jax.tree.map(lambda *leaves: np.stack(leaves), *networks)
    variables["params"] = jax.tree.map(lambda a: a + 0.3 * rng.standard_normal(a.shape), variables["params"])
    variables["batch_stats"] = jax.tree.map(lambda a: a + 0.5 * rng.random(a.shape), variables["batch_stats"])
    return Cohort(WIDTH, 8, 1, tuple(members)), variables


def measure(cohort, variables, data, is_finite=None, settings=SETTINGS, **options):
    is_finite = [True] * len(cohort.members) if is_finite is None else is_finite
    options = {"memory_budget_bytes": BUDGET, "dtype": "float64"} | options
    return measure_cohort(RECIPE, cohort, data, variables, is_finite, settings, **options)


def without_seconds(table):
    return table[[column for column in table if not column.endswith("_seconds")]]


def assert_same(left, right, **options):
    for name in ("members", "pairs", "layers"):
        one, other = (without_seconds(getattr(side, name)) for side in (left, right))
        for column in one:
            if column.startswith("curve_"):
                np.testing.assert_allclose(np.stack(one[column]), np.stack(other[column]), **options)
            elif one[column].dtype == float:
                np.testing.assert_allclose(one[column], other[column], **options)
            else:
                pd.testing.assert_series_equal(one[column], other[column])


@pytest.fixture(scope="module")
def cohort():
    return make_cohort()


@pytest.fixture(scope="module")
def measured(cohort, data):
    return measure(*cohort, data)


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


def test_networks_side_by_side_are_those_one_after_the_other(cohort, data, measured, monkeypatch):
    """The way of an accelerator: lanes of several networks, and the products of a block at once.

    Six networks and pairs in chunks of two lanes on each of two devices: the last chunk is filled up.
    """
    assert len(jax.devices()) == 2
    choices = Choices(5, True, True, 2, 10, 16)
    monkeypatch.setattr(measure_module, "choose", lambda *arguments: choices)
    found = measure(*cohort, data)
    assert found.choices == choices._asdict()
    assert_same(found, measured, rtol=1e-6, atol=1e-8)


def test_a_network_is_measured_the_same_alone_and_in_any_company(cohort, data, measured):
    whole, variables = cohort
    keep = [row for row, member in enumerate(whole.members) if member.seed != 1 and member.index == 1]
    part = dataclasses.replace(whole, members=tuple(whole.members[row] for row in keep))
    alone = measure(part, jax.tree.map(lambda leaf: leaf[keep], variables), data)
    members = measured.members.query("configuration == 1 and seed != 1").reset_index(drop=True)
    np.testing.assert_allclose(without_seconds(alone.members), without_seconds(members), rtol=1e-9, atol=1e-12)
    pair = measured.pairs.query("configuration == 1 and seed_a == 0 and seed_b == 2").iloc[0]
    for name in ("cka", "barrier", "aligned_barrier_loss", "mode_connectivity_peak", "mode_connectivity"):
        assert alone.pairs[name].iloc[0] == pytest.approx(pair[name], rel=1e-9, abs=1e-12)


def test_no_device_repeats_what_another_does(cohort, data, measured, monkeypatch):
    """Two networks are one pair: both devices measure a network, one the pair, with the threads of the other."""
    whole, variables = cohort
    used, make = {}, measure_module.program_of

    def program_of(stage, model, settings, mesh, *rest):
        used[stage] = mesh.size
        return make(stage, model, settings, mesh, *rest)

    monkeypatch.setattr(measure_module, "program_of", program_of)
    part = dataclasses.replace(whole, members=whole.members[:2])
    found = measure(part, jax.tree.map(lambda leaf: leaf[:2], variables), data)
    assert used == {"hessian": 2, "sharpness": 2, "similarity": 2, "barrier": 1, "connectivity": 1}
    pair = measured.pairs.query("configuration == 0 and seed_a == 0 and seed_b == 1").iloc[0]
    for name in ("cka", "barrier", "aligned_barrier_loss", "mode_connectivity_peak"):
        assert found.pairs[name].iloc[0] == pytest.approx(pair[name], rel=1e-9, abs=1e-12)


def test_a_diverged_network_is_nan_and_harms_no_other(cohort, data, measured):
    whole, variables = cohort
    broken = jax.tree.map(
        lambda leaf: np.where(np.arange(6).reshape(6, *[1] * (leaf.ndim - 1)) == 1, np.nan, leaf), variables
    )
    found = measure(whole, broken, data, is_finite=[True, False, True, True, True, True])
    assert found.members.iloc[1].drop(["configuration", "seed"]).isna().all()
    rest = [0, 2, 3, 4, 5]
    np.testing.assert_array_equal(
        without_seconds(found.members).iloc[rest], without_seconds(measured.members).iloc[rest]
    )
    assert found.pairs["configuration"].tolist() == [0, 1, 1, 1]
    np.testing.assert_allclose(found.pairs["cka"].iloc[1:], measured.pairs["cka"].iloc[3:], rtol=1e-12)
    # Marked finite, its own numbers are NaN, and the programs end.
    marked = measure(whole, broken, data)
    assert np.isnan(
        marked.members.loc[1, ["hessian_trace", "hessian_max_eigenvalue", "ball_sharpness"]].astype(float)
    ).all()
    np.testing.assert_array_equal(
        without_seconds(marked.members).iloc[rest], without_seconds(measured.members).iloc[rest]
    )


def test_the_given_networks_are_looked_at_before_anything_runs(cohort, data, monkeypatch):
    model = build_model("mlp", WIDTH, CLASSES, SHAPE, "float64")

    def apply(variables, x, train):
        """Depend on the rest of the batch, but not as long as a bias is at its initial 0."""
        logits, intermediates, statistics = model.apply(variables, x, train)
        return logits + variables["params"]["BatchNorm_0"]["bias"].sum() * x.mean(), intermediates, statistics

    monkeypatch.setattr(measure_module, "model_of", lambda *_: Model(model.init, apply))
    with pytest.raises(UserError, match="depends on the other examples"):
        measure(*cohort, data)
    broken = jax.tree.map(lambda leaf: np.concatenate([np.full_like(leaf[:1], np.nan), leaf[1:]]), cohort[1])
    with pytest.raises(UserError, match="depends on the other examples"):
        measure(cohort[0], broken, data)


def test_a_cohort_without_a_finite_network_has_no_metrics(cohort, data, measured):
    whole, variables = cohort
    found = measure(whole, variables, data, is_finite=[False] * 6)
    assert found.members["configuration"].tolist() == [0, 0, 0, 1, 1, 1]
    assert list(found.members) == ["configuration", "seed"]
    assert not len(found.pairs)
    assert not len(found.layers)


def test_networks_without_a_second_have_no_pairs(cohort, data, measured):
    whole, variables = cohort
    keep = [row for row, member in enumerate(whole.members) if member.seed == 1]
    part = dataclasses.replace(whole, members=tuple(whole.members[row] for row in keep))
    found = measure(part, jax.tree.map(lambda leaf: leaf[keep], variables), data)
    assert not len(found.pairs)
    expected = measured.members.query("seed == 1").reset_index(drop=True)
    np.testing.assert_allclose(found.members["ball_sharpness"], expected["ball_sharpness"], rtol=1e-9)


def test_interrupted_anywhere_the_tables_are_the_same(cohort, data, measured):
    saved = []

    def stop_after(count):
        def checkpoint(state):
            saved.append(state)
            if len(saved) == count:
                raise KeyboardInterrupt

        return checkpoint

    resume = None
    for _ in range(3):
        saved.clear()
        with pytest.raises(KeyboardInterrupt):
            measure(*cohort, data, checkpoint=stop_after(4), checkpoint_seconds=0.0, resume=resume)
        resume = saved[-1]
    fractions = []
    again = measure(*cohort, data, resume=resume, progress=lambda fraction, message: fractions.append(fraction))
    assert_same(again, measured, rtol=0, atol=0)
    assert fractions[0] > 0.2
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1.0)
    other = dataclasses.replace(cohort[0], members=cohort[0].members[:3])
    with pytest.raises(UserError, match="not of cohort w6-b8-e1"):
        measure(other, jax.tree.map(lambda leaf: leaf[:3], cohort[1]), data, resume=resume)


def test_curves_that_take_long_are_cut_and_can_be_taken_up(cohort, data, measured, monkeypatch):
    model = build_model("mlp", WIDTH, CLASSES, SHAPE, "float64")
    flops = 3 * SETTINGS.curve_batch_size * count_flops(model, SHAPE, "float64")
    monkeypatch.setattr(curve_blocks, "CURVE_BLOCK_FLOPS", 2 * flops)  # five steps in calls of two
    run = functools.partial(measure, *cohort, data, settings=SETTINGS.with_metrics(("connectivity",)))
    names = ["mode_connectivity", "mode_connectivity_peak"]
    saved, fractions = [], []

    def stop(state):
        saved.append(state)
        if state.get("curves/0000") is not None:
            raise KeyboardInterrupt

    for step in (2, 4):
        resume = saved[-1] if saved else None
        with pytest.raises(KeyboardInterrupt):
            run(checkpoint=stop, checkpoint_seconds=0.0, resume=resume)
        steps = [array for array in saved[-1].values() if array.ndim == 1 and array.dtype == np.int32 and len(array)]
        assert any((array == step).all() for array in steps)
        assert saved[-1]["curve_seconds"] > 0
    again = run(resume=saved[-1], progress=lambda fraction, message: fractions.append(fraction))
    np.testing.assert_array_equal(again.pairs[names], measured.pairs[names])
    assert fractions == sorted(fractions)
    assert (again.pairs["connectivity_seconds"] > 0).all()
    # On another number of devices the curves under training start over.
    there = {name: array[:1] if name.startswith("curves/") else array for name, array in saved[-1].items()}
    elsewhere = run(resume=there | {"devices/number": np.asarray(1 + len(jax.devices()))})
    np.testing.assert_array_equal(elsewhere.pairs[names], measured.pairs[names])
    # Side by side, three at a time, as on an accelerator.
    monkeypatch.setattr(measure_module, "choose", lambda *arguments: Choices(20, True, False, 3, 20, 64))
    np.testing.assert_allclose(run().pairs[names], measured.pairs[names], rtol=1e-9, atol=1e-9)


def test_a_cohort_goes_on_as_it_was_begun(cohort, data, monkeypatch):
    def stop(state):
        raise RuntimeError(state)

    run = functools.partial(measure, *cohort, data, settings=SETTINGS.with_metrics(("sharpness",)))
    with pytest.raises(RuntimeError) as stopped:
        run(checkpoint=stop, checkpoint_seconds=0.0)
    saved, begun = stopped.value.args[0], run().choices
    monkeypatch.setattr(measure_module, "choose", lambda *arguments: Choices(5, False, False, 1, 5, 16))
    assert run(resume=saved, memory_budget_bytes=BUDGET * 2 // 3).choices == begun
    assert run(resume=saved, memory_budget_bytes=BUDGET // 3).choices != begun
    assert run(resume=saved | {"devices/number": saved["devices/number"] + 1}).choices != begun


def test_one_compilation_a_program_and_none_the_second_time(data, measured):
    # Hessian, sharpness, outputs, their similarities, barrier (aligned too), curve
    assert measured.num_compilations == 6
    cohort, variables = make_cohort()
    assert measure(cohort, variables, data).num_compilations == 0
    other = dataclasses.replace(cohort, batch_size=4)
    assert measure(other, variables, data).num_compilations == 0


def test_identical_networks_have_no_barrier(data):
    cohort, variables = make_cohort(seeds=(0, 1), sizes=(40,))
    twins = jax.tree.map(lambda leaf: np.stack([leaf[0], leaf[0]]), variables)
    pair = measure(cohort, twins, data).pairs.iloc[0]
    assert pair["cka"] == pytest.approx(1.0, abs=1e-12)
    assert pair[["l2_distance", "barrier", "barrier_loss", "aligned_barrier"]].abs().max() < 1e-9
    assert pair["agreement"] == 1.0


def test_some_metrics_alone(cohort, data, measured):
    found = measure(*cohort, data, settings=resolve(dataclasses.replace(CONFIG, metrics=["sharpness"])))
    assert "hessian_trace" not in found.members
    np.testing.assert_allclose(found.members["ball_sharpness"], measured.members["ball_sharpness"])
    assert not len(found.pairs)
    assert not len(found.layers)
