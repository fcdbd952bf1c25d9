"""The table of measurements: complete, the source of other tables, and open to metrics from outside the package."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from mdtree_jax import MDTreeClassifier, Measurement, Node, Structure, UserError, fit_reference
from mdtree_jax.causes import joint
from mdtree_jax.collection import columns
from mdtree_jax.collection.load import load_collection
from mdtree_jax.diagnosis import metrics_table
from mdtree_jax.diagnosis.from_metrics import diagnose_metrics
from mdtree_jax.diagnosis.words import evidence
from mdtree_jax.diagnosis.words.metrics import axis
from mdtree_jax.measuring.kernels import Data, NetworkItem, PairItem
from mdtree_jax.measuring.programs import binding_of
from mdtree_jax.measuring.trained import TrainedAs
from mdtree_jax.models import build_model
from mdtree_jax.probes.steps import TrainingSettings
from mdtree_jax.recipe.measure_settings import METRICS, MeasureConfig, resolve
from mdtree_jax.registry.kernels import CHOICES, KERNELS, PAIR_CHOICES, stages
from mdtree_jax.registry.measurement_type import DIRECTIONS, Scale, Words
from mdtree_jax.registry.measurements import MEASUREMENTS, kernels_of, label, markdown_table, needs_of, of_kernel
from mdtree_jax.registry.probes import PROBES
from mdtree_jax.store.checkpoint import load_network
from mdtree_jax.store.tables import collect, typed_members
from mdtree_jax.training import objective_functions
from mdtree_jax.trees.decision_path import tree_path
from tests.commands import succeed

#: A metric from outside, complete: unit, words, the logarithm as a second column, its kernel.
PLUGIN = """
import jax
import jax.numpy as jnp

import mdtree_jax
from mdtree_jax.registry.measurement_type import Words


def relative_norm(network):
    leaves = jax.tree.leaves(network.params)
    return jnp.sqrt(sum((leaf**2).sum() for leaf in leaves) / sum(leaf.size for leaf in leaves))


mdtree_jax.register(
    mdtree_jax.Measurement(
        "weight_size", "1", "root mean square of the parameters", direction="large", bounds=(0, 100),
        words=Words("size of the weights", "", "its weights are small", "its weights are large"),
    ),
    kernel=relative_norm,
)
mdtree_jax.register(
    mdtree_jax.Measurement("log_weight_size", "ln", "ln of `weight_size`", logarithm_of="weight_size")
)
"""
SWEEP = [
    *("+grid=digits_tiny", "grid.model=mlp", "grid.width=[2,4]", "grid.batch_size=[32,64]", "out=run"),
    *(
        "grid.data_fraction=[0.1,0.3]",
        "grid.train_epochs=[1]",
        "grid.num_seeds=2",
        "grid.measure.metrics=[weight_size]",
    ),
]


PLUGGED = "plugins=[toy]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with the plugin and a sweep that measures its metric."""
    folder = tmp_path_factory.mktemp("plugin")
    assert len(PLUGIN.strip().splitlines()) <= 25
    (folder / "toy.py").write_text(PLUGIN)
    succeed(folder, "sweep", PLUGGED, *SWEEP)
    return folder


@pytest.fixture
def weight_size(added):
    added(
        Measurement(
            "weight_size",
            "1",
            "root mean square of the parameters",
            direction="large",
            bounds=(0, 100),
            words=Words("size of the weights", "", "its weights are small", "its weights are large"),
        ),
        kernel=lambda network: jnp.float32(0),
    )
    return added(Measurement("log_weight_size", "ln", "ln of `weight_size`", logarithm_of="weight_size"))


