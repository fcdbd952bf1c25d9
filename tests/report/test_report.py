"""The report of a diagnosis: self-contained, escaped, true to the diagnosis, the same facts in the terminal."""

import io
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from rich.console import Console

from mdtree_jax import diagnose_metrics, fit_reference
from mdtree_jax.causes.labels import CAUSES
from mdtree_jax.checks import UserError
from mdtree_jax.diagnosis.facts import fact
from mdtree_jax.diagnosis.words import costs
from mdtree_jax.diagnosis.words.answer import print_answer, print_summary
from mdtree_jax.registry.causes import CAUSES as TABLE
from mdtree_jax.report.html import write_report, write_reports
from tests.report.pages import COST, NAME, ROWS, one, page_of, squeeze

SHORT = {name: TABLE[name].short for name in CAUSES}
COLOUR = {name: TABLE[name].colour for name in CAUSES}


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


def test_compilation_stands_beside_the_diagnosis():
    rows = costs.rows(COST)
    assert [row[0] for row in rows][:2] == ["this diagnosis", "compiling its programs, once"]
    assert costs.bars(COST) == pytest.approx([42 / 22680, 31 / 22680, 840 / 22680, 1.0])
    assert len(costs.rows(COST | {"compile_seconds": None})) == len(costs.bars(COST | {"compile_seconds": None})) == 3
    assert costs.bars({"compile_seconds": 3.0, "diagnosis_seconds": 1.0}) == [None] * 4
