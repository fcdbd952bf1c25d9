"""`MDTreeClassifier` as a scikit-learn estimator and as a reader of collections."""

import pickle

import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from mdtree_jax import MDTreeClassifier, Structure, UserError
from mdtree_jax.collection.load import read_csv
from mdtree_jax.collection.published import published_file

_THREE = "the check's X has two columns and the optimizer tree asks three features: refused with a clear error"
_FIXED = "the structure and the bounds of the thresholds are fixed by hand: no general learner of Gaussian blobs"
_BY_NAME = "a DataFrame's features are found by name, so foreign column names are refused"

_NEED_THREE = (
    "check_estimators_overwrite_params",
    "check_estimators_fit_returns_self",
    "check_readonly_memmap_input",
    "check_classifier_data_not_an_array",
    "check_classifiers_classes",
    "check_fit_idempotent",
    "check_fit_check_is_fitted",
    "check_n_features_in",
)


def expected_failures(estimator):
    failures = {"check_classifiers_train": _FIXED, "check_classifier_data_not_an_array": _BY_NAME}
    if estimator.task == "optimizer":
        failures |= dict.fromkeys(_NEED_THREE, _THREE) | {"check_classifiers_train": f"{_THREE}; {_FIXED}"}
    return failures


@parametrize_with_checks(
    [MDTreeClassifier(), *(MDTreeClassifier(task="size", fit=fit) for fit in ("robust", "published", "exact"))],
    expected_failed_checks=expected_failures,
)
def test_scikit_learn(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def raw(collections):
    return read_csv(published_file("published/F"))


def test_fit_is_parameter_and_method():
    tree = MDTreeClassifier(fit="exact", task="size")
    assert tree.get_params()["fit"] == "exact"
    assert clone(tree).get_params() == tree.get_params()
    assert callable(tree.fit)
    assert "fit='exact'" in repr(tree)
    assert tree.set_params(fit="published").get_params()["fit"] == "published"
    assert pickle.loads(pickle.dumps(tree)).get_params() == tree.get_params()


def test_array_published_names_and_collection_agree(F, F_noise, raw):
    tree = MDTreeClassifier("optimizer", fit="published").fit(F)
    keep = raw[raw.bs_failure != "optimal"]
    features = ["train_error", "mode_connectivity_peak", "hessian_t"]
    by_array = MDTreeClassifier("optimizer", fit="published").fit(keep[features].to_numpy(), keep.bs_failure.to_numpy())
    by_alias = MDTreeClassifier("optimizer", fit="published").fit(raw)
    for other in (by_array, by_alias):
        np.testing.assert_array_equal(other.thresholds_, tree.thresholds_)
        np.testing.assert_array_equal(other.leaf_counts_, tree.leaf_counts_)
    assert len(tree.predict(F_noise)) == 1690
    assert set(tree.predict(F_noise)) == {"temperature_too_low", "temperature_too_high"}


def test_labels_are_computed_where_they_are_absent(F):
    bare = F.drop(columns=[c for c in F if c.startswith(("label", "rfi"))])
    for task in ("optimizer", "size", "data"):
        fitted = [MDTreeClassifier(task).fit(frame).thresholds_ for frame in (F, bare)]
        np.testing.assert_array_equal(*fitted)


def test_data_task_looks_at_wide_networks_only(F):
    wide = F[(F.width >= 32) & (F.label_data != "optimal")]
    tree = MDTreeClassifier("data").fit(F)
    assert tree.leaf_counts_.sum() == len(wide) == 637
    assert tree.score(F) == pytest.approx(np.mean(tree.predict(wide) == wide.label_data))
    assert MDTreeClassifier("data", min_width=0).fit(F).leaf_counts_.sum() == 1649
    narrow = F[F.width <= 23]  # no width of 32 or more: the five widest
    assert MDTreeClassifier("data").fit(narrow).leaf_counts_.sum() == sum(
        (narrow.width >= 6) & (narrow.label_data != "optimal")
    )
    with pytest.raises(UserError, match=r"widths >= 256, but the largest width is 128"):
        MDTreeClassifier("data", min_width=256).fit(F)


def test_probabilities_leaves_and_paths(F):
    tree = MDTreeClassifier("optimizer", fit="published").fit(F)
    rows = F[F.label_optimizer != "optimal"]
    leaf = tree.apply(rows)
    share = np.mean(rows.label_optimizer[leaf == 0] == "temperature_too_low")
    count = np.sum(leaf == 0)
    column = tree.classes_.tolist().index("temperature_too_low")
    expected = (share * count + 1) / (count + 2)
    np.testing.assert_allclose(tree.predict_proba(rows)[leaf == 0][:, column], expected)
    np.testing.assert_allclose(tree.predict_proba(F).sum(axis=1), 1)
    path = tree.decision_path(rows).toarray()
    assert path.shape == (len(rows), 3 + 4)
    # Interpolating networks meet the first question only; every row ends in one leaf.
    interpolates = (rows.train_error <= tree.thresholds_[0]).to_numpy()
    assert (path[interpolates].sum(axis=1) == 2).all()
    assert (path[:, 3:].sum(axis=1) == 1).all()
    assert (path[:, 3:].argmax(axis=1) == leaf).all()


@pytest.mark.parametrize(
    "options", [{}, {"task": "data"}, {"similarity": True, "fit": "published"}, {"task": "data", "fit": "exact"}]
)
def test_saved_trees_come_back(options, F, F_noise, tmp_path):
    tree = MDTreeClassifier(**options).fit(F)
    tree.save(tmp_path / "tree.json")
    back = MDTreeClassifier.load(tmp_path / "tree.json")
    assert back.get_params() == tree.get_params()
    np.testing.assert_array_equal(back.predict_proba(F_noise), tree.predict_proba(F_noise))
    assert back.score(F_noise) == tree.score(F_noise)
    assert back.export_text() == tree.export_text()
    assert (tmp_path / "tree.json").stat().st_size < 60_000
    assert [p.name for p in tmp_path.iterdir()] == ["tree.json"]
    (tmp_path / "cut.json").write_text((tmp_path / "tree.json").read_text()[:-40])
    with pytest.raises(UserError, match=r"cut\.json' cannot be read"):
        MDTreeClassifier.load(tmp_path / "cut.json")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(UserError, match="not a saved tree"):
        MDTreeClassifier.load(tmp_path / "other.json")


def test_structure_of_a_user(F, tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "name: mine\n"
        "classes: [large, small]\n"
        "nodes:\n"
        "  - {feature: train_error, initial: 0.5, low: 0, high: 1, left: small, right: 1}\n"
        "  - {feature: hessian_t, initial: 7, low: 4, high: 9, left: large, right: small}\n"
    )
    tree = MDTreeClassifier(structure=str(tmp_path / "mine.yaml"), fit="exact").fit(F)
    assert tree.structure_.features == ("train_error", "log_hessian_trace")
    assert tree.classes_.tolist() == ["temperature_too_high", "temperature_too_low"]
    assert 0.85 < tree.score(F) < MDTreeClassifier(fit="exact").fit(F).score(F)
    assert Structure.from_dict(tree.structure_.to_dict()) == tree.structure_


def test_text_and_drawing_hold_every_threshold_and_leaf(F):
    for fit in ("published", "robust"):
        tree = MDTreeClassifier("data", fit=fit).fit(F)
        text = tree.export_text()
        for threshold in tree.thresholds_:
            assert f"{threshold:.4g}" in text
        counts = tree.leaf_counts_.sum(axis=1)
        assert text.count(" agree)") == np.sum(counts > 0)
        assert text.count("(no model)") == np.sum(counts == 0)
        ax = tree.plot()
        drawn = " ".join(t.get_text() for t in ax.texts)
        assert all(f"{n} models" in drawn for n in counts if n)
        plt.close(ax.figure)
    for (low, high), threshold in zip(tree.threshold_intervals_, tree.thresholds_, strict=True):
        assert low <= threshold <= high
        assert f"[{low:.3g} … {high:.3g}]" in text
        assert f"[{low:.3g} … {high:.3g}]" in drawn
    assert "average over threshold settings and of 3 trees" in text
    assert f"{100 * tree.agreement_:.1f} % of the training models" in text


NODE = {"feature": "cka", "initial": 0.5, "low": 0, "high": 1, "left": "size", "right": "temperature"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"initial": 2}, r"initial=2 must lie in its bounds low=0 < high=1"),
        ({"low": "a"}, r"low='a'; it must be a finite number"),
        ({"left": "sise"}, r"unknown verdict .* 'sise' \(did you mean 'size'\?\)"),
        ({"right": 0}, r"child 0 must be the number of a later node"),
        ({"colour": 1}, r"node 0 .* must have exactly feature, initial"),
    ],
)
def test_structures_that_are_no_tree(change, message):
    with pytest.raises(UserError, match=message):
        Structure.from_dict({"name": "bad", "classes": ["size", "temperature"], "nodes": [NODE | change]})


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda F: MDTreeClassifier("sise").fit(F), r"unknown task 'sise' .*available: optimizer, size, data"),
        (lambda F: MDTreeClassifier(fit="best").fit(F), r"unknown fit 'best' .*; available: robust, published, exact"),
        (
            lambda F: MDTreeClassifier("size", similarity=True).fit(F),
            r"similarity=True is only available for task='optimizer'",
        ),
        (lambda F: MDTreeClassifier().fit(F.drop(columns="train_error")), r"no column 'train_error'"),
        (
            lambda F: MDTreeClassifier().fit(F.rename(columns={"log_hessian_trace": "log_hesian_trace"})),
            r"no column 'log_hessian_trace' .*did you mean 'log_hesian_trace'",
        ),
        (lambda F: MDTreeClassifier().fit(F.to_numpy()[:, :3].astype(float)), "requires y to be passed"),
        (
            lambda F: MDTreeClassifier().fit(F[["train_error", "cka"]].to_numpy(), F.label_optimizer),
            r"X has 2 feature\(s\) .*needs 3: train_error, mode_connectivity_peak, log_hessian_trace",
        ),
        (
            lambda F: MDTreeClassifier().fit(F[F.label_optimizer == "temperature_too_low"]),
            r"there is only one class to fit, class 'temperature_too_low' in 846 rows",
        ),
        (lambda F: MDTreeClassifier().fit(F, F.label_optimizer[:-1]), "they must be equal"),
        (lambda F: MDTreeClassifier().fit(F, F.label_size), "this is the label of another task"),
        (lambda F: MDTreeClassifier(structure="size").fit(F), "set task= to the task of the tree"),
        (lambda F: MDTreeClassifier(structure="size", similarity=True).fit(F), "give only one of them"),
        (
            lambda F: MDTreeClassifier().fit(F.assign(train_error=F.train_error.mask(F.index == 4))),
            r"column 'train_error'.* holds 'nan' in the row of index 4 \(1 such of 1560 rows\)",
        ),
    ],
)
def test_bad_input(action, message, F):
    with pytest.raises(UserError, match=message):
        action(F)