def test_a_metric_from_outside_is_measured_by_a_sweep(folder):
    collection, members = (pd.read_parquet(folder / "run" / f"{name}.parquet") for name in ("collection", "members"))
    assert {"weight_size_seconds", "weight_size_flops"} <= {*members} & {*collection}
    assert "hessian_trace" not in members
    for row in members.itertuples():
        network, _ = load_network(folder / "run", seed=row.seed, configuration=row.configuration)
        values = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(network["params"])]).astype(float)
        assert row.weight_size == pytest.approx(np.sqrt(np.mean(values**2)), rel=1e-5)
    both = members.groupby("configuration")["weight_size"].agg(["mean", "sem"])
    np.testing.assert_allclose(collection["weight_size"], both["mean"])
    np.testing.assert_allclose(collection["weight_size_se"], both["sem"])
    np.testing.assert_allclose(collection["log_weight_size"], np.log(both["mean"]))
    np.testing.assert_allclose(collection["log_weight_size_se"], both["sem"] / both["mean"])
    assert (collection["num_not_measurable"] == 0).all()


def test_a_metric_from_outside_is_in_the_help_and_in_a_diagnosis(folder):
    help_line = "groups: hessian, sharpness, similarity, barrier, connectivity, ensemble, norms, probes, short_runs"
    assert f"{help_line}, weight_size" in succeed(folder, "sweep", PLUGGED, "--help")
    row = {"train_error": 3.0, "train_loss": 0.1, "log_hessian_trace": 7.0, "weight_size": 0.25, "weight_size_se": 0.01}
    pd.DataFrame([row | {"colour": 1}]).to_csv(folder / "mine.csv", index=False)
    out = succeed(folder, "diagnose", PLUGGED, "metrics=mine.csv", "units=percent")
    assert "size of the weights: 0.25 ± 0.01, not known" in out
    assert "columns not used: colour" in out
    assert "<td>Size of the weights</td>" in (folder / "runs" / "diagnose" / "report.html").read_text()


def test_a_table_may_hold_it_and_a_reference_says_where_it_lies(small_grid, weight_size):
    small_grid["weight_size"] = np.linspace(0.1, 1.8, len(small_grid))
    reference = fit_reference(small_grid, name="mine", measure=False)
    assert reference.to_dict()["rows"]["weight_size"] == pytest.approx(small_grid["weight_size"])
    row = small_grid.iloc[4].to_dict() | {"weight_size": 1.15, "weight_size_se": 0.1}
    found = diagnose_metrics([row, row | {"weight_size": np.nan}], reference, "percent")
    known = reference.models["weight_size"]
    assert found[0].position["weight_size"] == pytest.approx(np.mean(known <= 1.15))
    assert found[0].metrics["weight_size_se"] == 0.1
    rows = {name: (value, share) for name, value, share in evidence.metric_rows(found[0], found[0].metrics)}
    share = f"{100 * np.mean(known <= 1.15):.0f} %"
    assert rows["size of the weights"] == ("1.15 ± 0.1", share)
    assert rows["log weight size, ln"][1] == "not known"  # the reference has the value alone
    assert "weight_size" not in found[1].position
    assert "weight_size" not in found[1].metrics
    with pytest.raises(UserError, match=r"weight_size=101 in row 1; it must be in \[0, 100\] \(1: root mean square"):
        diagnose_metrics(row | {"weight_size": 101.0}, reference, "percent")
    with pytest.raises(UserError, match="column 'weight_size' holds 'big' in row 1; it must hold numbers"):
        diagnose_metrics(row | {"weight_size": "big"}, reference, "percent")
    # of the value alone, and of the mean of a table that has no logarithm
    frame = metrics_table.read_metrics({"train_error": 3.0, "weight_size": 0.5}, "percent")
    assert frame["log_weight_size"].iloc[0] == pytest.approx(np.log(0.5))


