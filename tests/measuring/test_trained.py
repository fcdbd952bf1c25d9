"""Kernels that know how a network was trained: norms, probes, short runs; ensembles; resume, held-out data."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdtree_jax import lowering
from mdtree_jax.checks import UserError
from mdtree_jax.data import LoadedDataset
from mdtree_jax.measuring import trained as kernels
from mdtree_jax.measuring.kernels import Data
from mdtree_jax.measuring.measure import measure_cohort
from mdtree_jax.measuring.trained import TrainedItem
from mdtree_jax.models import Model, build_model
from mdtree_jax.population.executor import ExecutorChoice
from mdtree_jax.population.train import train_cohort
from mdtree_jax.probes.steps import TrainingSettings
from mdtree_jax.recipe.cohort import Cohort, Member, Recipe
from mdtree_jax.recipe.measure_settings import MeasureConfig, resolve
from mdtree_jax.registry.kernels import KERNELS
from mdtree_jax.registry.knobs import KNOBS
from mdtree_jax.registry.measurements import MEASUREMENTS, of_kernel
from mdtree_jax.registry.probes import DEFAULT_PROBES, PROBES, SHORT_RUNS, Probe
from mdtree_jax.store.tables import Measured
from mdtree_jax.training import Hyperparameters, objective_functions
from tests.measuring.cohorts import without_seconds

pytestmark = pytest.mark.usefixtures("float64")

SHAPE, CLASSES = (3, 3, 1), 3
RECIPE = Recipe("digits", "mlp", num_classes=CLASSES, image_shape=SHAPE, early_stop=False)
METRICS = ["ensemble", "norms", "probes", "short_runs"]
CONFIG = MeasureConfig(metrics=METRICS, hessian_images=20, statistics_batch_size=8, probe_images=30)
SETTINGS = resolve(CONFIG)
COHORT = Cohort(4, 8, 20, tuple(Member(i, s, n, n / 40, 0.1, 5e-4) for i, n in enumerate((24, 40)) for s in (0, 1)))


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    sides = [(rng.standard_normal((n, *SHAPE)), rng.integers(0, CLASSES, n).astype(np.int32)) for n in (40, 30)]
    return LoadedDataset(*sides[0], *sides[1], CLASSES, "toy")


@pytest.fixture(scope="module")
def networks(data):
    executor = ExecutorChoice("map", "cpu", 1, 1, 4)
    return train_cohort(RECIPE, COHORT, data, dtype="float64", executor=executor)


def measure(networks, data, cohort=COHORT, rows=slice(None), settings=SETTINGS, **options):
    variables = jax.tree.map(lambda leaf: leaf[rows], networks.variables)
    options = {"memory_budget_bytes": 2**30, "dtype": "float64"} | options
    return measure_cohort(RECIPE, cohort, data, variables, [True] * len(cohort.members), settings, **options)


@pytest.fixture(scope="module")
def measured(networks, data):
    return measure(networks, data)


def test_every_column_has_its_entry_and_every_entry_its_column(measured):
    for kernel, table in (("ensemble", measured.pairs), *((name, measured.members) for name in METRICS[1:])):
        entries = {name for name in of_kernel(kernel) if not name.startswith("augment_") and "_test_" not in name}
        ends = ("_se", "_seconds", "_flops")
        assert entries <= set(table)
        assert set(without_seconds(table)) <= {*MEASUREMENTS, "configuration", "seed", "seed_a", "seed_b"} | {
            c for c in table if c.endswith(ends) and (c.removesuffix("_se") in MEASUREMENTS or c.split("_")[0])
        }
        assert np.isfinite(table[sorted(entries)].to_numpy(float)).all()
        assert (table[f"{kernel}_flops"] > 0).all()
    assert (measured.members["probes_steps"] == [10 + 6 * 6] * 2 + [10 + 6 * 10] * 2).all()
    assert (measured.members["short_runs_steps"] == [4 + 8 + 15] * 2 + [6 + 12 + 25] * 2).all()


def test_the_checkpoint_is_what_training_reported(networks, data):
    """The whole subset and the test set: loss and error are those of the end of training."""
    found = measure(networks, data, settings=resolve(dataclasses.replace(CONFIG, metrics=["probes"], probes=[])))
    for side, theirs in (("train", "train"), ("validation", "test")):
        whole = slice(0, 2) if side == "train" else slice(None)  # 24 of the subset's 24 examples, 30 of 40
        for kind in ("loss", "error"):
            values = found.members[f"checkpoint_{side}_{kind}"][whole]
            np.testing.assert_allclose(values, getattr(networks, f"{theirs}_{kind}")[whole], rtol=1e-9)
    assert (found.members["probes_steps"] == 0).all()


def test_held_out_data_are_the_validation_set_where_there_is_one(networks, data, measured):
    settings = resolve(dataclasses.replace(CONFIG, metrics=["ensemble", "probes"], probes=["refreshed"]))

    class Split:
        x_train, y_train, x_test, y_test = data[:4]
        x_validation, y_validation = data.x_test[:10], data.y_test[:10]

    found, tested = measure(networks, Split, settings=settings), measure(networks, data, settings=settings)
    fewer = measure(networks, data._replace(x_test=data.x_test[:10], y_test=data.y_test[:10]), settings=settings)
    for table in ("members", "pairs"):
        here, there = (without_seconds(getattr(one, table)) for one in (found, fewer))
        there = there[[c for c in there if not c.endswith("_flops")]]  # of which the test set has a part
        np.testing.assert_array_equal(here[there.columns], there)
    for kind in ("loss", "error"):  # and the test set is a side of its own
        there = tested.members[f"refreshed_validation_{kind}"]
        np.testing.assert_array_equal(found.members[f"refreshed_test_{kind}"], there)
    assert (found.members["checkpoint_validation_loss"] != tested.members["checkpoint_validation_loss"]).all()


def test_interrupted_anywhere_the_tables_are_the_same(networks, data, measured):
    resume, stops = None, 0
    while stops < 8:

        def stop(state):
            raise InterruptedError(state)

        try:
            again = measure(networks, data, resume=resume, checkpoint=stop, checkpoint_seconds=0.0)
        except InterruptedError as error:
            resume, stops = error.args[0], stops + 1
        else:
            break
    assert stops > 3
    for table in ("members", "pairs"):
        np.testing.assert_array_equal(*(without_seconds(getattr(one, table)) for one in (again, measured)))


def test_a_run_is_extended_by_them_and_by_more_networks(networks, data, measured):
    """What is known of some networks or metrics is taken, the rest measured: the same tables."""
    part = dataclasses.replace(COHORT, members=COHORT.members[2:])
    before = measure(networks, data, part, slice(2, None), SETTINGS.with_metrics(("norms", "probes")))
    known = Measured(frozenset(("norms", "probes")), before.members, before.pairs, before.layers)
    after = measure(networks, data, known=known)
    names = list(without_seconds(measured.members))
    np.testing.assert_allclose(after.members[names], measured.members[names], rtol=1e-7, atol=1e-9)


def test_a_network_is_probed_the_same_alone_and_with_lanes(networks, data, measured, monkeypatch):
    alone = dataclasses.replace(COHORT, members=COHORT.members[3:])
    found = measure(networks, data, alone, slice(3, None), SETTINGS.with_metrics(("probes", "short_runs")))
    names = list(without_seconds(found.members))
    expected = measured.members[names].iloc[[3]].to_numpy(float)
    np.testing.assert_allclose(found.members[names].to_numpy(float), expected, rtol=1e-7, atol=1e-9)
    monkeypatch.setitem(lowering.TABLE, "cpu", lowering.TABLE["cpu"]._replace(lane_bytes=0))  # as of a large network
    found = measure(networks, data, alone, slice(3, None), SETTINGS.with_metrics(("probes", "short_runs")))
    np.testing.assert_allclose(found.members[names].to_numpy(float), expected, rtol=1e-7, atol=1e-9)


def test_cohorts_that_differ_in_length_share_their_programs(networks, data, measured):
    longer = dataclasses.replace(COHORT, train_epochs=30)
    assert measure(networks, data, longer).num_compilations == 0


def test_norms_are_those_of_numpy_and_keep_what_they_promise(data):
    """A network of two ReLU layers without normalization: units permuted, a scale moved from layer to layer."""

    def apply(variables, x, train):
        p = variables["params"]
        hidden = jax.nn.relu(x.reshape(len(x), -1) @ p["in"] + p["bias"])
        return jax.nn.relu(hidden @ p["mid"]) @ p["out"], {}, {}

    def init(key):
        shapes = {"in": (9, 6), "bias": (6,), "mid": (6, 5), "out": (5, CLASSES)}
        rng = np.random.default_rng(key)
        return {"params": {k: jnp.asarray(rng.standard_normal(s)) for k, s in shapes.items()}, "batch_stats": {}}

    model = Model(init, apply)
    norms = jax.jit(kernels.make_norms(model, SETTINGS, objective_functions(), TrainingSettings(8), side_by_side=True))
    arrays = Data(*map(jnp.asarray, data[:4]))
    rows = np.arange(20) % 24

    def found(params):
        hparams = Hyperparameters(jnp.zeros(2, jnp.uint32), jnp.int32(24), jnp.float64(0.1), jnp.float64(0.0))
        item = TrainedItem({"params": params, "batch_stats": {}}, jnp.int32(24), hparams.key, init(1), hparams, 1)
        return {name: float(value) for name, value in norms(item, arrays).items()}

    params = init(0)["params"]
    values = found(params)

    def loss(params):
        logits = apply({"params": params}, arrays.x_train[rows], False)[0]
        return -jax.nn.log_softmax(logits)[np.arange(20), arrays.y_train[rows]].mean()

    flat = [jax.flatten_util.ravel_pytree(tree)[0] for tree in (params, init(1)["params"], jax.grad(loss)(params))]
    norm, initial, slope = (np.linalg.norm(vector) for vector in flat)
    expected = {"weight_norm": norm, "weight_norm_initial": initial, "weight_growth": np.log(norm / initial)}
    expected |= {"gradient_norm": slope, "gradient_ratio": np.log(slope / norm)}
    expected |= {"distance_from_initial": np.linalg.norm(flat[0] - flat[1]) / initial}
    for name, value in expected.items():
        assert values[name] == pytest.approx(value, rel=1e-9), name
    order, other = np.random.default_rng(3).permutation(6), np.random.default_rng(4).permutation(5)
    moved = {"in": params["in"][:, order], "bias": params["bias"][order]}
    moved |= {"mid": params["mid"][order][:, other], "out": params["out"][other]}
    permuted = found(moved)
    for name in ("weight_norm", "gradient_norm", "gradient_ratio", "scaled_gradient_norm", "weight_growth"):
        assert permuted[name] == pytest.approx(values[name], rel=1e-9), name
    scaled = found(params | {"mid": 3 * params["mid"], "out": params["out"] / 3})
    for name in ("scaled_gradient_norm", "layer_growth"):
        assert scaled[name] == pytest.approx(values[name], rel=1e-9), name
    for name in ("weight_norm", "gradient_norm"):
        assert scaled[name] != pytest.approx(values[name], rel=1e-2), name


def test_an_ensemble_is_that_of_numpy(networks, data, measured):
    model = build_model("mlp", 4, CLASSES, SHAPE, "float64")
    one, two = (jax.tree.map(lambda leaf, row=row: leaf[row], networks.variables) for row in (2, 3))
    outputs = [np.asarray(model.apply(v, jnp.asarray(data.x_test), False)[0]) for v in (one, two)]
    wrong = [100 * (o.argmax(1) != data.y_test).mean() for o in (*outputs, sum(outputs))]
    row = measured.pairs.iloc[1]
    assert row["ensemble_gain"] == pytest.approx(wrong[2] - (wrong[0] + wrong[1]) / 2, abs=1e-9)
    apart = 100 * (outputs[0].argmax(1) != outputs[1].argmax(1)).mean()
    assert row["disagreement"] == pytest.approx(apart, abs=1e-9)
    assert row["disagreement_ratio"] == pytest.approx(apart / ((wrong[0] + wrong[1]) / 2 + 50 / 30))
    a, b = (np.asarray(jax.flatten_util.ravel_pytree(v["params"])[0]) for v in (one, two))
    distance = np.linalg.norm(a - b) / np.sqrt(np.linalg.norm(a) * np.linalg.norm(b))
    assert row["distance_ratio"] == pytest.approx(distance, rel=1e-9)


def test_networks_of_unknown_training_are_refused(networks, data):
    model = build_model("mlp", 4, CLASSES, SHAPE, "float64")
    with pytest.raises(UserError, match="'norms' needs the settings of training, which are known only of"):
        measure(networks, data, model=model)


def test_the_table_of_probes():
    assert set(DEFAULT_PROBES) == {*PROBES} - {"augment"}
    assert (KNOBS["learning_rate"].probe, KNOBS["batch_size"].probe) == (("heat", "cool", "scorch"),) * 2
    assert {name: KNOBS[name].probe for name in ("weight_decay", "label_smoothing", "train_epochs", "width")} == {
        "weight_decay": ("decay",),
        "label_smoothing": ("smooth",),
        "train_epochs": ("same",),
        "width": (),
    }
    for change, message in (
        ({"share": 2.0}, r"share=2 is out of range; it must be in \[0, 1\]"),
        ({"share": 0.0}, "share=0 trains nothing"),
        ({"rate": 0.0}, "rate=0 is out of range"),
        ({"schedule": "sine"}, "unknown schedule of the probe 'x' 'sine'"),
    ):
        with pytest.raises(UserError, match=message):
            Probe("x", "", "", "", **change)
    with pytest.raises(UserError, match=r"unknown probe 'heet' \(did you mean 'heat'\?\)"):
        resolve(MeasureConfig(probes=["heet"]))
    assert sum(SHORT_RUNS.values()) == 0.4375
    assert {name for name, kernel in KERNELS.items() if "training_settings" in kernel.needs} == set(METRICS[1:])
