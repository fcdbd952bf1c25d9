"""The explorer: its data against the tables, worked out another way; nothing from outside; what a browser shows."""

import base64
import hashlib
import json
import os
import re
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mdtree_jax import MDTreeClassifier, diagnose_metrics, explore
from mdtree_jax.checks import UserError
from mdtree_jax.cli import run
from mdtree_jax.collection.load import load_collection
from mdtree_jax.report.explorer import page
from mdtree_jax.report.explorer.data import collection_data
from mdtree_jax.report.explorer.learning_curves import find_history

HOSTILE = '</script><script>window.hacked=1</script><img src=x onerror="window.hacked=1">'


@pytest.fixture(scope="module")
def digits():
    return load_collection("digits", allow_missing=True)


@pytest.fixture(scope="module")
def data(digits):
    """The data as a page holds them."""
    return data_of(page.render([collection_data(digits, diagnoses=False)], "bundle"))


def data_of(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])[
        "collections"
    ][0]


def test_columns_are_those_of_the_table(data, digits):
    assert data["size"] == 1690
    assert len(data["columns"]) > 40
    for name, values in data["columns"].items():
        if name in digits:
            np.testing.assert_allclose(np.array(values, dtype=float), digits[name].to_numpy(dtype=float), rtol=6e-6)
    for axis in data["axes"]:
        assert [axis["values"][place] for place in axis["place"]] == pytest.approx(digits[axis["name"]].tolist())
    rank = np.array(data["columns"]["log_effective_rank"], dtype=float)
    there = digits["log_hessian_trace"] - digits["log_hessian_max_eigenvalue"]
    np.testing.assert_allclose(rank, there, rtol=1e-4, atol=1e-5)


def test_neighbours_and_the_best_ahead_by_search(data, digits):
    knobs = [axis["name"] for axis in data["axes"]]
    for move in data["neighbours"]:
        rest = [knob for knob in knobs if knob != move["knob"]]
        for row in range(0, len(digits), 97):
            here = digits.iloc[row]
            line = digits[(digits[rest] == here[rest]).all(axis=1)]
            ahead = line[(line[move["knob"]] - here[move["knob"]]) * move["sign"] > 0]
            if ahead.empty:
                assert (move["next"][row], move["best"][row]) == (-1, -1)
                continue
            distance = (ahead[move["knob"]] - here[move["knob"]]).abs()
            assert move["next"][row] == distance.idxmin()
            assert digits["test_error"][move["best"][row]] == ahead["test_error"].min()


def test_rooms_of_the_page_are_those_of_the_table(data, digits):
    wider = next(m for m in data["neighbours"] if (m["knob"], m["sign"]) == ("width", 1))
    error = digits["test_error"].to_numpy()
    best = np.array(wider["best"])
    room = np.where(best >= 0, np.maximum(0, error - error[best]), 0)
    np.testing.assert_allclose(room, digits["rfi_width"], atol=1e-9)


def test_every_row_walks_to_its_leaf(data, digits):
    assert [question["name"] for question in data["questions"]] == ["optimizer", "size", "data"]
    for question in data["questions"]:
        tree, names = question["tree"], [one["name"] for one in question["classes"]]
        labels = digits[f"label_{question['name']}"]
        assert [names[code] for code in question["label"]] == labels.tolist()
        leaves = {(leaf["node"], leaf["side"]): number for number, leaf in enumerate(tree["leaves"])}
        right = used = 0
        for row in range(len(digits)):
            node = 0
            while True:
                test = tree["nodes"][node]
                side = int(data["columns"][test["feature"]][row] > test["threshold"])
                if isinstance(test["children"][side], str):
                    break
                node = test["children"][side]
            assert tree["leaf"][row] == leaves[node, side]
            if labels[row] != "optimal" and (question["name"] != "data" or digits["width"][row] >= 16):
                used, right = used + 1, right + (names[tree["leaves"][leaves[node, side]]["class"]] == labels[row])
        assert (tree["rows"], tree["accuracy"]) == (used, round(100 * right / used, 1))