def test_a_tree_can_ask_it(small_grid, weight_size):
    small_grid["weight_size"] = np.where(small_grid["batch_size"] > 20, 1.0, 0.1)
    node = Node("weight_size", 0.5, 0.0, 2.0, "temperature_too_high", "temperature_too_low")
    structure = Structure("mine", (node,), ("temperature_too_high", "temperature_too_low"))
    tree = MDTreeClassifier("optimizer", structure=structure, fit="exact")
    loaded = load_collection(small_grid)
    loaded = loaded[loaded["label_optimizer"] != "optimal"]
    tree.fit(loaded, loaded["label_optimizer"])
    steps, end = tree_path("optimizer", structure, [0.5], None, {"weight_size": 1.0}, {"weight_size": 0.2})
    assert end == "temperature_too_low"
    assert evidence.sentence(steps[0]) == "Size of the weights 1 ± 0.2 is above 0.5: its weights are large."


# The table and what follows from it


def test_every_entry_is_in_every_table_that_follows_from_it():
    for name, entry in MEASUREMENTS.items():
        assert (name in columns.COLUMN) != (name in columns.DERIVED)
        assert needs_of(name), name
        assert all(entry.sides)
        assert label(name) == entry.label
        assert axis(name).startswith(entry.label)
        assert entry.bounds[0] < entry.bounds[1]
        assert f"`{name}`" in markdown_table()
        assert set(kernels_of(name)) <= set(CHOICES)
        assert entry.kernel is None or entry.kernel in KERNELS
        for alias in entry.aliases:
            assert columns.canonical_name(alias) == name
    assert {m.name for m in MEASUREMENTS.values() if m.scale} == set(joint.SCALES) == set(joint.METRICS)
    assert METRICS[:5] == ("hessian", "sharpness", "similarity", "barrier", "connectivity")
    assert METRICS[5:] == ("ensemble", "norms", "probes", "short_runs")
    assert PAIR_CHOICES == ("similarity", "barrier", "connectivity", "ensemble")
    assert [kernel.name for kernel in stages(METRICS)] == list(KERNELS)
    assert all(callable(binding_of(kernel.program).make) for kernel in KERNELS.values())


def test_the_tables_that_decide_published_numbers_are_these():
    """Order and members of what a joint model is fitted on: another order is another sum."""
    assert joint.METRICS == (
        "train_error", "train_loss", "log_hessian_trace", "log_effective_rank", "mode_connectivity",
        "mode_connectivity_peak", "cka",
    )  # fmt: skip
    assert joint.COLUMNS == (
        "train_error", "train_loss", "log_hessian_trace", "log_hessian_max_eigenvalue", "mode_connectivity",
        "mode_connectivity_peak", "cka",
    )  # fmt: skip
    assert joint.PAIR_COLUMNS == ("mode_connectivity", "mode_connectivity_peak", "cka")
    values = np.array([-3.0, 0.4])
    for name, wanted in {"mode_connectivity": np.arcsinh(values / 3), "cka": values}.items():
        np.testing.assert_array_equal(joint.SCALES[name].to_scale(values), wanted)
    assert metrics_table.ERRORS[:5] == (
        "train_error", "test_error", "validation_error", "mode_connectivity", "mode_connectivity_peak",
    )  # fmt: skip
    assert {MEASUREMENTS[name].kernel for name in metrics_table.ERRORS[5:]} == {"ensemble", "probes", "short_runs"}
    assert metrics_table.ACCURACIES == ("train_acc", "test_acc")