def test_the_contract_of_scikit_learn(small_grid, tmp_path):
    """Names of features, pickles, clones; weights of rows are refused, as an estimator without them refuses them."""
    from sklearn.utils.validation import has_fit_parameter

    y = np.where(small_grid.width > 4, "temperature", "size")
    tree = MDTreeClassifier("size", fit="exact").fit(small_grid, y)
    assert tree.feature_names_in_.tolist() == list(tree.structure_.features)
    assert tree.n_features_in_ == len(tree.feature_names_in_)
    X = small_grid[list(tree.feature_names_in_)].to_numpy()
    with pytest.warns(UserWarning, match="feature names"):
        np.testing.assert_array_equal(tree.predict(X), tree.predict(small_grid))
    assert not hasattr(MDTreeClassifier("size", fit="exact").fit(X, y), "feature_names_in_")
    assert not hasattr(tree.fit(X, y), "feature_names_in_")  # that of the fit before does not stay
    for fit in ("robust", "published", "exact"):
        tree = MDTreeClassifier("size", fit=fit, min_width=0)
        assert clone(tree).get_params() == pickle.loads(pickle.dumps(tree)).get_params() == tree.get_params()
        again = pickle.loads(pickle.dumps(tree.fit(small_grid, y)))
        np.testing.assert_array_equal(again.predict_proba(small_grid), tree.predict_proba(small_grid))
        assert not hasattr(clone(tree), "thresholds_")
        tree.save(tmp_path / "tree.json")
        assert (
            MDTreeClassifier.load(tmp_path / "tree.json").feature_names_in_.tolist() == tree.feature_names_in_.tolist()
        )
    assert not has_fit_parameter(tree, "sample_weight")
    with pytest.raises(TypeError, match="sample_weight"):
        tree.fit(small_grid, y, sample_weight=np.ones(len(y)))
    assert not hasattr(tree, "set_output")  # of transformers