def test_curves_end_where_the_tables_say():
    frame = load_collection("digits_vit", allow_missing=True)
    found = collection_data(frame, diagnoses=False, history=find_history("digits_vit", frame.attrs["axes"]))
    assert len(found["curves"]) == len(frame)
    for row in range(0, len(frame), 29):
        last = [curve["validation_error"][-1] for curve in found["curves"][str(row)]]
        assert np.mean(last) == pytest.approx(frame["validation_error"][row], rel=1e-3)
    assert find_history("digits", ["width"]) is None


def test_what_is_missing_is_said_and_shown():
    frame = load_collection("digits")[["width", "batch_size", "data_fraction", "test_error"]].iloc[3:]
    found = collection_data(load_collection(frame.assign(mine=np.nan), allow_missing=True))
    assert all(question["tree"] is None for question in found["questions"])
    assert found["diagnosis"] is None
    said = " ".join(found["notes"])
    assert "lacks 3 of the 1690" in said
    assert "no tree for 'optimizer'" in said
    assert "no diagnoses" in said
    assert "mine" not in found["columns"]


class Page(HTMLParser):
    """Collects scripts, policies and what refers to something."""

    def __init__(self, text):
        super().__init__()
        self.scripts, self.policy, self.refers, self.is_script = [], "", [], False
        self.feed(text)

    def handle_endtag(self, tag):
        self.is_script = False

    def handle_starttag(self, tag, attrs):
        self.is_script = tag == "script"
        known = dict(attrs)
        self.refers += [known[name] for name in ("src", "href", "action", "data") if name in known]
        if tag == "script":
            self.scripts.append([known.get("type"), ""])
        if known.get("http-equiv") == "Content-Security-Policy":
            self.policy = known["content"]

    def handle_data(self, data):
        if self.is_script:
            self.scripts[-1][1] += data


def hostile_table():
    """A table whose names and values try to be markup."""
    rows = [(w, b, o) for w in (4, 8, 16) for b in (8, 32) for o in ("sgd", HOSTILE)]
    frame = pd.DataFrame(rows, columns=["width", "batch_size", "optimizer"])
    error = 20.0 - frame["width"] + (frame["batch_size"] - 8) / 10
    return frame.assign(test_error=error, train_error=error / 2, **{HOSTILE: np.arange(len(frame)) * 1.0})


def test_page_holds_its_scripts_only_and_nothing_leaves_it(tmp_path):
    frame = load_collection(hostile_table(), allow_missing=True)
    frame.attrs["name"] = HOSTILE
    text = page.render([collection_data(frame, diagnoses=False)], "window.vega = 1 < 2 && true;")
    found = Page(text)
    assert [kind for kind, _ in found.scripts] == ["application/json", None, None]
    assert found.refers == ["#details"]
    rules = dict(rule.strip().split(" ", 1) for rule in found.policy.split(";"))
    assert rules["default-src"] == "'none'"
    hashes = [
        "sha256-" + base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for k, s in found.scripts if not k
    ]
    assert rules["script-src"].split() == [f"'{one}'" for one in hashes]
    assert "data:" in rules["img-src"]
    assert "http" not in found.policy
    held = json.loads(found.scripts[0][1])["collections"][0]
    assert held["name"] == HOSTILE
    assert HOSTILE in held["columns"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([], "collection= is required"),
        (["collection=digit"], r"unknown collection 'digit' \(did you mean 'digits'\?\)"),
        (["collection=[digits,digits,digits]"], "one collection or two side by side; 3 are given"),
        (["collection=digits", "fit=best"], "unknown fit 'best'"),
        (["collection=digits", "diagnoses=false", "out=missing/folder/page.html"], "cannot write|cannot be"),
    ],
)
def test_bad_input_is_one_sentence(settings, message, capsys, monkeypatch):
    monkeypatch.setattr(page, "vega_bundle", lambda: "")
    assert run("explore", explore.__doc__, explore.main, settings) == 2
    out, err = capsys.readouterr()
    assert not out
    assert len(err.splitlines()) == 1
    assert re.search(message, err)


def test_without_vl_convert_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    page.vega_bundle.cache_clear()
    with pytest.raises(UserError, match=r"needs vl-convert.*pip install 'mdtree-jax\[explore\]'"):
        page.write_explorer(tmp_path / "page.html", ["digits"])
    assert not list(tmp_path.iterdir())


