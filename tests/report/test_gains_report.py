"""The report of a diagnosis from expected gains: its parts in one order, in the page and in the terminal."""

import io
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from mdtree_jax.diagnosis.by_class import ClassError
from mdtree_jax.diagnosis.combine import with_outlook
from mdtree_jax.diagnosis.cost import Training
from mdtree_jax.diagnosis.findings import Finding
from mdtree_jax.diagnosis.outlook import Answered, Move, Outlook, error_budget
from mdtree_jax.diagnosis.words.answer import print_answer, print_summary
from mdtree_jax.report.html import write_report, write_reports
from tests.report.pages import COST, NAME, one, page_of, squeeze


def network(**changes):
    """Return a diagnosis with an outlook of four moves, one of them raced, and an error budget with a negative term."""
    budget = error_budget(
        {
            "validation_error": 30.0,
            "refreshed_validation_error": 27.0,
            "refreshed_validation_error_change_se": 0.5,
            "same_validation_error": 28.0,
            "same_validation_error_change_se": 0.5,
            "same_train_error": 6.0,
        }
    )
    moves = (
        Move("rate_down", 4.0, -1.0, 9.0, 0.8, 5.0, raced=26.0),
        Move("wider", 5.0, 0.5, 8.0, 0.9, 4.5, raced=27.0),
        Move("longer", 1.0, -6.0, 3.0, 0.5, 1.0),
        Move("refreshed", -0.5, -2.0, 1.0, 0.1, -0.5),
    )
    answers = (Answered("optimizer", "too_high", 0.91, False), Answered("data", "data", 0.6, True))
    ranking = {"temperature_too_high": 0.55, "model_too_small": 0.3, "none": 0.15}
    settings = {"spent": 0.25, "probes": ("refreshed", "same"), "evidence": ("train_error",), "error": 30.0}
    made = Outlook(budget, moves, answers, ranking, "temperature_too_high", networks=1440, families=5, **settings)
    return replace(made, **changes)


BY_CLASS = tuple(ClassError(label, 40 + label, 10.0 + label, 1.5) for label in range(12))
SOFTMAX = Finding("softmax_over_one_unit", 0.9, {})


@pytest.fixture(scope="module")
def combined(diagnoses):
    hot, training = diagnoses["hot"], Training(learning_rate=0.3)
    better = SimpleNamespace(is_better=True, by="refreshed", test_error=(29.0, 26.5), to_dict=dict)
    return {
        "sure": with_outlook(replace(hot, by_class=BY_CLASS), network(), improved=better, training=training),
        "unsure": with_outlook(
            hot, network(ranking={"none": 0.4, "model_too_small": 0.3, "temperature_too_high": 0.3})
        ),
        "nothing": with_outlook(hot, network(cause="none")),
        "fault": with_outlook(hot, network(), [SOFTMAX]),
        "fault alone": with_outlook(hot, None, [SOFTMAX]),
        "landscape without metrics": with_outlook(diagnoses["nothing"], network()),
    }


def gains_said(diagnosis):
    """Yield what a report with an outlook must say, in its order."""
    faults = diagnosis.action.kind == "repair"
    found = diagnosis.outlook
    yield (
        "ts last layer cannot give out what it should" if faults else "Held-out error 30 %: mostly gap between training"
    )
    if diagnosis.findings:
        yield from ("Found in the network", "a softmax over one unit is 1", "Replace the softmax by a sigmoid")
    if found is not None:
        yield "Error budget"
    if diagnosis.by_class:  # the ten largest
        yield from (
            "Errors by class",
            "11",
            "21 ± 1.5 %",
            "51",
            "2",
            "12 ± 1.5 %",
            "42",
            "2 more classes have a smaller",
        )
    yield "What to do"
    yield from ("+4.0", "-1.0", "+9.0") if diagnosis.expected_gain else ()
    if found is not None:
        yield from ("+4.0 (-1.0 to +9.0)", "+5.0 (+0.5 to +8.0)", "+1.0 (-6.0 to +3.0)", "-0.5 (-2.0 to +1.0)")
        yield "In short runs from scratch they came in as: learning rate ÷3 and width ×2"
    if diagnosis.improved:
        yield "Its error, on data that had no part in the choice, is 26.5 %; that of the given one 29 %"
    yield "The cause"
    yield "I can’t tell" if diagnosis.abstains else diagnosis.sentence[1:]
    if found is not None and found.answers:  # there are none beside a fault
        yield "Question by question"
        yield "oo high: train colder, 91 %"
        yield "Can’t tell (rather: more data, 60 %)"
    yield "What the diagnosis cost"
    if found is not None:
        yield "he probes ‘refreshed’ and ‘same’ and a race of 2 changes trained 0.25 of one training"
    yield from ("42 s", "31 s", "14 min")
    yield "What the loss landscape says"
    if diagnosis.position:
        yield "“trained too hot”"


