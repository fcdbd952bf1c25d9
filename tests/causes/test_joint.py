"""The joint question: labels against a loop over the grid, the model's probabilities, its transfer, coverage."""

import numpy as np
import pandas as pd
import pytest

from mdtree_jax import cli, load_collection, transfer
from mdtree_jax.causes import evaluate, joint
from mdtree_jax.causes.evaluate import make_joint_side
from mdtree_jax.causes.labels import CAUSES, LABELS, cause_labels, causes_of, gains
from mdtree_jax.checks import UserError
from mdtree_jax.collection.grid import make_grid
from mdtree_jax.collection.lines import step_targets
from mdtree_jax.collection.moves import AXES, Move, moves_of
from mdtree_jax.collection.tasks import TASKS
from mdtree_jax.experiments import coverage
from mdtree_jax.experiments.joint import JointRunner, joint_experiments_of
from mdtree_jax.experiments.method_table import get_methods


@pytest.fixture(scope="module")
def small():
    """Return 13 x 5 x 4 configurations of a digits-like grid whose gains follow from the metrics."""
    rng = np.random.default_rng(3)
    widths = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]
    axes = pd.MultiIndex.from_product([widths, [4, 12, 36, 96, 288], [0.1, 0.2, 0.5, 1.0]])
    frame = axes.to_frame(index=False, name=["width", "batch_size", "data_fraction"])
    heat = np.log(36 / frame.batch_size)
    frame["test_error"] = 30 / frame.width**0.7 + 3 / frame.data_fraction + heat**2 + 0.1 * rng.random(len(frame))
    frame["train_error"] = np.exp(heat) * 2
    frame["train_loss"] = np.exp(heat)
    frame["log_hessian_trace"] = 6 - heat + 0.1 * rng.normal(size=len(frame))
    frame["log_hessian_max_eigenvalue"] = 3 - heat
    frame["mode_connectivity"] = 2 * np.log(frame.width)
    frame["mode_connectivity_peak"] = -30.0 / frame.width
    frame["cka"] = 0.2 + 0.6 * frame.data_fraction
    frame["num_samples"], frame["num_parameters"] = (1000 * frame.data_fraction).astype(int), 10 * frame.width**2
    frame["test_loss"] = frame.test_error / 20
    return load_collection(frame)


def test_four_moves_stand_for_the_four_causes_of_a_classic_collection():
    moves = moves_of(AXES)
    assert [move.rfi for move in moves] == ["rfi_batch_down", "rfi_batch_up", "rfi_width", "rfi_data"]
    assert [move.cause for move in moves] == list(CAUSES[:4])
    assert CAUSES == ("temperature_too_low", "temperature_too_high", "model_too_small", "too_little_data", "none")


@pytest.mark.parametrize("label", LABELS)
def test_labels_equal_a_loop_over_configurations(label, small_grid):
    found = cause_labels(make_grid(small_grid), label)
    for row in small_grid.itertuples():
        gained = []
        for direction in moves_of(AXES):
            line = small_grid
            for axis in set(AXES) - {direction.knob}:
                line = line[line[axis] == getattr(row, axis)]
            here = getattr(row, direction.knob)
            ahead = line[(line[direction.knob] - here) * direction.sign > 0]
            if not len(ahead):
                gained.append(0.0)
            elif label == "room":
                gained.append(max(0.0, row.test_error - ahead.test_error.min()))
            else:
                away = np.abs(np.log2(ahead[direction.knob] / here) - direction.sign)
                gained.append(row.test_error - ahead.test_error.iloc[int(np.argmin(away.to_numpy()))])
        expected = "none" if max(gained) < 1 else CAUSES[int(np.argmax(gained))]
        assert found[row.Index] == expected


WIDER, MORE_DATA = Move("width", +1), Move("data_fraction", +1)
BATCH_DOWN, BATCH_UP = Move("batch_size", -1), Move("batch_size", +1)
WIDTHS = np.array([2.0, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128])
BATCHES = np.array([4.0, 6, 8, 12, 16, 24, 32, 48, 72, 96, 144, 208, 288])