def test_card(digits):
    row = 700
    found = explore.card(digits, row)
    assert found.title.startswith("network width ")
    assert f"{digits['test_error'][row]:.3g}"[:3] in dict(found.lines)["test error"]
    assert "points at the best configuration ahead" in str(found)
    shown = explore.card(load_collection(hostile_table(), allow_missing=True), 1)._repr_html_()
    assert "<script" not in shown
    assert "&lt;script&gt;" in shown
    assert len(repr(found)) < 1000
    with pytest.raises(UserError, match="row=1690: the table has the rows 0 to 1689"):
        explore.card(digits, 1690)


def test_notebooks_show_diagnoses_and_trees_as_cards(digits):
    found = diagnose_metrics(digits.iloc[:1])[0]
    shown = found._repr_html_()
    assert len(shown) < 1200
    for text in (f"{100 * found.probability:.0f} %", found.reference, "<table>"):
        assert text in shown
    tree = MDTreeClassifier(task="optimizer", fit="published").fit(digits)
    assert "training error" in tree._repr_html_() or "train_error" in tree._repr_html_()
    assert tree._repr_mimebundle_()["text/html"] == tree._repr_html_()
    assert MDTreeClassifier(task="<b>")._repr_html_().count("<b>") == 0


# --- in a browser -----------------------------------------------------------------------------------------------------

CHROMIUM = next((path for path in ("/usr/bin/chromium", "/usr/bin/chromium-browser") if Path(path).exists()), "")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run", "--disable-quic")  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    if not os.environ.get("MDTREE_JAX_BROWSER"):  # where it is set, as in CI, a browser that is missing fails
        pytest.importorskip("playwright", reason="the browser tests need playwright")
        if not CHROMIUM:
            pytest.skip("the browser tests need Debian's chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield found
        found.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory, digits):
    pytest.importorskip("vl_convert", reason="the explorer needs vl-convert")
    folder = tmp_path_factory.mktemp("pages")
    bundle = page.vega_bundle()
    vit = load_collection("digits_vit", allow_missing=True)
    history = find_history("digits_vit", vit.attrs["axes"])
    one, hostile = collection_data(digits), load_collection(hostile_table(), allow_missing=True)
    hostile.attrs["name"] = HOSTILE
    pages = {
        "digits": [one],
        "two": [one, collection_data(load_collection("digits_noisy", allow_missing=True), diagnoses=False)],
        "vit": [collection_data(vit, diagnoses=False, history=history)],
        "hostile": [collection_data(hostile)],
    }
    for name, collections in pages.items():
        (folder / f"{name}.html").write_text(page.render(collections, bundle), encoding="utf-8")
    assert (folder / "digits.html").stat().st_size - len(page.as_block(one).encode()) < 5_000_000
    return folder


@pytest.fixture
def open_page(browser, files):
    """Open a page; at the end, say what went wrong in it and what it asked for from elsewhere."""
    wrong, opened = [], []

    def open_(name, width=1280, at=""):
        tab = browser.new_page(viewport={"width": width, "height": 900})
        tab.set_default_timeout(20_000)
        tab.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.on(
            "request",
            lambda request: (
                wrong.append(request.url) if not request.url.startswith(("file:", "blob:", "data:")) else None
            ),
        )
        tab.goto(f"file://{files}/{name}.html{at}")
        tab.wait_for_selector("body[data-drawn]")
        tab.wait_for_selector("#filter canvas")
        opened.append(tab)
        return tab

    yield open_
    for tab in opened:
        tab.close()
    assert wrong == []


