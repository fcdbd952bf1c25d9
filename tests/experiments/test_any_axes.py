"""Transfer between collections over any knobs: what can be asked is asked, what cannot is said in a sentence."""

import numpy as np
import pandas as pd
import pytest

from mdtree_jax import cli
from mdtree_jax import transfer as command
from mdtree_jax.checks import UserError
from mdtree_jax.collection.load import load_collection
from mdtree_jax.collection.tasks import TASKS, task_rows
from mdtree_jax.experiments.sampling import SAMPLINGS
from mdtree_jax.experiments.suite import transfer
from mdtree_jax.trees.classifier import MDTreeClassifier
from tests.collection.test_moves import product
from tests.rates import random_rates, rate_collection

METHODS = ["md_tree", "validation", "majority"]


@pytest.fixture(scope="module")
def rates():
    return load_collection(rate_collection())


def test_learning_rates_are_asked_what_they_tell(rates):
    notes = []
    tables = transfer(rates, None, methods=METHODS, seeds=[42], k=[4, 8], say=notes.append, jobs=1)
    assert set(tables.results.experiment) == {"q1_dataset", "q1_scale_width"}
    accuracy = tables.results.groupby(["experiment", "method"]).accuracy.mean()
    assert accuracy["q1_dataset", "md_tree"] > accuracy["q1_dataset", "majority"] + 20
    # A cell is a width and a decay: the seven rates of a cell are sampled together.
    rows = len(task_rows(rates, TASKS["optimizer"]))
    mask = SAMPLINGS["random"].mask(rates, 4, 42)
    assert rates[mask].groupby(["width", "weight_decay"]).ngroups == 4
    assert mask.sum() == 28
    assert SAMPLINGS["random"].limits(rates) == (1, 32)
    first = tables.results.query("experiment == 'q1_dataset'")
    assert (first.n_train + first.n_test == rows).all()
    assert "q1_scale_data is left out: collection 'DataFrame' does not vary data_fraction" in notes
    lacking = "collection 'DataFrame' does not vary data_fraction, so it has no label for task 'data'"
    assert f"q2_data_dataset is left out: {lacking}" in notes
    # One step is a step of the learning rate.
    one = tables.one_step.groupby(["task", "method", "step"]).gain.mean()
    assert set(one.index.get_level_values("task")) == {"optimizer"}
    assert one["optimizer", "oracle", "one"] == pytest.approx(2 * one["optimizer", "random", "one"], rel=0.2)
    assert one["optimizer", "md_tree", "one"] > 1.5 * one["optimizer", "random", "one"]


def test_the_joint_question_and_coverage_of_learning_rates(rates):
    other = load_collection(rate_collection(seed=1))
    methods = ["md_tree_joint", "majority"]
    tables = transfer(rates, other, mode="dataset", tasks=["joint"], methods=methods, seeds=[1], k=[8], jobs=1)
    accuracy = tables.results.groupby(["experiment", "method"]).accuracy.mean()
    assert accuracy["joint_dataset", "md_tree_joint"] > accuracy["joint_dataset", "majority"] + 20
    notes = []
    table = transfer(rates, other, mode="coverage", say=notes.append, jobs=1).coverage
    assert set(table.task) == {"optimizer", "size", "joint", "joint_room"}
    assert [note for note in notes if note.startswith("task data is left out")]


def test_a_random_search_is_sampled_from_the_cells_that_are_there():
    frame = load_collection(random_rates(300))
    assert SAMPLINGS["random"].limits(frame) == (1, 300)
    assert SAMPLINGS["random"].mask(frame, 24, 42).sum() == 24
    assert len(SAMPLINGS["width_limit"].sizes(frame)) <= 24
    tables = transfer(frame, None, methods=METHODS, tasks=["optimizer"], seeds=[42], k=[16, 200], jobs=1)
    accuracy = tables.results[tables.results.experiment == "q1_dataset"].groupby("method").accuracy.mean()
    assert accuracy["md_tree"] > accuracy["majority"] + 20


def test_the_command_draws_over_the_knobs_that_are_asked(rates, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mdtree_jax.parallel.available_cores", lambda: 1)
    rates.to_csv("rates.csv", index=False)

    def run(*arguments):
        return cli.run("transfer", "", command.main, ["collection=rates.csv", "mode=scale", *arguments])

    assert run("methods=[md_tree]", "k=[4]", "seeds=1", "axes=[learning_rate,weight_decay]", "out=out") == 0
    names = {path.stem for path in (tmp_path / "out/figures").glob("*.png")}
    assert {"phase_metrics_rates", "phase_optimizer_rates", "tree_optimizer", "tree_size"} <= names
    drawn = (tmp_path / "out/figures/phase_metrics_rates.svg").read_text()
    assert "metrics over weight decay × learning rate" in drawn
    assert "width 1" in drawn
    capsys.readouterr()
    assert run("axes=[learning_rate,depth]") == 2
    assert "unknown axis 'depth'" in capsys.readouterr().err
    assert run("axes=[width]") == 2
    assert "a phase plot has two different axes, of width, learning_rate, weight_decay" in capsys.readouterr().err
    assert run("tasks=[data]") == 2
    assert "nothing can be run: q2_data_scale_width is left out: collection" in capsys.readouterr().err


def test_where_nothing_can_be_asked():
    decays = load_collection(product(weight_decay=[0.1, 0.2, 0.4], label_smoothing=[0.1, 0.2]).assign(train_error=1.0))
    with pytest.raises(UserError, match=r"nothing can be run: .* does not vary batch_size or learning_rate"):
        transfer(decays, None, methods=["majority"], seeds=[1], jobs=1)
    with pytest.raises(
        UserError, match="does not vary batch_size or learning_rate and not width, so it has no label for task 'size'"
    ):
        task_rows(decays, TASKS["size"])
    assert pd.isna(decays.label_size).all()


def test_the_question_of_data_needs_no_width():
    frame = product(learning_rate=[0.1, 0.2, 0.4, 0.8], data_fraction=[0.1, 0.3, 1.0])
    rng = np.random.default_rng(0)
    frame = load_collection(frame.assign(train_error=rng.random(12), log_hessian_trace=6 + rng.normal(size=12)))
    assert task_rows(frame, TASKS["data"]).label_data.nunique() == 2
    frame["mode_connectivity_peak"] = -20 * rng.random(12)
    tree = MDTreeClassifier("data").fit(frame)
    assert set(tree.predict(frame)) <= {"data", "temperature"}
    with pytest.raises(UserError, match="no column 'width', which min_width=8 needs"):
        MDTreeClassifier("data", min_width=8).fit(frame)
