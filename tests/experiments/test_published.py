"""The published numbers, to the digit: labels, fits, curves, one-step gains."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.tree import DecisionTreeClassifier

from mdtree_jax import MDTreeClassifier
from mdtree_jax.collection.columns import feature_values
from mdtree_jax.collection.grid import compute_labels, make_grid
from mdtree_jax.collection.load import read_csv
from mdtree_jax.collection.published import FILES, published_file
from mdtree_jax.experiments.method_table import get_methods
from mdtree_jax.experiments.one_step import ONE_STEP_METHODS, OneStepRunner
from mdtree_jax.experiments.runner import EXPERIMENTS, PUBLISHED_SEEDS, Runner, experiments_of
from mdtree_jax.report.paper import CASES
from mdtree_jax.trees.fit import predict_classes
from mdtree_jax.trees.members import STRUCTURES
from tests.conftest import SHARED


@pytest.fixture(scope="module")
def results(collections):
    """The seven experiments with every method and the published seeds."""
    return Runner(*collections, get_methods(None), PUBLISHED_SEEDS).run(experiments_of("all"))


def means(results, experiment, method, value="accuracy"):
    table = results[0]
    return table[(table.experiment == experiment) & (table.method == method)].groupby("k")[value]


@pytest.mark.parametrize("name", FILES)
def test_labels_and_rfi_follow_from_the_grid(name, collections):
    raw = read_csv(published_file(name))
    frame = collections[list(FILES).index(name)]
    computed = compute_labels(make_grid(frame.drop(columns=[c for c in frame if c.startswith(("rfi", "label"))])))
    rfi = {"rfi_batch_down": "rfi_inc_temp", "rfi_batch_up": "rfi_dec_temp", "rfi_width": "rfi_width"}
    rfi |= {"rfi_data": "rfi_data"}
    for ours, published in rfi.items():
        np.testing.assert_allclose(computed[ours], raw[published], rtol=0, atol=1e-9)
    published_names = {
        "label_optimizer": ("bs_failure", {"temperature_too_low": "small", "temperature_too_high": "large"}),
        "label_size": ("width_vs_batch", {"size": "width", "temperature": "batch"}),
        "label_data": ("data_vs_batch", {"data": "data", "temperature": "batch"}),
    }
    for ours, (published, names) in published_names.items():
        assert computed[ours].replace(names).tolist() == raw[published].tolist()
    assert len(computed) == 1690


def test_small_means_that_the_batch_is_too_large(F):
    # At the largest batch nothing lies above: whatever there is to gain, is gained by a smaller batch.
    largest = F[F.batch_size == F.batch_size.max()]
    assert set(largest.label_optimizer) <= {"temperature_too_low", "optimal"}
    smallest = F[F.batch_size == F.batch_size.min()]
    assert set(smallest.label_optimizer) <= {"temperature_too_high", "optimal"}


@pytest.mark.parametrize(
    ("task", "thresholds", "on_train", "on_test"),
    [("optimizer", (0.146, -4.422, 6.138), 94.23, 91.41), ("size", (1.0, -0.024, -1.455), 84.24, 79.56)],
)
def test_fits_to_all_of_F(task, thresholds, on_train, on_test, F, F_noise):
    tree = MDTreeClassifier(task=task, fit="published").fit(F)
    np.testing.assert_allclose(tree.thresholds_, thresholds, atol=5.1e-4)
    assert 100 * tree.score(F) == pytest.approx(on_train, abs=0.0051)
    assert 100 * tree.score(F_noise) == pytest.approx(on_test, abs=0.0051)


@pytest.mark.skipif(not (SHARED / "reference").is_dir(), reason="the authors' curves are not beside the checkout")
def test_every_point_of_the_authors_curves(results):
    curves = json.loads((SHARED / "reference" / "curves.json").read_text())["experiments"]
    compared = 0
    for name, curve in curves.items():
        for method, published in curve["accuracy_mean"].items():
            ours = means(results, name, "md_tree" if method.startswith("MDtree") else method)
            # The tolerance is half of the last printed figure: every method, trees and baselines, to the digit.
            np.testing.assert_allclose(ours.mean().loc[curve["k"]], published, rtol=0, atol=0.0051)
            np.testing.assert_allclose(ours.std(ddof=0).loc[curve["k"]], curve["accuracy_sd"][method], atol=0.0051)
            compared += len(published)
        n_train = means(results, name, "md_tree", "n_train").mean().loc[curve["k"]]
        np.testing.assert_allclose(n_train, curve["n_train_mean"])
        assert set(means(results, name, "md_tree", "n_test").first()) == {curve["n_test"]}
    assert compared == 3 * (24 + 10 + 13 + 10 + 10)


def test_table_of_the_paper(results):
    for case in CASES:
        for method, published in case.accuracy.items():
            # Truncated where the paper truncates; 49.56 is 49.54 with a current scikit-learn (docs/results/paper.md).
            ours = means(results, case.experiment, method).mean()[case.k]
            assert ours == pytest.approx(published, abs=0.025), (case.number, method)


def test_references_that_need_no_fit(results):
    table = results[0]
    at_initial = table[table.method == "initial_thresholds"].groupby("task").accuracy.agg(["min", "max"])
    assert at_initial.loc["optimizer"].round(2).tolist() == [83.46, 83.46]
    assert at_initial.loc["size"].round(2).tolist() == [75.14, 75.14]
    everything = table[(table.method == "majority") & (table.k == 10) & (table.experiment == "q2_width_scale_data")]
    assert everything.accuracy.round(2).unique().tolist() == [53.55]
    assert set(table[table.method == "majority"].accuracy.round(2)) >= {64.74, 53.55, 61.20}


def literal_verdict(name, t, row):
    """Return the verdict of a published tree, written out (docs/explanation/trees.md)."""
    error, peak, sharpness = row.train_error, row.mode_connectivity_peak, row.log_hessian_trace
    if name.startswith("optimizer"):
        if error <= t[0]:
            return "temperature_too_low"
        if peak > t[1]:
            return "temperature_too_high"
        if name == "optimizer":
            return "temperature_too_high" if sharpness <= t[2] else "temperature_too_low"
        return "temperature_too_low" if row.cka <= t[2] else "temperature_too_high"
    if name == "size":
        return "size" if peak <= (t[1] if error <= t[0] else t[2]) else "temperature"
    if error <= t[0]:
        return "data" if sharpness <= (t[4] if peak <= t[1] else t[2]) else "temperature"
    if peak <= t[3]:
        return "temperature"
    return "data" if sharpness <= t[5] else "temperature"


@pytest.mark.parametrize("name", ["optimizer", "optimizer_similarity", "size", "data"])
@pytest.mark.parametrize("seed", range(3))
def test_structures_are_the_published_trees(name, seed, collections):
    structure = STRUCTURES[name]
    both = pd.concat(collections)
    rng = np.random.default_rng(seed)
    columns = feature_values(both, structure.features)[:, structure.node_columns]
    thresholds = np.array([rng.choice(column) for column in columns.T])  # values that occur, so that `<=` matters
    predicted = predict_classes(structure, thresholds, feature_values(both, structure.features))
    literal = [literal_verdict(name, thresholds, row) for row in both.itertuples()]
    assert [structure.classes[i] for i in predicted] == literal
    bounds = {"train_error": (0.5, 0, 1), "mode_connectivity_peak": (-10, -30, 0), "log_hessian_trace": (7, 4, 9)}
    bounds["cka"] = (0.5, 0.2, 0.8)
    assert all((n.initial, n.low, n.high) == bounds[n.feature] for n in structure.nodes)


BASELINE_COLUMNS = {  # published names, in the published order
    ("hyperparameter", "optimizer"): ["log_data_amount", "log_para_amount"],
    ("hyperparameter", "size"): ["log_data_amount"],
    ("hyperparameter", "data"): ["log_para_amount"],
    ("validation", "any"): ["train_error", "train_loss", "test_loss", "test_error"],
    ("landscape", "any"): ["train_error", "mode_connectivity_peak", "CKA", "hessian_t"],
}


def sampled(train, sampling, k, generator):
    """Return the sample of a published frame, by its own columns (docs/explanation/experiments.md)."""
    data, widths = sorted(train.data.unique()), sorted(train.width.unique())
    if sampling == "random":
        cells = [(d, w) for d in data for w in widths]
        chosen = {cells[i] for i in generator.choice(list(range(len(cells))), size=k, replace=False)}
        return train[[pair in chosen for pair in zip(train.data, train.width, strict=True)]]
    if sampling.startswith("random"):
        column, values = ("data", data) if sampling == "random_data" else ("width", widths)
        return train[train[column].isin(generator.choice(values, k, replace=False))]
    return train[train["data" if sampling == "data_limit" else "width"] <= k]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_baselines_equal_a_plain_loop_over_the_published_files(experiment, results):
    task = EXPERIMENTS[experiment].task
    label = {"optimizer": "bs_failure", "size": "width_vs_batch", "data": "data_vs_batch"}[task]
    sides = [read_csv(published_file(name)) for name in FILES]
    sides = [f[(f[label] != "optimal") & (f.width >= (32 if task == "data" else 0))] for f in sides]
    train, test = sides
    table = results[0].set_index(["experiment", "method", "k", "seed"]).accuracy
    k = {"q1_scale_width": 6, "q2_data_scale_width": 45}.get(experiment, 3)
    for seed in (42, 72):
        sample = sampled(train, EXPERIMENTS[experiment].sampling, k, np.random.RandomState(seed))
        columns = {m: BASELINE_COLUMNS.get((m, task)) or BASELINE_COLUMNS[m, "any"] for m in ("hyperparameter",
                   "validation", "landscape")}  # fmt: skip
        columns["hyperparameter_validation"] = columns["hyperparameter"] + columns["validation"]
        for method, names in columns.items():
            tree = DecisionTreeClassifier(criterion="gini", max_depth=4, random_state=seed)
            score = tree.fit(sample[names], sample[label]).score(test[names], test[label])
            assert table[experiment, method, k, seed] == pytest.approx(100 * score, abs=1e-9), method


def test_exact_fit_is_never_behind_the_published_one_in_training(collections):
    """On every sample of every experiment, in training accuracy."""
    train = collections[0]
    methods = get_methods(["md_tree", "md_tree_exact"])
    from mdtree_jax.collection.tasks import TASKS, task_rows
    from mdtree_jax.experiments.runner import make_side
    from mdtree_jax.experiments.sampling import SAMPLINGS
    from mdtree_jax.trees import fit as engine
    from mdtree_jax.trees.members import STRUCTURES

    strictly_better = 0
    for experiment in EXPERIMENTS.values():
        task, sampling = TASKS[experiment.task], SAMPLINGS[experiment.sampling]
        frame, structure = task_rows(train, task), STRUCTURES[experiment.task]
        side = make_side(frame, task, methods)
        X, codes = side.features[structure.features], np.array([task.classes.index(c) for c in structure.classes])
        for k in sampling.sizes(frame):
            for seed in PUBLISHED_SEEDS if sampling.random else (0,):
                mask = sampling.mask(frame, k, seed)
                rows, y = X[mask], np.argsort(codes)[side.y[mask]]
                published, exact = (fit(structure, rows, y) for fit in (engine.fit_published, engine.fit_exact))
                better = [engine.accuracy(structure, t, rows, y) for t in (published, exact)]
                assert better[1] >= better[0], (experiment.name, k, seed)
                strictly_better += better[1] > better[0]
    assert strictly_better > 100


def test_one_step_gains(collections):
    table, thresholds = OneStepRunner(*collections, get_methods(list(ONE_STEP_METHODS)), PUBLISHED_SEEDS).run()
    gain = table.groupby(["task", "method", "step"]).gain.mean()
    known = {
        ("optimizer", "oracle", "one"): 1.478,
        ("optimizer", "oracle", "optimal"): 5.829,
        ("size", "oracle", "one"): 1.922,
        ("size", "oracle", "optimal"): 8.834,
        ("optimizer", "validation", "one"): 1.213,
        ("optimizer", "validation", "optimal"): 4.455,
    }
    # The tree's own, worked out once more by a plain loop over the published files.
    known |= {("optimizer", "md_tree", "one"): 1.342, ("optimizer", "md_tree", "optimal"): 5.518}
    known |= {("size", "md_tree", "one"): 1.731, ("size", "md_tree", "optimal"): 8.097}
    for key, value in known.items():
        assert gain[key] == pytest.approx(value, abs=6e-4), key
    about = {
        ("optimizer", "one"): 0.92,
        ("optimizer", "optimal"): 3.50,
        ("size", "one"): 1.19,
        ("size", "optimal"): 5.03,
    }
    for (task, step), value in about.items():
        assert gain[task, "random", step] == pytest.approx(value, abs=0.015)
        for method in ("md_tree", "md_tree_exact"):
            low = gain[task, "validation", step]
            assert low < gain[task, method, step] < gain[task, "oracle", step]
    assert (table.gain >= table.gain_unclipped - 1e-12).all()
    assert set(thresholds.method) == {"md_tree", "md_tree_exact", "md_tree_robust"}