@pytest.mark.parametrize(
    ("values", "direction", "expected"),
    [
        (WIDTHS, WIDER, [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 12, 12]),
        (BATCHES, BATCH_DOWN, [0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        (BATCHES, BATCH_UP, [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 12, 12]),
        (np.arange(1, 14.0), WIDER, [1, 3, 5, 7, 9, 11, 12, 12, 12, 12, 12, 12, 12]),
        (np.arange(1, 11) / 10, MORE_DATA, [1, 3, 5, 7, 9, 9, 9, 9, 9, 9]),
        (np.array([5.0]), WIDER, [0]),
    ],
    ids=["published width", "digits batch down", "digits batch up", "digits width", "data", "one value"],
)
def test_a_step_of_about_two(values, direction, expected):
    assert step_targets(values, direction).tolist() == expected


def test_a_missing_neighbour_is_no_gain(small_grid):
    grid = make_grid(small_grid.drop(index=3), allow_missing=True)
    gained = gains(grid)
    assert np.isnan(gained).any()
    assert np.isin(causes_of(gained), np.arange(5)).all()


def test_probabilities_equal_simulated_ones():
    rng = np.random.default_rng(0)
    mean, sd = 1.5 * rng.normal(size=(6, 4)), 0.3 + rng.random((6, 4))
    draws = mean[:, None] + sd[:, None] * rng.normal(size=(6, 100_000, 4))
    threshold = np.arcsinh(1.0)

    def shares(values):
        winner = np.where(values.max(axis=2) < threshold, 4, values.argmax(axis=2))
        return np.stack([(winner == k).mean(axis=1) for k in range(5)], axis=1)

    found = joint.cause_probabilities(mean, sd)
    expected = (1 - joint.DOUBT) * shares(draws) + joint.DOUBT / 5
    assert np.abs(found - expected).max() < 0.006
    assert np.abs(joint.cause_probabilities(1.5 * mean, sd) - expected).max() > 0.02
    np.testing.assert_allclose(found.sum(axis=1), 1.0)
    for task in TASKS.values():
        room = joint.task_probabilities(mean, sd, task)
        first = {"optimizer": draws[..., 1], "size": draws[..., :2].max(axis=2), "data": draws[..., :2].max(axis=2)}
        second = {"optimizer": draws[..., 0], "size": draws[..., 2], "data": draws[..., 3]}
        share = joint.DOUBT + (1 - 2 * joint.DOUBT) * (second[task.name] > first[task.name]).mean(axis=1)
        assert np.abs(room[:, 1] - share).max() < 0.007
        assert np.abs(joint.task_probabilities(1.5 * mean, sd, task)[:, 1] - share).max() > 0.02


def test_posterior_is_that_of_the_dense_formula(small):
    side = make_joint_side(small, "step")
    model = joint.fit_joint(side.frame, side.gained)
    test = side.frame.iloc[::7]
    mean, sd = joint.gain_posterior(model, test)
    rows = joint.embed(test, model.metrics, model.members, model.centre, model.scale, model.kernel)

    def kernel(a, b):
        squared = ((a[:, None] - b[None]) ** 2).sum(axis=2)
        k = model.kernel
        return k.share * np.exp(-0.5 * squared / k.short**2) + (1 - k.share) * np.exp(-0.5 * squared / k.long**2)

    K = kernel(model.rows, model.rows) + model.kernel.noise * np.eye(len(model.rows))
    target = np.arcsinh(side.gained)
    standard = (target - target.mean(axis=0)) / (target.std(axis=0) + 1e-6)
    similar = kernel(rows, model.rows)
    expected = similar @ np.linalg.solve(K, standard) * model.sd + model.mean
    np.testing.assert_allclose(mean, expected, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(joint.gain_means([model], test)[0], mean, rtol=1e-9)
    spread = 1 + model.kernel.noise - np.einsum("ij,ji->i", similar, np.linalg.solve(K, similar.T))
    np.testing.assert_allclose(sd, np.sqrt(spread)[:, None] * model.residual * model.sd, rtol=1e-6)
    # Leave-one-out residuals, the slow way, for one row.
    rest = np.arange(1, len(K))
    alone = K[0, rest] @ np.linalg.solve(K[np.ix_(rest, rest)], standard[rest])
    inverse = np.linalg.inv(K)
    np.testing.assert_allclose(standard[0] - alone, (inverse @ standard)[0] / inverse[0, 0], rtol=1e-6)


def test_left_out_means_are_those_of_a_fit_without_the_row(small):
    gained = gains(make_grid(small), "step")
    model = joint.fit_joint(small, gained)
    kernel = model.kernel(model.rows, model.rows) + model.kernel.noise * np.eye(len(small))
    target = np.arcsinh(gained)
    for row in (0, 77):
        rest = np.arange(len(small)) != row
        weights = np.linalg.solve(kernel[np.ix_(rest, rest)], ((target - model.mean) / model.sd)[rest])
        expected = kernel[row, rest] @ weights * model.sd + model.mean
        np.testing.assert_allclose(joint.left_out_means(model)[row], expected, rtol=1e-6, atol=1e-9)


def test_it_learns_what_follows_from_the_metrics(small):
    side = make_joint_side(small, "step")
    train = np.random.default_rng(0).random(len(side.y)) < 0.5
    model = joint.fit_joint(side.frame[train], side.gained[train])
    chances = joint.predict_joint(model, side.frame[~train])
    right = (chances.argmax(axis=1) == side.y[~train]).mean()
    assert right > 0.9 > np.bincount(side.y).max() / len(side.y)


def test_metrics_that_are_missing_are_left_out(small):
    side = make_joint_side(small, "step")
    columns = ["train_error", "log_hessian_trace"]
    model = joint.fit_joint(side.frame, side.gained, columns)
    assert model.metrics == ("train_error", "log_hessian_trace")
    chances = joint.predict_joint(model, side.frame[columns])
    np.testing.assert_allclose(chances.sum(axis=1), 1.0)
    with pytest.raises(UserError, match="needs at least one of train_error"):
        joint.fit_joint(side.frame, side.gained, ["test_error"])
    with pytest.raises(UserError, match=r"no column 'cka'.*which the joint question uses"):
        make_joint_side(small.drop(columns="cka"), "step")


def test_accuracy_and_calibration_by_hand():
    right = np.array([True, True, False, True, False])
    answers = evaluate.Answers(right, np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.arange(5))
    assert evaluate.accuracy_at(answers, 40) == 100.0
    assert evaluate.accuracy_at(answers, 100) == 60.0
    assert evaluate.calibration_error(answers, bins=1) == pytest.approx(10.0)
    assert evaluate.calibration_error(answers, bins=5) == pytest.approx(100 * (0.1 + 0.2 + 0.7 + 0.4 + 0.5) / 5)
    low, high = evaluate.bootstrap_interval(answers, 100)
    assert low <= 60 <= high


def test_bootstrap_interval_has_the_width_of_independent_cells():
    rng = np.random.default_rng(1)
    right = rng.random(4000) < 0.8
    low, high = evaluate.bootstrap_interval(evaluate.Answers(right, np.ones(4000), np.arange(4000)), 100)
    expected = 2 * 1.96 * 100 * np.sqrt(0.8 * 0.2 / 4000)
    assert high - low == pytest.approx(expected, rel=0.15)
    together = evaluate.Answers(np.repeat(right[:400], 10), np.ones(4000), np.repeat(np.arange(400), 10))
    wide = np.subtract(*evaluate.bootstrap_interval(together, 100)[::-1])
    assert wide == pytest.approx(expected * np.sqrt(10), rel=0.25)


def test_transfer_of_the_joint_question(small):
    methods = get_methods(["md_tree_joint", "validation", "hyperparameter", "majority"])
    runs = [
        JointRunner(small, None, methods, [0, 1], k=[4], jobs=jobs).run(joint_experiments_of("dataset", ["joint"]))
        for jobs in (1, 2)
    ]
    pd.testing.assert_frame_equal(*runs)
    table = runs[0]
    assert set(table.experiment) == {"joint_dataset", "joint_room_dataset"}
    assert (table.n_train + table.n_test == len(small)).all()
    means = table[table.task == "joint"].groupby("method").accuracy.mean()
    assert means.md_tree_joint > means.majority


def test_command_with_the_joint_question_and_coverage(small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small[small.width.isin([1, 3, 6, 9, 13])].to_csv("own.csv", index=False)

    # Other tests of this process have started JAX, and such a process must not fork.
    monkeypatch.setattr("mdtree_jax.parallel.available_cores", lambda: 1)

    def run(*arguments):
        return cli.run("transfer", "", transfer.main, ["figures=false", "collection=own.csv", *arguments])

    assert run("tasks=joint", "mode=scale", "methods=[md_tree_joint,majority]", "k=[3]", "seeds=1", "out=a") == 0
    assert set(pd.read_csv("a/results.csv").task) == {"joint", "joint_room"}
    assert run("mode=coverage", "tasks=[optimizer,joint]", "out=b") == 0
    table = pd.read_csv("b/coverage.csv")
    assert table.columns.tolist() == coverage.COLUMNS
    assert set(table.task) == {"optimizer", "joint", "joint_room"}
    assert (table.low <= table.accuracy + 1e-9).all()
    assert "## Accuracy against coverage" in (tmp_path / "b/tables.md").read_text()
    assert "ignores methods, k and seeds" in capsys.readouterr().out
    assert run("tasks=joint", "methods=[md_tree]") == 2
    assert "unknown method 'md_tree'" in capsys.readouterr().err


@pytest.mark.slow
def test_targets_on_the_published_collections(collections):
    table = coverage.coverage_table(*collections, [*TASKS, "joint"]).set_index(["task", "method", "coverage"])
    for task, least in {"optimizer": 96, "size": 88, "data": 84}.items():
        assert table.accuracy[task, "trees_and_gains", 80] >= least
    assert table.calibration_error["optimizer", "trees_and_gains", 80] <= 5
    for label in ("joint", "joint_room"):
        assert table.accuracy[label, "md_tree_joint", 100] >= table.accuracy[label, "forest", 100]
