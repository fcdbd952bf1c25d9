"""The robust fit against plain enumeration of every threshold setting, and its properties."""

import itertools
from math import exp, lgamma, log

import numpy as np
import pytest

from mdtree_jax.checks import UserError
from mdtree_jax.trees import fit as engine
from mdtree_jax.trees import robust
from mdtree_jax.trees.members import MEMBERS
from mdtree_jax.trees.structure import Node, Structure

CHAIN = Structure(
    "chain",
    (
        Node("train_error", 0.5, 0.0, 1.0, "a", 1),
        Node("mode_connectivity_peak", -10.0, -30.0, 0.0, 2, "b"),
        Node("log_hessian_trace", 7.0, 4.0, 9.0, "b", "a"),
    ),
    ("a", "b"),
)
BUSHY = Structure(
    "bushy",
    (
        Node("cka", 0.5, 0.2, 0.8, 1, 2),
        Node("custom", 0.0, -2.0, 1.0, "a", "c"),
        Node("cka", 0.6, 0.2, 0.8, "b", "a"),
    ),
    ("a", "b", "c"),
)


def _sample(structure, rows, seed=0):
    rng = np.random.default_rng(seed)
    low, high = ([min(f(n) for n in structure.nodes if n.feature == name) for name in structure.features]
                 for f in (lambda n: n.low, lambda n: n.high))  # fmt: skip
    X = rng.uniform(np.array(low) - 0.2, np.array(high) + 0.2, (rows, len(structure.features)))
    y = engine.predict_classes(structure, structure.initial, X)
    flip = rng.random(rows) < 0.2
    return X, np.where(flip, rng.integers(0, len(structure.classes), rows), y)


def _enumerate(structure, X, y, X_new):
    """Posterior marginals and verdict shares by going through every setting, one after another."""
    number = robust.candidates_for_depth(max(len(path) for path in robust._paths(structure)))
    priors = [robust.threshold_prior(n.feature, n.initial, n.low, n.high, number) for n in structure.nodes]
    rho = robust.evidence_per_row(len(y))

    def log_beta(a, b):
        return lgamma(a) + lgamma(b) - lgamma(a + b)

    marginals = [np.zeros(number) for _ in priors]
    shares, total = np.zeros((len(X_new), len(structure.classes))), 0.0
    for place in itertools.product(range(number), repeat=len(priors)):
        thresholds = np.array([grid[i] for (grid, _), i in zip(priors, place, strict=True)])
        leaf = engine.reach_nodes(structure, thresholds, X)[1]
        weight = sum(log_prior[i] for (_, log_prior), i in zip(priors, place, strict=True))
        for number_, verdict in enumerate(structure.leaf_verdicts):
            right, wrong = (int(np.sum((leaf == number_) & ((y == verdict) == side))) for side in (True, False))
            weight += log_beta(9 + rho * right, 1 + rho * wrong) - log_beta(9, 1)
        total += exp(weight)
        for marginal, i in zip(marginals, place, strict=True):
            marginal[i] += exp(weight)
        shares[np.arange(len(X_new)), engine.predict_classes(structure, thresholds, X_new)] += exp(weight)
    return [m / total for m in marginals], shares / total, log(total)


@pytest.fixture
def few_candidates(monkeypatch):
    monkeypatch.setattr(robust, "_MOST_CANDIDATES", 7)
    robust.node_priors.cache_clear()
    yield
    robust.node_priors.cache_clear()