@pytest.mark.parametrize("name", list(KERNELS))
def test_each_kernel_makes_its_measurements(name):
    """The results of its program, traced for abstract networks, hold every measurement that names it."""
    kernel, settings = KERNELS[name], resolve(MeasureConfig(hessian_images=8, similarity_images=8))
    model = build_model("mlp", 4, 3, (3, 3, 1), "float32")
    network = jax.eval_shape(model.init, jax.random.key(0))
    count, key = jax.ShapeDtypeStruct((), np.int32), jax.ShapeDtypeStruct((2,), np.uint32)
    images, labels = jax.ShapeDtypeStruct((40, 3, 3, 1), np.float32), jax.ShapeDtypeStruct((40,), np.int32)
    item = PairItem(network, network, count, key) if kernel.is_of_pairs else NetworkItem(network, count, key)
    binding = binding_of(kernel.program)
    values = {"batch_size": 8, "use_xtrace": True, "batched": False}
    options: dict = {option: values[option] for option in binding.options}
    settings = dataclasses.replace(settings, probes=tuple(PROBES))
    if binding.is_trained:
        functions = objective_functions()
        trained_as = TrainedAs(TrainingSettings(8, objective=functions), "float32", (), is_small=True, is_cpu=True)
        item, options = trained_as.item_shapes(network), trained_as.options(name)
    measure = binding.make(model, settings, objective=objective_functions(), **options)
    found = jax.eval_shape(measure, item, Data(*(images, labels) * 3))
    if kernel.compares:
        logits = jax.ShapeDtypeStruct((2, *found["logits"].shape), np.float32)
        params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((2, *leaf.shape), leaf.dtype), network["params"])
        found = jax.eval_shape(functools.partial(binding.compare, settings), logits, None, params)
    assert of_kernel(name)
    assert set(of_kernel(name)) <= {kernel.prefix + result for result in found}


def test_an_entry_without_words_falls_back_on_its_name_unit_and_direction(added):
    added(Measurement("gradient_size", "nats", "norm of the gradient", direction="hot"), kernel=lambda network: 0.0)
    assert axis("gradient_size") == "gradient size, nats"
    node = Node("gradient_size", 0.5, 0.0, 2.0, "data", "size")
    steps, _ = tree_path("q", Structure("s", (node,), ("data", "size")), [0.5], None, {"gradient_size": 0.1}, {})
    wanted = f"Gradient size 0.1 nats is at or below 0.5 nats: {DIRECTIONS['hot'][0]}."
    assert evidence.sentence(steps[0]) == wanted
    assert steps[0].unit == "nats"


def test_one_with_a_scale_enters_later_joint_models(small_grid, added):
    added(Measurement("toy", "1", "a toy", needs=("pair",), scale=Scale(np.arcsinh, 1.0)), kernel=lambda pair: 0.0)
    assert joint.METRICS[-1] == joint.COLUMNS[-1] == joint.PAIR_COLUMNS[-1] == METRICS[-1] == PAIR_CHOICES[-1] == "toy"
    rng = np.random.default_rng(0)
    frame = small_grid.assign(toy=rng.standard_normal(len(small_grid)))
    loaded, gained = load_collection(frame), rng.standard_normal((len(frame), 4))
    assert joint.fit_joint(loaded, gained, ["train_error", "toy"]).metrics == ("train_error", "toy")
    assert joint.metrics_of(["train_error", "cka"]) == ("train_error", "cka")


def test_a_default_grid_measures_what_it_did_before(added):
    before = resolve(MeasureConfig())
    added(Measurement("toy", "1", "a toy"), kernel=lambda network: 0.0)
    assert resolve(MeasureConfig()) == before
    assert resolve(MeasureConfig(metrics=["toy", "hessian"])).metrics == ("hessian", "toy")


def test_a_value_that_is_not_finite_is_counted_and_left_out(weight_size):
    rows = [
        {"configuration": 0, "seed": seed, "status": "ok", "cohort": "c", "width": 2, "batch_size": 8,
         "data_fraction": 1.0, "num_samples": 40, "num_parameters": 9, "learning_rate": 0.1, "weight_decay": 0.0,
         "train_epochs": 1, "train_error": 1.0, "test_error": 2.0, "train_loss": 0.1, "test_loss": 0.2,
         "stop_epoch": 1, "train_seconds": 1.0, "train_flops": 1.0}
        for seed in range(3)
    ]  # fmt: skip
    members = typed_members(pd.DataFrame(rows)).assign(weight_size=[1.0, np.inf, 3.0], weight_size_seconds=0.1)
    found = collect(members).iloc[0]
    assert (found["weight_size"], found["num_not_measurable"]) == (2.0, 1)
    assert found["log_weight_size"] == pytest.approx(np.log(2.0))