def until(is_so, seconds=20.0):
    """Wait until it is so; Playwright's own waiting for a function needs eval, which the page refuses."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)


def redraw(tab, act):
    before = tab.evaluate("document.body.dataset.drawn")
    act()
    until(lambda: tab.evaluate("document.body.dataset.drawn") != before)


def test_slider_click_and_keys_reach_the_right_configuration(open_page, digits):
    tab = open_page("digits", at="#width=8&batch_size=16&data_fraction=0.1")
    tab.wait_for_selector("#chosen table")
    row = digits.query("width == 8 and batch_size == 16 and data_fraction == 0.1").index[0]
    assert f"{digits['test_error'][row]:.4g} ±" in tab.inner_text("#chosen p")
    assert tab.inner_text("#sliders output") == "10 %"
    redraw(tab, lambda: tab.locator("#sliders input").fill("9"))
    assert tab.inner_text("#sliders output") == "100 %"
    tab.locator(".plot").first.focus()
    for key in ("ArrowRight", "ArrowUp", "ArrowRight", "Enter"):
        tab.keyboard.press(key)
    chosen = dict(part.split("=") for part in tab.evaluate("location.hash")[1:].split("&"))
    (width, wider), batch = sorted(digits["width"].unique())[1:3], sorted(digits["batch_size"].unique())[1]
    assert {name: float(value) for name, value in chosen.items()} == {
        "width": width,
        "batch_size": batch,
        "data_fraction": 1.0,
    }
    error = digits.query(f"batch_size == {batch} and data_fraction == 1").set_index("width")["test_error"]
    assert f"test error {error[width]:.4g} ±" in tab.inner_text("#chosen p")
    assert tab.locator("#tree g.lit").count() >= 2
    neighbour = tab.locator("#chosen table", has_text="Neighbours").locator("tr", has_text="wider").inner_text()
    assert f"{abs(error[width] - error[wider]):.2f}" in neighbour
    before = tab.evaluate("location.hash")
    drawing = tab.locator(".plot svg").first
    size = drawing.bounding_box()
    drawing.click(position={"x": 0.6 * size["width"], "y": 0.3 * size["height"]})
    assert tab.evaluate("location.hash") not in ("", before)


def test_limits_brush_colours_and_table(open_page, digits):
    tab = open_page("digits")
    tab.fill("#limit-a-1", "1")
    tab.keyboard.press("Tab")
    kept = int((digits["train_error"] <= 1).sum())
    until(lambda: f": {kept} of 1690" in tab.inner_text("#kept"))
    tab.click("#clear")
    until(lambda: ": 1690 of 1690" in tab.inner_text("#kept"))
    box = tab.locator("#filter canvas").bounding_box()
    tab.mouse.move(box["x"] + 100, box["y"] + 60)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 300, box["y"] + 200, steps=4)
    tab.mouse.up()
    until(lambda: tab.input_value("#limit-a-0"))
    low, high = (float(tab.input_value(f"#limit-a-{side}")) for side in (0, 1))
    bottom, top = (float(tab.input_value(f"#limit-b-{side}")) for side in (0, 1))
    inside = int((digits["train_error"].between(low, high) & digits["test_error"].between(bottom, top)).sum())
    until(lambda: ": 1690 of" not in tab.inner_text("#kept"))
    assert f": {inside} of 1690" in tab.inner_text("#kept")
    for colour in ("l:size", "t:optimizer", "d:cause", "m:cka"):
        redraw(tab, lambda colour=colour: tab.select_option("#colour", colour))
    tab.click("#as-table summary")
    half = digits.query("data_fraction == 0.5").pivot(index="width", columns="batch_size", values="cka")
    cells = tab.locator("#plane-table tbody tr").last.locator("td").all_inner_texts()
    assert [float(cell) for cell in cells] == pytest.approx(half.iloc[0].tolist(), rel=1e-3)
    redraw(tab, lambda: tab.select_option("#knob-x", "data_fraction"))


def test_two_side_by_side_curves_and_telephone(open_page):
    tab = open_page("two", width=390)
    assert tab.locator(".panel").count() == 2
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    tab = open_page("vit", at="#width=8")
    tab.wait_for_selector("[aria-label='Learning curve'] svg")
    assert tab.locator("#sliders input").count() == 3


def test_names_from_a_table_stay_texts(open_page):
    tab = open_page("hostile")
    redraw(tab, lambda: tab.select_option("#colour", f"m:{HOSTILE}"))
    redraw(tab, lambda: tab.select_option("#knob-x", "optimizer"))
    assert tab.evaluate("window.hacked") is None
    assert tab.inner_text("h1") == HOSTILE


def test_no_fault_of_accessibility(open_page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="the check needs axe-playwright-python")
    tab = open_page("digits", at="#width=8")
    tab.wait_for_selector("#chosen table")
    found = axe.Axe().run(tab)
    assert found.violations_count == 0, found.generate_report()
