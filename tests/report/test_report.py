"""The report of a diagnosis: self-contained, escaped, true to the diagnosis, the same facts in the terminal."""

import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from mdtree_jax import diagnose_metrics, fit_reference
from mdtree_jax.causes.labels import CAUSES
from mdtree_jax.checks import UserError
from mdtree_jax.diagnosis.combine import with_outlook
from mdtree_jax.diagnosis.cost import Training, make_cost
from mdtree_jax.diagnosis.facts import fact
from mdtree_jax.diagnosis.findings import Finding
from mdtree_jax.diagnosis.outlook import Answered, Move, Outlook, error_budget
from mdtree_jax.diagnosis.reference import default_reference
from mdtree_jax.diagnosis.words import costs
from mdtree_jax.diagnosis.words.answer import print_answer, print_summary
from mdtree_jax.registry.causes import CAUSES as TABLE
from mdtree_jax.report.html import write_report, write_reports

NAME = '<b>&"'
HOT = {
    "train_error": 28.2,
    "train_loss": 0.99,
    "log_hessian_trace": 5.21,
    "log_hessian_max_eigenvalue": 3.3,
    "mode_connectivity": 25.2,
    "mode_connectivity_peak": -0.03,
    "cka": 0.45,
}
BETWEEN = HOT | {"train_error": 7.5, "train_loss": 0.25, "mode_connectivity": 1.0, "mode_connectivity_peak": -6.0}
ERRORS = {"train_error_se": 0.8, "log_hessian_trace_se": 0.3, "mode_connectivity_peak_se": 2.0}
ROWS = {
    "hot": HOT,
    "cold": HOT | {"train_error": 0.0, "train_loss": 0.0007, "mode_connectivity": 0.0, "mode_connectivity_peak": 0.0},
    "standard errors": BETWEEN | ERRORS,
    "train error": {"train_error": 12.0},
    "outside": HOT | {"train_error": 88.0},
    "nothing": {"train_error": np.nan, "cka": np.nan},
}
COST = make_cost(42.0, 3.2e12, 31.0, 840.0, 9e13, fact("of_sweep")).to_dict()
SHORT = {name: TABLE[name].short for name in CAUSES}
COLOUR = {name: TABLE[name].colour for name in CAUSES}


@pytest.fixture(scope="module")
def reference():
    return default_reference()


@pytest.fixture(scope="module")
def diagnoses(reference):
    training = {"batch_size": 64, "learning_rate": 0.1, "epochs": 30}
    return {name: diagnose_metrics(row, reference, "percent", training)[0] for name, row in ROWS.items()}


#: Tags that are not closed.
VOID = {"meta", "br"}