@pytest.mark.parametrize("structure", [CHAIN, BUSHY], ids=lambda s: s.name)
def test_sum_product_equals_enumeration(structure, few_candidates):
    X, y = _sample(structure, 40)
    X_new, _ = _sample(structure, 60, seed=1)
    marginals, shares, log_evidence = _enumerate(structure, X, y, X_new)
    posterior = robust.fit_posterior(structure, X, y)
    for found, expected in zip(posterior.marginals, marginals, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    np.testing.assert_allclose(robust.verdict_shares(posterior, X_new), shares, atol=1e-12)
    assert posterior.log_evidence == pytest.approx(log_evidence, rel=1e-12)
    other = robust.fit_posterior(structure, X, y, robust.Options(row_weight=0.45))  # another discount is told apart
    assert not np.allclose(robust.verdict_shares(other, X_new), shares, atol=1e-3)


def test_one_row_leaves_the_prior_with_its_mode_at_the_initial_values():
    posterior = robust.fit_posterior(CHAIN, np.array([[0.5, -10.0, 7.0]]), np.array([0]))
    for grid, weight, node in zip(posterior.grids, posterior.marginals, CHAIN.nodes, strict=True):
        assert node.low < grid[0] < grid[-1] < node.high
        step = np.diff(grid).max()
        assert abs(grid[np.argmax(weight)] - node.initial) <= step
        assert weight.sum() == pytest.approx(1)


def test_many_rows_find_the_thresholds():
    rng = np.random.default_rng(0)
    X = np.stack([rng.uniform(0, 1, 4000), rng.uniform(-30, 0, 4000), rng.uniform(4, 9, 4000)], axis=1)
    truth = np.array([0.2, -4.0, 6.0])
    y = engine.predict_classes(CHAIN, truth, X)
    intervals = robust.threshold_intervals(robust.fit_posterior(CHAIN, X, y))
    assert (intervals[:, 1] - 0.15 <= truth).all()
    assert (truth <= intervals[:, 2] + 0.15).all()
    one = robust.threshold_intervals(robust.fit_posterior(CHAIN, X[:1], y[:1]))
    assert (intervals[:, 2] - intervals[:, 1] < (one[:, 2] - one[:, 1]) / 3).all()


@pytest.mark.parametrize("task", MEMBERS)
def test_probabilities_of_the_members(task):
    members = MEMBERS[task]
    rng = np.random.default_rng(0)
    X = [rng.normal(size=(50, len(m.features))) for m in members]
    fit = robust.fit_robust(members, X, rng.integers(0, 2, 50))
    proba = robust.predict_proba(fit, X)
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    assert ((proba > 0) & (proba < 1)).all()
    votes = np.mean([robust.verdict_shares(m, x) for m, x in zip(fit.members, X, strict=True)], axis=0)
    assert ((proba > 0.5) == (votes > 0.5)).all()
    alone = robust.predict_proba(fit, [X[0], *[None] * (len(X) - 1)])
    assert ((alone > 0.5) == (robust.verdict_shares(fit.members[0], X[0]) > 0.5)).all()


def test_bad_input():
    with pytest.raises(UserError, match="same classes"):
        robust.fit_robust([CHAIN, BUSHY], [np.zeros((1, 3)), np.zeros((1, 2))], np.array([0]))
    with pytest.raises(UserError, match="at least one tree and one row"):
        robust.fit_robust([CHAIN], [np.zeros((0, 3))], np.array([], dtype=int))
    with pytest.raises(UserError, match="depth at most 10, not 11"):
        robust.candidates_for_depth(11)


SEEDS = range(1050, 1056)  # not used in design


@pytest.fixture(scope="module")
def transfer_table(collections):
    from mdtree_jax.experiments.method_table import METHODS
    from mdtree_jax.experiments.runner import Runner, experiments_of

    # `md_tree_relative` is the robust fit with another member, for models of another family.
    methods = [m for name, m in METHODS.items() if name not in ("md_tree_relative", "majority", "hyperparameter")]
    return Runner(*collections, methods, SEEDS).run(experiments_of("all"))[0]


def test_robust_is_at_least_the_best_of_the_others_everywhere(transfer_table):
    mean = transfer_table.groupby(["experiment", "k", "method"]).accuracy.mean().unstack()
    rivals = mean.drop(columns="md_tree_robust").max(axis=1)
    difference = mean.md_tree_robust - rivals
    assert len(difference) == 77
    assert difference.min() > -0.5, difference.idxmin()


def test_robust_closes_the_gap_to_the_fit_on_the_test_side(transfer_table):
    tuned = {"q1_dataset": 92.7, "q1_scale_data": 92.7, "q1_scale_width": 92.7}
    tuned |= {"q2_width_dataset": 81.6, "q2_width_scale_data": 81.6}
    mean = transfer_table.groupby(["experiment", "method"]).accuracy.mean().unstack()
    for experiment, best in tuned.items():
        published = mean.md_tree[experiment]
        assert mean.md_tree_robust[experiment] - published >= 0.4 * (best - published), experiment


def test_probabilities_are_calibrated_on_the_other_collection(F, F_noise):
    from mdtree_jax import MDTreeClassifier

    tree = MDTreeClassifier("optimizer").fit(F)
    rows = F_noise[F_noise.label_optimizer != "optimal"]
    probability = tree.predict_proba(rows).max(axis=1)
    right = (tree.predict(rows) == rows.label_optimizer).to_numpy()

    def error(probability):
        bins = np.array_split(np.argsort(probability, kind="stable"), 10)
        return 100 * np.mean([abs(probability[b].mean() - right[b].mean()) for b in bins])

    assert error(probability) <= 5
    assert error(0.5 + (probability - 0.5) / 2) > 5  # the check can fail


def test_a_table_without_the_companions_measures_still_gets_an_answer(F, F_noise):
    from mdtree_jax import MDTreeClassifier

    features = ["train_error", "mode_connectivity_peak", "log_hessian_trace"]
    tree = MDTreeClassifier("optimizer").fit(F)
    bare = F_noise[[*features, "label_optimizer"]]
    assert tree.score(bare) > 0.87  # 91.8 % with them
    alone = MDTreeClassifier("optimizer").fit(F[features], F.label_optimizer)
    assert [member.name for member in alone.members_] == ["optimizer"]
    rows = F_noise[F_noise.label_optimizer != "optimal"]
    assert np.mean(tree.predict(rows[features].to_numpy()) == tree.predict(rows[features])) == 1
    assert alone.score(F_noise) > 0.87


def test_sharpness_relative_to_the_loss_rises_with_the_batch_where_sharpness_alone_collapses(F, F_noise):
    from mdtree_jax.collection.columns import feature_values

    for frame in (F, F_noise):
        rises = []
        for name in ("log_relative_eigenvalue", "log_hessian_max_eigenvalue"):
            table = frame.assign(value=feature_values(frame, [name])[:, 0])
            slices = table.groupby(["width", "data_fraction"])[["batch_size", "value"]]
            rises.append(slices.apply(lambda rows: rows.corr("spearman").iloc[0, 1]).mean())
        assert rises[0] > 0.9
        assert rises[1] < 0.5


def test_the_relative_fit_goes_without_the_member_whose_metrics_are_missing(F, F_noise):
    from mdtree_jax.experiments.suite import transfer

    notes, setup = [], {"mode": "dataset", "tasks": ["optimizer"], "methods": ["md_tree_relative"], "seeds": [0]}
    whole = transfer(F, F_noise, k=[24], **setup).results.accuracy[0]
    bare = F_noise.drop(columns="train_loss")
    bare.attrs.update(F_noise.attrs)
    without = transfer(F, bare, k=[24], say=notes.append, **setup).results.accuracy[0]
    assert whole > 85
    assert without > 85
    assert whole != without
    assert any("md_tree_relative" in note and "log_relative_eigenvalue" in note for note in notes), notes


@pytest.mark.parametrize(
    ("name", "metrics", "errors", "expected"),
    [
        ("log_effective_rank", {"log_hessian_trace": 5.0, "log_hessian_max_eigenvalue": 3.0}, (0.3, 0.4), 0.5),
        # d ln(l + 0.001) = dl / 0.101, to first order
        ("log_relative_eigenvalue", {"log_hessian_max_eigenvalue": 3.0, "train_loss": 0.1}, (None, 1e-4), 1e-4 / 0.101),
        ("log_relative_eigenvalue", {"log_hessian_max_eigenvalue": 3.0, "train_loss": 0.0}, (0.2, None), 0.2),
        ("cka", {"cka": 0.5}, (0.07,), 0.07),
        ("log_effective_rank", {"log_hessian_trace": 5.0, "log_hessian_max_eigenvalue": 3.0}, (None, None), None),
    ],
)
def test_the_error_of_a_feature_comes_from_those_of_its_columns(name, metrics, errors, expected):
    from mdtree_jax.trees.decision_path import feature_error

    found = feature_error(name, metrics, dict(zip(metrics, errors, strict=True)))
    assert found == (None if expected is None else pytest.approx(expected, rel=1e-3))
