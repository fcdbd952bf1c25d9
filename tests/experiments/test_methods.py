"""Methods of transfer: one form, so that a method of one's own takes part wherever a built-in one does."""

import numpy as np
import pandas as pd
import pytest

from mdtree_jax.causes.method_protocol import JOINT_TASKS, Method, Sample, likeliest
from mdtree_jax.checks import UserError
from mdtree_jax.collection.tasks import TASKS, task_rows
from mdtree_jax.experiments.coverage import coverage_table
from mdtree_jax.experiments.method_table import JOINT_METHODS, METHOD_TABLE, METHODS, get_methods
from mdtree_jax.experiments.suite import transfer
from tests.causes.test_joint import small  # noqa: F401 (a fixture)


def fit_nearest(sample, seed):
    """Fit the class of the nearest training error."""
    known, y = sample.features[("train_error",)][:, 0], sample.y

    def chances(other):
        away = np.abs(other.features[("train_error",)] - known[None])
        return np.eye(len(other.task.classes))[y[away.argmin(axis=1)]]

    return likeliest(chances, thresholds=(("train_error", 1.0),))


@pytest.fixture
def nearest():
    METHOD_TABLE.register(Method("nearest", "nearest error", lambda task: ("train_error",), fit_nearest))
    yield METHOD_TABLE["nearest"]
    METHOD_TABLE.unregister("nearest")


def test_a_method_of_ones_own_takes_part_in_every_experiment(nearest, small):  # noqa: F811
    measured = transfer(
        small, None, mode="all", tasks=["optimizer", "joint"], methods=["nearest"], seeds=[0], k=[2], jobs=1
    )
    assert {"q1_dataset", "q1_scale_data", "joint_dataset", "joint_room_scale_width"} <= set(
        measured.results.experiment
    )
    assert set(measured.results.method) == {"nearest"}
    assert set(measured.thresholds.feature) == {"train_error"}
    # By hand: all rows of the cells that were not sampled.
    row = measured.results.set_index("experiment").loc["q1_dataset"]
    assert row.n_train + row.n_test == (small.label_optimizer != "optimal").sum()


def test_every_method_gives_places_and_chances(small):  # noqa: F811
    from mdtree_jax.causes.evaluate import joint_sample, make_joint_side
    from mdtree_jax.causes.labels import CAUSES

    side = make_joint_side(small, "step")
    rng = np.random.default_rng(0).random(len(small)) < 0.5
    for task in (*TASKS.values(), JOINT_TASKS["joint"]):
        whole = joint_sample(side, task, CAUSES)
        half = rng[: len(whole)]
        for method in METHOD_TABLE.values():
            if not method.answers(task):
                continue
            fitted = method.fit(whole[half], 0)
            places = fitted.predict(whole[~half])
            assert places.shape == ((~half).sum(),)
            assert set(places) <= set(range(len(whole.task.classes)))
            if fitted.chances is not None:
                chances = fitted.chances(whole[~half])
                assert chances.shape == (len(places), len(whole.task.classes))
                np.testing.assert_allclose(chances.sum(axis=1), 1)
            for feature, threshold in fitted.thresholds:
                assert feature in method.features(task)
                assert np.isfinite(threshold)


def test_rows_of_a_sample_are_those_of_the_table(small):  # noqa: F811
    rows = task_rows(small, TASKS["size"])
    sample = Sample.of(rows, TASKS["size"])
    chosen = np.arange(len(rows)) % 3 == 0
    part = sample[chosen][np.arange(chosen.sum()) % 2 == 0]
    pd.testing.assert_frame_equal(part.frame, rows[chosen].iloc[::2])
    assert (
        part.features[("cka", "train_loss")].tolist() == rows[["cka", "train_loss"]][chosen].iloc[::2].values.tolist()
    )
    assert [TASKS["size"].classes[place] for place in part.y] == part.frame.label_size.tolist()
    with pytest.raises(UserError, match="task 'size' needs gains, and the gains of these rows are unknown"):
        part.gains  # noqa: B018


def test_the_methods_that_are_compared_by_default_stay():
    assert [m.name for m in get_methods(None)] == list(METHODS)
    assert [m.name for m in get_methods(None, [JOINT_TASKS["joint"]])] == list(JOINT_METHODS)
    assert get_methods(["forest"], [TASKS["size"]])[0].answers(TASKS["size"])
    with pytest.raises(UserError, match="unknown method 'md_tree_joint'"):
        get_methods(["md_tree_joint"], [TASKS["size"]])


def test_coverage_compares_what_states_probabilities(small):  # noqa: F811
    table = coverage_table(small, None, ["size"])
    assert set(table["method"]) == {"trees_and_gains", "md_tree_robust", "forest"}
    assert set(coverage_table(small, None, ["joint"])["method"]) == {"md_tree_joint", "forest"}
