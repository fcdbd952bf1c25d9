"""The table of questions: what follows from an entry, and a question from outside wherever a question shows."""

import numpy as np
import pandas as pd
import pytest

import mdtree_jax
from mdtree_jax import Answer, MDTreeClassifier, Node, Question, Tree, UserError, cli, diagnose_metrics, fit_reference
from mdtree_jax import transfer as command
from mdtree_jax.causes import joint
from mdtree_jax.collection.load import load_collection
from mdtree_jax.collection.tasks import TASKS
from mdtree_jax.diagnosis.reference import Reference, default_reference
from mdtree_jax.experiments.suite import transfer
from mdtree_jax.registry.causes import CAUSES
from mdtree_jax.registry.questions import QUESTIONS, question_behind
from mdtree_jax.registry.register import unregister
from mdtree_jax.trees.members import MEMBERS, STRUCTURES

#: A question from outside, complete.
PLUGIN = """
import mdtree_jax
from mdtree_jax import Answer, Node, Question, Tree

mdtree_jax.register(
    Question(
        "resources",
        "Would more training data gain more than a larger model?",
        (
            Answer("model", "a larger model", ("model_too_small",), colour="#2f855a"),
            Answer("more_data", "more training data", ("too_little_data",), action="collect data before you widen it"),
        ),
        Tree(
            "resources",
            (
                Node("train_error", 0.5, 0.0, 50.0, "more_data", 1),
                Node("mode_connectivity_peak", -10.0, -60.0, 0.0, "model", "more_data"),
            ),
        ),
        title="Training data or model size",
    )
)
"""
HOT = {"train_error": 28.2, "log_hessian_trace": 5.21, "mode_connectivity_peak": -0.03, "cka": 0.45}


@pytest.fixture
def resources():
    """Register the question of the plugin for a test."""
    assert len(PLUGIN.strip().splitlines()) <= 25
    exec(PLUGIN, {})
    yield QUESTIONS["resources"]
    unregister(QUESTIONS["resources"])


def test_its_label_compares_two_groups_of_moves(resources, small_grid):
    frame = load_collection(small_grid)
    room = frame[["rfi_data", "rfi_width"]].to_numpy()
    expected = np.where(room[:, 0] > room[:, 1], "more_data", np.where(room[:, 0] < room[:, 1], "model", "optimal"))
    assert frame["label_resources"].tolist() == expected.tolist()