@pytest.mark.parametrize("name", ["sure", "unsure", "nothing", "fault", "fault alone", "landscape without metrics"])
def test_a_report_of_gains_says_them_in_one_order(name, combined, reference, tmp_path):
    diagnosis = combined[name]
    page = page_of(write_report(tmp_path / "r.html", diagnosis, reference, name=NAME, cost=COST))
    stream = io.StringIO()
    print_answer(Console(file=stream, width=80), diagnosis, NAME, COST)
    printed = stream.getvalue()
    assert max(map(len, printed.splitlines())) <= 80
    assert "None" not in printed + page.text
    assert not re.search("rate_down|not_fitted|too_high|optimizer_noise|last_activation", page.text + printed)
    for text in (squeeze(page.text), squeeze(printed)):
        start = 0
        for said in gains_said(diagnosis):
            found = text.find(squeeze(said), start)
            assert found >= 0, (said, text[start : start + 300])
            start = found + len(squeeze(said))
    for text in (page.text, printed):
        assert "26 %" not in text  # the error of the best short run is no gain
        assert "27 %" not in text
    assert ("(rather: " in page.text) == bool(diagnosis.outlook and diagnosis.outlook.answers)


def test_the_bar_of_a_budget_is_as_long_as_its_terms(combined, reference, tmp_path):
    page = page_of(write_report(tmp_path / "r.html", combined["sure"], reference))
    (bar,) = page.drawings("line budget")
    lengths = {rect["fill"]: float(rect["width"].rstrip("%")) for rect in one(bar, "rect")}
    terms = combined["sure"].outlook.budget
    total = sum(term.points for term in terms if term.points > 0)
    assert sorted(lengths.values()) == pytest.approx(sorted(100 * abs(t.points) / total for t in terms), abs=0.01)
    (back,) = one(bar, "rect", "back")
    end = float(back["x"].rstrip("%"))
    assert end == pytest.approx(100 * 30 / total, abs=0.01)
    assert float(one(bar, "line", "threshold")[0]["x1"].rstrip("%")) == pytest.approx(end, abs=0.01)
    cells = page.texts["td"]
    assert {"+3.0", "−1.0", "+6.0", "+22.0", "+2.0 to +4.0", "−2.0 to 0.0", "not known"} <= set(cells)
    assert "with noise of the optimizer" in page.texts["span"]


def test_moves_share_one_axis(combined, reference, tmp_path):
    page = page_of(write_report(tmp_path / "r.html", combined["sure"], reference))
    lines = [line for line in page.drawings("line move") if one(line, "circle")]
    zeros = {one(line, "line", "threshold")[0]["x1"] for line in lines}
    dots = [float(one(line, "circle")[0]["cx"].rstrip("%")) for line in lines]
    moves = combined["sure"].outlook.moves
    assert len(zeros) == 1
    assert np.polyfit([move.gain for move in moves], dots, 1, full=True)[1] == pytest.approx(0, abs=1e-3)
    bars = [one(line, "rect", "gain")[0] for line in lines]
    widths = np.array([float(bar["width"].rstrip("%")) for bar in bars])
    spans = np.array([move.high - move.low for move in moves])
    assert widths / widths[0] == pytest.approx(spans / spans[0], rel=0.01)


def test_an_index_of_diagnoses_of_every_kind(combined, diagnoses, reference, tmp_path):
    items = [*combined.items(), *diagnoses.items()]
    index = page_of(write_reports(tmp_path, items, reference)[0])
    said = squeeze(index.text).count("too high: train colder, 91 %")
    assert said == sum(d.outlook is not None and len(d.outlook.answers) > 0 for d in combined.values())
    assert "replace the softmax by a sigmoid, or give out two units" in index.texts["td"]
    assert "+4.0 (−1.0 to +9.0)" in index.texts["td"]
    stream = io.StringIO()
    print_summary(Console(file=stream, width=100), items)
    assert "learning rate ÷3" in stream.getvalue()
