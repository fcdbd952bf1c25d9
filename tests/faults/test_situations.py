"""Ten faults that people really had: what the preflight tells of each, and that retraining bears it out."""

import pytest

from mdtree_jax.diagnosis.findings import causes_of
from mdtree_jax.diagnosis.words.findings import advice_sentence, finding_sentence
from tests.faults.look import findings_of
from tests.faults.situations import SITUATIONS
from tests.faults.training import errors_of, train
from tests.numerics import unoptimized

#: Situation -> what the sentences must say.
WORDS = {
    "relu_as_last_of_ten_classes": ("ReLU follows the last layer", "softmax"),
    "table_in_its_own_units": ("never scaled", "standardize"),
    "softmax_over_one_unit": ("cannot vary", "sigmoid"),
    "exclusive_or_with_absolute_error": ("likes the most frequent label", "squared error"),
    "relu_as_a_probability": ("ReLU follows the last layer", "sigmoid for one output", "standardize"),
    "sigmoid_on_a_regression": ("cannot reach 100 % of them", "linear output"),
}


#: Convolutional networks of which nothing need be said, which take the longest.
LONG = ("rate_too_hot_but_it_learns", "batch_of_a_thousand")


def all_findings(name):
    situation = train(SITUATIONS[name].spec)
    with unoptimized():
        return findings_of(situation)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n in SITUATIONS])
def test_findings(name):
    case = SITUATIONS[name]
    findings = [finding for finding in all_findings(name) if finding.is_told]
    told = {finding.kind for finding in findings}
    if name in WORDS:
        assert told & set(case.findings)
        said = " ".join(finding_sentence(f) + ": " + advice_sentence(f) for f in findings)
        for words in WORDS[name]:
            assert words in said
    wrong = {finding.kind for finding in findings if finding.kind not in case.findings + case.allowed}
    assert not wrong


def test_both_causes_of_a_relu_as_a_probability_are_told():
    found = causes_of(all_findings("relu_as_a_probability"))
    assert {"wrong_last_activation", "inputs_not_scaled"} <= set(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", SITUATIONS)
def test_truth_by_retraining(name):
    """The cure gains most of the error; what is called useless gains less than half as much."""
    case = SITUATIONS[name]
    error, cured, *others = errors_of(
        [case.spec, *(case.spec.but(**change) for change in (*case.cures[:1], *case.useless))]
    )
    gain = error - cured
    assert cured < 0.6 * error
    assert all(error - other < 0.5 * gain for other in others)