def test_a_classifier_and_transfer_take_it_as_a_task(resources, collections, tmp_path, monkeypatch):
    # Collections that were loaded before the question was there lack its label, and a table may bring one.
    F, F_noise = (load_collection(frame) for frame in collections)
    tree = MDTreeClassifier(task="resources", fit="exact").fit(F)
    rows = F_noise[F_noise["label_resources"] != "optimal"]
    commonest = rows["label_resources"].value_counts(normalize=True).iloc[0]
    assert tree.score(F_noise) == np.mean(tree.predict(rows) == rows["label_resources"])
    assert set(tree.classes_) == {"model", "more_data"}
    measured = transfer(F, F_noise, mode="dataset", tasks=["resources"], seeds=[0], k=[24], jobs=1).results
    assert set(measured["experiment"]) == {"resources_dataset"}
    accuracy = measured.set_index("method")["accuracy"]
    assert min(abs(accuracy["majority"] - 100 * share) for share in (commonest, 1 - commonest)) < 1e-9
    assert {"md_tree", "md_tree_robust", "hyperparameter", "validation", "landscape"} <= set(accuracy.index)
    assert "md_tree_similarity" not in accuracy.index  # it has no such variant
    # The defaults stay those of the paper.
    assert "resources" not in set(transfer(F, F_noise, seeds=[0], k=[1], methods=["majority"], jobs=1).results["task"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mdtree_jax.parallel.available_cores", lambda: 1)
    F.to_csv("F.csv", index=False)
    wanted = ["collection=F.csv", "tasks=[resources]", "mode=scale", "seeds=1", "methods=[md_tree,majority]", "k=[2]"]
    assert cli.run("transfer", "", command.main, [*wanted, "out=out"]) == 0
    assert set(pd.read_csv("out/results.csv")["experiment"]) == {"resources_scale_data", "resources_scale_width"}
    assert (tmp_path / "out/figures/tree_resources.png").is_file()


def test_a_diagnosis_asks_it(resources, tmp_path):
    reference = default_reference()
    (found,) = diagnose_metrics(HOT)
    asked = found.questions["resources"]
    assert sum(asked.values()) == pytest.approx(1)
    frame = pd.DataFrame([HOT])
    tree = reference.tree("resources", list(HOT))
    trees = dict(zip(tree.classes_, tree.predict_proba(frame)[0], strict=True))
    assert found.trees["resources"] == pytest.approx(trees)
    mean, sd = (values[0] for values in joint.gain_posterior(reference.room_model(list(HOT)), frame))
    draws = mean + sd * np.random.default_rng(0).normal(size=(200_000, len(mean)))
    share = np.mean(
        draws[:, reference.causes.index("too_little_data")] > draws[:, reference.causes.index("model_too_small")]
    )
    assert asked["more_data"] == pytest.approx((trees["more_data"] + share) / 2, abs=0.01)
    said = " ".join(str(found).split())
    assert "Would more training data gain more than a larger model?" in said
    likelier = max(asked, key=asked.get)
    assert ("Collect data before you widen it." in said) == (likelier == "more_data")
    page = found.report(tmp_path / "r.html").read_text()
    assert "Would more training data gain more than a larger model?" in page
    # What was said without it stays.
    unregister(resources)
    try:
        (without,) = diagnose_metrics(HOT)
    finally:
        mdtree_jax.register(resources)
    assert found.ranking == without.ranking
    assert {k: v for k, v in found.questions.items() if k != "resources"} == without.questions


def test_a_label_may_be_read_from_a_column(small_grid, tmp_path):
    answers = Answer("fine", "no"), Answer("broken", "yes", action="check the labels")
    node = Node("train_error", 5.0, 0.0, 100.0, "fine", "broken")
    question = mdtree_jax.register(Question("faulty", "Is the data faulty?", answers, Tree("faulty", (node,))))
    try:
        with pytest.raises(UserError, match="has no column 'label_faulty', so it has no label for task 'faulty'"):
            MDTreeClassifier(task="faulty").fit(load_collection(small_grid))
        brought = small_grid.assign(label_faulty=np.where(small_grid["train_error"] > 4, "broken", "fine"))
        assert MDTreeClassifier(task="faulty", fit="exact").fit(load_collection(brought)).score(brought) == 1.0
        reference = fit_reference(brought, name="mine", measure=False)
        reference.save(tmp_path / "mine.json")
        for one in (reference, Reference.load(tmp_path / "mine.json")):
            chances = [diagnose_metrics({"train_error": e}, one, "percent")[0].questions["faulty"] for e in (0.1, 40.0)]
            assert chances[0]["broken"] < 0.5 < chances[1]["broken"]
    finally:
        unregister(question)
    # Whoever does not know the question can read the file nevertheless.
    assert "faulty" not in diagnose_metrics({"train_error": 3.0}, Reference.load(tmp_path / "mine.json"))[0].questions


ANSWERS = Answer("a", "a"), Answer("b", "b")
GOOD = Tree("t", (Node("train_error", 0.5, 0.0, 1.0, "a", "b"),))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Question("q", "?", (ANSWERS[0], ANSWERS[0]), GOOD), r"answers \['a', 'a'\]; it needs two different"),
        (
            lambda: Question("q", "?", (Answer("a", "a", ("too_smal",)), ANSWERS[1]), GOOD),
            "unknown cause of answer 'a'",
        ),
        (
            lambda: Question("q", "?", ANSWERS, Tree("t", (GOOD.nodes[0]._replace(left="c"),))),
            "unknown verdict in tree",
        ),
        (lambda: Question("q", "?", ANSWERS, Tree("t", ())), "tree structure 't' has no node"),
        (lambda: Question("size", "?", ANSWERS, GOOD), "a question named 'size' is already registered"),
        (
            lambda: Question("q", "?", ANSWERS, GOOD, label="label_size"),
            "the label 'label_size' is already used by question",
        ),
        (lambda: Question("joint", "?", ANSWERS, GOOD), "'joint' is reserved for the task over all causes"),
    ],
)
def test_a_question_that_does_not_fit_is_refused(make, message):
    before = list(QUESTIONS)
    with pytest.raises(UserError, match=message):
        mdtree_jax.register(make())
    assert list(QUESTIONS) == before


def test_what_follows_from_the_table():
    assert TASKS is QUESTIONS
    assert {name for question in QUESTIONS.values() for name in (question.name, question.tree.name)} <= set(STRUCTURES)
    for question in QUESTIONS.values():
        assert [structure.name for structure in MEMBERS[question.name]] == [tree.name for tree in question.trees]
        for answer in question.answers:
            for cause in answer.causes:
                assert question.against(cause) != answer
                assert cause in CAUSES
    behind = {cause: question_behind(cause) for cause in CAUSES}
    assert {cause: question.name for cause, question in behind.items() if question} == {
        "temperature_too_low": "optimizer",
        "temperature_too_high": "optimizer",
        "model_too_small": "size",
        "too_little_data": "data",
    }
