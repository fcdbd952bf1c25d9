"""Facts, actions and their words: every kind has a sentence, and no sentence shows an identifier of ours."""

import ast
import inspect
import re
from pathlib import Path

import pytest

from mdtree_jax.causes.joint import METRICS
from mdtree_jax.checks import UserError
from mdtree_jax.diagnosis import words
from mdtree_jax.diagnosis.action import Action, Edge, Gain, Setting, Step
from mdtree_jax.diagnosis.facts import KINDS, Fact, fact
from mdtree_jax.diagnosis.words import actions, causes
from mdtree_jax.diagnosis.words.notes import SENTENCES, sentence
from mdtree_jax.registry.causes import CAUSES
from mdtree_jax.registry.knobs import KNOBS

VALUES = {
    "metrics": ["train_error", "cka"],
    "reference": "mine",
    "suspects": {},
    "missing": ["cka"],
    "cause": "too_little_data",
    "probability": 0.62,
    "question": "data",
    "answer": "temperature",
    "against": 0.9,
    "least": 0.5,
    "wanted": ["CKA"],
    "error": "it cannot be read",
    "train_error": 66.1,
    "error_of_guessing": 66.7,
    "columns": ["colour"],
    "share": 0.1,
    "side": "training",
    "images": 100,
    "of": 400,
    "kernels": ["connectivity"],
    "epochs": 30,
    "loss": "mean squared error",
    "unit": "1",
    "state": "count",
    "sentence": "the weights are of half precision",
    "number": 1,
    "seconds": 60.0,
    "left_out": ["a race"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_fact_has_a_sentence(kind):
    assert tuple(inspect.signature(SENTENCES[kind]).parameters) == KINDS[kind]
    said = sentence(fact(kind, **{name: VALUES[name] for name in KINDS[kind]}))
    assert said == said.strip()
    assert not said[0].isupper()
    assert not said.endswith(".")
    # These are the user's own arguments.
    assert set(re.findall(r"\w+_\w+", said)) <= {"apply_train", "memory_gb"}
    assert set(SENTENCES) == set(KINDS)


def test_facts_are_checked_when_they_are_made():
    with pytest.raises(UserError, match="unknown kind of fact 'unlike'"):
        fact("unlike")
    with pytest.raises(TypeError, match=r"'unlike_any' has the values \('reference',\), not \(\)"):
        Fact("unlike_any")


GAIN = Gain(2.0, -1.0, 3.0, 20)


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("knob", [name for name, knob in KNOBS.items() if knob.up or knob.down])
def test_every_knob_can_be_told(knob, way):
    if getattr(KNOBS[knob], way) is None:
        pytest.skip("mends no cause")
    best = Step("x2", 2.0, GAIN, True)
    some = Setting(knob, 0.1, 0.2)
    for action in (
        Action("step", knob, way, best, reference="mine"),
        Action("step", knob, way, best, reference="mine", setting=some, alternative=Setting("learning_rate", 0.1, 0.2)),
        Action("step", knob, way, best._replace(factor=None, pays=False), reference="mine"),
        Action("step", knob, way, best, reference="mine", setting=some._replace(after=0.1, limit="range")),
        *(
            Action("direction", knob, way, best, grounds, reference="mine", is_tentative=True)
            for grounds in ("unlike_any", "no_step", "settings_unknown", "withheld")
        ),
    ):
        said = " ".join([action.sentence, *action.rules, *(text for _, text in actions.facts(action, None))])
        assert KNOBS[knob].words.noun in said
        assert re.findall(r"\w+_\w+|[{}]|None|\s\s|\.\.", said) == []
        assert action.sentence[0].isupper()
        assert action.sentence.endswith(".")
        assert action.to_dict()["sentence"] == action.sentence


def test_actions_without_a_knob():
    kept = Action("leave", reference="mine", knobs=("width", "train_epochs"), edge=Edge(40, {"width": 3}))
    assert kept.sentence == (
        "Keep network width and number of epochs as they are. Within the range of collection 'mine', no single step is "
        "expected to gain a point. Of the 40 most similar models, 3 have the largest network width in the collection; "
        "what more would gain is not known."
    )
    assert (kept.how_far, kept.factor, kept.rules) == (None, None, ())
    assert Action("measure").sentence == "Measure the metrics first."
    stable = Action("stabilize").sentence
    assert stable == "Stabilize the training first: use a larger batch size or a smaller learning rate."


def test_causes_name_the_knobs_that_were_compared():
    assert causes.cause_sentence("none", ["learning_rate"]).startswith("changing learning rate is not expected")
    for cause in CAUSES:
        assert "{" not in causes.cause_sentence(cause, ["width", "batch_size", "train_epochs"])
    assert causes.temperature_note().endswith("a smaller batch size or a larger learning rate raises it.")


def test_nobody_else_takes_a_sentence_apart():
    """Outside `words` no module of the diagnosis, its report or its subject parses a string of words."""
    room = Path(words.__file__).parents[1]
    paths = [*room.glob("*.py"), *(room.parent / "subject").glob("*.py"), *(room.parent / "report").glob("*.py")]
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in ("partition", "split", "startswith", "sub"):
                text = ast.unparse(node.value)
                assert not re.search(r"sentence|reason|note|headline|rule", text), (path.name, text)


def test_metrics_of_the_joint_model_have_names_for_people():
    assert all("_" not in sentence(fact("metrics_missing", metrics=[name])) for name in METRICS)