class Page(HTMLParser):
    """Tags with their attributes in order, the text, the drawings of lines and maps; fails on unbalanced tags."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text, self.svgs, self.texts = [], [], "", [], {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if tag == "svg":
            self.svgs.append((attrs, []))
        elif "svg" in self.open:
            self.svgs[-1][1].append((tag, attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "style":
            return
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)
        self.text += data

    def drawings(self, kind):
        return [shapes for attrs, shapes in self.svgs if attrs.get("class") == kind and attrs.get("role") == "img"]


def page_of(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) < 2_000_000
    assert not re.search(r"https?:|url\(|@import|<script|javascript:", text, re.IGNORECASE)
    page = Page(text)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "img", "iframe", "object", "form"})
    for _, attrs in page.tags:
        assert not any(key == "src" or key.startswith("on") for key in attrs)
        if "href" in attrs:
            assert (path.parent / attrs["href"]).is_file()
    return page


def one(shapes, tag, kind=None):
    return [attrs for name, attrs in shapes if name == tag and kind in (None, attrs.get("class"))]


def squeeze(text):
    return " ".join(text.replace("−", "-").split())


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("cost", [None, COST, {"diagnosis_seconds": 5.0, "retraining_seconds": None}])
def test_page_stands_alone_and_escapes(name, cost, diagnoses, reference, tmp_path):
    note = fact("columns_unused", columns=[NAME])
    diagnosis = replace(diagnoses[name], remarks=(*diagnoses[name].remarks, note))
    page = page_of(write_report(tmp_path / "report.html", diagnosis, reference, name=NAME, cost=cost))
    assert page.texts["title"] == [f"Diagnosis of {NAME}"]
    assert f"Why is {NAME} not better?" in page.texts["p"]  # as a text, not as a tag
    assert any(f"not used: {NAME}" in text for text in page.texts["li"])
    assert ("I can’t tell" in page.texts["h1"]) == diagnosis.abstains
    assert ("The cost of one retraining is not known" in page.text) == (cost is not COST)
    assert ("20 times as much as the diagnosis" in page.text) == (cost is COST)
    # Two of the maps of train error, connectivity and sharpness, as many as there are metrics for.
    there = {"train_error", "mode_connectivity_peak", "log_hessian_trace"} & set(diagnosis.metrics)
    assert len(page.drawings("map")) == {3: 2, 2: 1}.get(len(there), 0)
    assert [a["style"].partition("background:")[2] for t, a in page.tags if a.get("class") == "fill"][:5] == [
        COLOUR[cause] for cause in diagnosis.ranking
    ]


def test_cases_are_the_ones_that_are_meant(diagnoses):
    assert not diagnoses["hot"].abstains
    assert diagnoses["hot"].cause == "temperature_too_high"
    assert all(diagnoses[name].abstains for name in ("outside", "nothing", "train error"))
    assert any(step.standard_error for step in diagnoses["standard errors"].evidence)


def place(edges, value):
    """Return the bin of a value and how far into it, looked up edge by edge in the order of the file."""
    sign = 1 if edges[-1] > edges[0] else -1
    if sign * value <= sign * edges[0]:
        return 0, 0.0
    for i, (a, b) in enumerate(pairwise(edges)):
        if sign * a <= sign * value <= sign * b:
            return i, (value - a) / (b - a)
    return len(edges) - 2, 1.0


@pytest.mark.parametrize("name", ["hot", "cold", "standard errors", "outside"])
def test_dot_lies_where_the_edges_of_the_bins_say(name, diagnoses, reference, tmp_path):
    metrics = ROWS[name]
    page = page_of(write_report(tmp_path / "r.html", diagnoses[name], reference, metrics=metrics))
    for shapes, bins in zip(page.drawings("map"), reference.summary()["bins"][:2], strict=True):
        ground = {k: float(v) for k, v in one(shapes, "rect", "ground")[0].items() if k != "class"}
        drawn = [rect for rect in one(shapes, "rect") if "fill" in rect]
        assert len(drawn) == np.count_nonzero(sum(np.array(bins["counts"][cause]) for cause in CAUSES))
        dot = one(shapes, "circle", "dot")[0]
        expected, cell = [], []

        def at(axis, value, ground=ground, bins=bins):
            edges = bins["edges"][axis]
            i, part = place(edges, value)
            share = (i + part) / (len(edges) - 1)
            share = share if edges[-1] > edges[0] else 1 - share  # larger values stand right and on top
            return ground["x"] + share * ground["width"] if axis == 0 else ground["y"] + (1 - share) * ground["height"]

        for axis, metric in enumerate(bins["metrics"]):
            expected.append(at(axis, metrics[metric]))
            cell.append(place(bins["edges"][axis], metrics[metric])[0])
            error = metrics.get(f"{metric}_se")
            bars = [
                line
                for line in one(shapes, "line", "error")
                if line["xy"[1 - axis] + "1"] == line["xy"[1 - axis] + "2"]
            ]
            assert len(bars) == (error is not None)
            for bar in bars:
                ends = sorted(float(bar["xy"[axis] + end]) for end in "12")
                assert ends == pytest.approx(sorted(at(axis, metrics[metric] + s * error) for s in (-1, 1)), abs=0.01)
        assert [float(dot["cx"]), float(dot["cy"])] == pytest.approx(expected, abs=0.01)
        counts = {cause: bins["counts"][cause][cell[0]][cell[1]] for cause in CAUSES}
        under = [
            rect["fill"]
            for rect in drawn
            if 0 <= nudged(expected[0], ground, "x", "width") - float(rect["x"]) < float(rect["width"])
            and 0 <= nudged(expected[1], ground, "y", "height") - float(rect["y"]) < float(rect["height"])
        ]
        assert under == ([COLOUR[max(counts, key=counts.get)]] if sum(counts.values()) else [])
    beyond = any("lies outside the map in training error, %" in text for text in page.texts.get("figcaption", []))
    assert beyond == (name == "outside")


def nudged(value, ground, start, size):
    """Return a coordinate, moved inside if it lies on the edge of the map."""
    return min(max(value, ground[start] + 0.3), ground[start] + ground[size] - 0.3)


def test_lines_show_on_which_side_a_value_lies(diagnoses, reference, tmp_path):
    number = 0
    for name, diagnosis in diagnoses.items():
        page = page_of(write_report(tmp_path / "r.html", diagnosis, reference))
        lines = page.drawings("line")[bool(diagnosis.expected_gain) :]
        for step, shapes in zip(diagnosis.evidence, lines, strict=True):
            x = float(one(shapes, "circle", "dot")[0]["cx"].rstrip("%"))
            threshold = float(one(shapes, "line", "threshold")[0]["x1"].rstrip("%"))
            doubt = one(shapes, "rect", "doubt")[0]
            left, width = (float(doubt[key].rstrip("%")) for key in ("x", "width"))
            assert 0 <= min(x, threshold) <= max(x, threshold) <= 100
            assert (x > threshold) == (step.side == "above"), name
            assert left <= threshold <= left + width
            assert (left <= x <= left + width) == (step.interval[0] <= step.value <= step.interval[1])
            assert len(one(shapes, "line", "error")) == (3 if step.standard_error else 0)
            number += 1
    assert number >= 6


def facts(diagnosis, cost):
    """Return what a report must say, in its order, from the plain values of the diagnosis."""
    data = diagnosis.to_dict()

    def share(p):
        return "< 1 %" if 0 < p < 0.01 else "> 99 %" if 0.99 < p < 1 else f"{100 * p:.0f} %"

    def digits(value):
        return f"{value + 0.0:.3g}"

    yield "I can’t tell" if data["abstains"] else data["sentence"][1:]
    if data["position"]:  # something was measured: there is an answer, or a first guess
        yield share(data["probability"])
    yield "What to do"
    gain = data["expected_gain"]
    if gain:
        yield f"{gain['models']} similar models"
        yield from (f"{gain[key]:+.1f}".replace("-0.0", "0.0") for key in ("mean", "low", "high"))
        yield f"{data['action']['factor']:.3g}"
        yield "Cost of trying"
        yield "not known" if cost is None else "14 min"
    if data["action"]["rules"]:
        yield "eneral experience, not derived from the reference"
        yield from (rule[1:] for rule in data["action"]["rules"])
    yield "Probabilities"
    for cause, p in data["ranking"].items():
        yield SHORT[cause]
        yield share(p)
    yield "What the diagnosis cost"
    yield from (["not known"] if cost is None else ["42 s", "14 min", "6.3 h"])
    for step in data["evidence"]:
        yield digits(step["value"])
        yield digits(step["threshold"])
        yield from map(digits, step["interval"])
        if step["distance_in_standard_errors"]:
            yield f"{abs(step['distance_in_standard_errors']):.2g} standard errors"
    for classes in data["questions"].values():
        yield from map(share, classes.values())
    for step in data["gains"].values():
        yield from (
            f"{step[key]:+.1f}".replace("+0.0", "0.0").replace("-0.0", "0.0") for key in ("mean", "low", "high")
        )
    for metric, p in data["position"].items():
        if metric in data["metrics"]:
            yield digits(data["metrics"][metric])
        yield share(p)
    yield from (note[-20:] for note in data["notes"])
    yield data["reference"]


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("cost", [None, COST])
def test_page_and_terminal_say_the_facts_of_the_diagnosis_in_one_order(name, cost, diagnoses, reference, tmp_path):
    diagnosis = diagnoses[name]
    page = page_of(write_report(tmp_path / "r.html", diagnosis, reference, name=NAME, cost=cost))
    stream = io.StringIO()
    print_answer(Console(file=stream, width=80), diagnosis, NAME, cost)
    printed = stream.getvalue()
    assert max(map(len, printed.splitlines())) <= 80
    assert printed.startswith(NAME)
    assert "\x1b" not in printed
    for text in (squeeze(page.text), squeeze(printed)):
        start = 0
        for said in facts(diagnosis, cost):
            found = text.find(squeeze(said), start)
            assert found >= 0, (said, text[start : start + 200])
            start = found + len(squeeze(said))
    for cause, p in diagnosis.ranking.items():  # bars of characters are as long as they are likely
        line = next(line for line in printed.splitlines() if line.strip().startswith(SHORT[cause]))
        assert line.count("█") == pytest.approx(36 * p, abs=0.51)


def test_missing_and_unusable_metrics_are_not_drawn(diagnoses, reference, tmp_path):
    metrics = {"train_error": 5.0, "mode_connectivity_peak": -1.0, "log_hessian_trace": np.nan}
    metrics |= {"train_error_se": np.inf, "mode_connectivity_peak_se": None}
    page = page_of(write_report(tmp_path / "r.html", diagnoses["hot"], reference, metrics=metrics))
    (drawing,) = page.drawings("map")
    assert one(drawing, "line", "error") == []
    assert page_of(write_report(tmp_path / "r.html", diagnoses["hot"], reference, metrics={})).drawings("map") == []


def test_diagnosis_writes_its_report(diagnoses, tmp_path):
    page = page_of(diagnoses["standard errors"].report(tmp_path / "r.html", name="mine"))
    assert len(page.drawings("map")) == 2
    with pytest.raises(UserError, match="cannot write"):
        diagnoses["hot"].report(tmp_path / "absent" / "r.html")


def test_reference_of_one_metric_that_was_not_measured(small_grid, tmp_path):
    kept = [*small_grid.columns[:6], "train_error"]
    mine = fit_reference(small_grid[kept], name="<i>mine</i>", measure=False)
    diagnosis = diagnose_metrics({"train_error": 3.0}, mine, "percent")[0]
    page = page_of(write_report(tmp_path / "r.html", diagnosis, mine, name="x"))
    assert "ollection <i>mine</i>, 18 configurations" in page.text
    assert "The accuracy of its answers has not been measured" in page.text


@pytest.mark.parametrize("number", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_models(diagnoses, reference, tmp_path, number):
    kinds = list(diagnoses.items())
    items = [(f"{name} {NAME} {i}" if i else "", d) for i in range(167) for name, d in kinds][:number]
    paths = write_reports(tmp_path / "made" / "here", items, reference)
    assert len(set(paths)) == number + 1
    assert all(path.is_file() for path in paths)
    index = page_of(paths[0])
    assert paths[0].name == "index.html"
    links = [attrs["href"] for tag, attrs in index.tags if tag == "a"]
    assert links == [path.name for path in paths[1:]]
    assert index.texts["a"][6:] == [name for name, _ in items][6:]
    first, middle = page_of(paths[1]), page_of(paths[30])
    assert [a["href"] for t, a in first.tags if t == "a"] == ["index.html", paths[2].name]
    assert [a["href"] for t, a in middle.tags if t == "a"] == ["index.html", paths[29].name, paths[31].name]
    counts = dict(zip(CAUSES, index.texts["b"], strict=False))
    for cause in CAUSES:
        assert int(counts[cause]) == sum(d.cause == cause and not d.abstains for _, d in items)
    assert int(index.texts["b"][5]) == sum(d.abstains for _, d in items)
    strips = [shapes for attrs, shapes in index.svgs if attrs["class"] == "strip"]
    for shapes, (_, diagnosis) in zip(strips[:6], items, strict=False):
        shares = {attrs["fill"]: float(attrs["width"]) for _, attrs in shapes}
        assert shares == pytest.approx({COLOUR[c]: 100 * p for c, p in diagnosis.ranking.items()}, abs=0.01)


def test_summary_in_the_terminal(diagnoses):
    stream = io.StringIO()
    items = [(f"[bold]{name}[/bold]", d) for name, d in diagnoses.items()]
    print_summary(Console(file=stream, width=80), items, most=4)
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert text.startswith("6 models: ")
    assert f"can’t tell {sum(d.abstains for d in diagnoses.values())}" in text.splitlines()[0]
    assert "[bold]" in text
    assert text.rstrip().endswith("and 2 more")


def test_notes_of_all_models_are_said_once(diagnoses, tmp_path):
    shared = fact("columns_unused", columns=["cka <b>"])
    items = [
        (name, replace(d, remarks=(shared, fact("columns_unused", columns=[f"of {name} only"]))))
        for name, d in diagnoses.items()
    ]
    stream = io.StringIO()
    print_summary(Console(file=stream, width=80), items)
    assert stream.getvalue().count("not used: cka <b>") == 1
    assert " only" not in stream.getvalue()
    index = page_of(write_reports(tmp_path, items)[0])
    assert index.texts["li"][-1] == "columns not used: cka <b>"


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


SOFTMAX = Finding("softmax_over_one_unit", 0.9, {})


@pytest.fixture(scope="module")
def combined(diagnoses):
    hot, training = diagnoses["hot"], Training(learning_rate=0.3)
    better = SimpleNamespace(is_better=True, by="refreshed", test_error=(29.0, 26.5), to_dict=dict)
    return {
        "sure": with_outlook(hot, network(), improved=better, training=training),
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
    yield "What to do"
    yield from ("+4.0", "-1.0", "+9.0") if diagnosis.expected_gain else ()
    if found is not None:
        yield from ("+4.0 (-1.0 to +9.0)", "+5.0 (+0.5 to +8.0)", "+1.0 (-6.0 to +3.0)", "-0.5 (-2.0 to +1.0)")
        yield "In short runs from scratch they came in as: learning rate ÷3 and width ×2"
    if diagnosis.improved:
        yield "Its error, on data that had no part in the choice, is 26.5 %; that of the given one 29 %"
    yield "The cause"
    yield "I can’t tell" if diagnosis.abstains else diagnosis.sentence[1:]
    if found is not None:
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
    assert ("(rather: " in page.text) == (diagnosis.outlook is not None)


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
    assert said == sum(d.outlook is not None for d in combined.values())
    assert "replace the softmax by a sigmoid, or give out two units" in index.texts["td"]
    assert "+4.0 (−1.0 to +9.0)" in index.texts["td"]
    stream = io.StringIO()
    print_summary(Console(file=stream, width=100), items)
    assert "learning rate ÷3" in stream.getvalue()


def test_compilation_stands_beside_the_diagnosis():
    rows = costs.rows(COST)
    assert [row[0] for row in rows][:2] == ["this diagnosis", "compiling its programs, once"]
    assert costs.bars(COST) == pytest.approx([42 / 22680, 31 / 22680, 840 / 22680, 1.0])
    assert len(costs.rows(COST | {"compile_seconds": None})) == len(costs.bars(COST | {"compile_seconds": None})) == 3
    assert costs.bars({"compile_seconds": 3.0, "diagnosis_seconds": 1.0}) == [None] * 4
