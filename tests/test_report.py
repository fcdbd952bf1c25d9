"""The report of a diagnosis: what it says is what the diagnosis holds, in one file that asks for nothing."""

import io
import re

import numpy as np
import pytest
from rich.console import Console

from mdtree_jax import diagnose_metrics
from mdtree_jax.diagnosis.cost import make_cost
from mdtree_jax.diagnosis.reference import default_reference
from mdtree_jax.report.answer import print_answer, print_summary
from mdtree_jax.report.drawings import phase_plot
from mdtree_jax.report.html import write_report, write_reports
from mdtree_jax.report.words import percent, short

FULL = {
    "train_error": 7.5, "train_error_se": 0.4, "train_loss": 0.21, "log_hessian_trace": 5.6, "cka": 0.4,
    "log_hessian_trace_se": 0.2, "log_hessian_max_eigenvalue": 3.6, "mode_connectivity": -2.0,
    "mode_connectivity_peak": -9.0, "mode_connectivity_peak_se": 0.5,
}  # fmt: skip
COST = make_cost(412.0, 3.2e13, 95.0, 5400.0, 1.1e15, "as measured").to_dict()


@pytest.fixture(scope="module")
def reference():
    return default_reference()


def page(tmp_path, row, **options):
    diagnosis = diagnose_metrics(row, units="percent")[0]
    options.setdefault("metrics", diagnosis.metrics)
    return diagnosis, write_report(tmp_path / "r.html", diagnosis, default_reference(), **options).read_text()


@pytest.mark.parametrize(
    "row",
    [FULL, {"train_error": 0.1, "train_error_se": 0.3}, {"cka": 0.9, "train_error": 45.0}, {"train_error": np.nan}],
)
def test_a_page_says_what_the_diagnosis_holds(tmp_path, row):
    diagnosis, text = page(tmp_path, row, name='a <b> & "c"', cost=COST)
    assert len(text) < 2_000_000
    assert "nan" not in text.partition("</style>")[2].partition("Technical part")[0].lower()
    assert '"nan"' not in text
    assert not re.search(r"https?:|<script|url\(|@import|\bsrc=", text)
    assert "a &lt;b&gt; &amp; &#34;c&#34;" in text
    assert "<b>" not in text
    plain = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text.partition("</style>")[2]))
    assert ("can&#39;t tell" in plain) == diagnosis.abstains
    for cause, probability in diagnosis.ranking.items():
        assert re.search(rf"{short(cause)} +{percent(probability).replace('<', '&lt;').replace('>', '&gt;')}", plain)
    for step in diagnosis.evidence:
        assert step.sentence in plain
    places = [plain.index(part) for part in ("What to do", "How sure", "What it costs", "Technical part")]
    assert places == sorted(places)
    assert "One retraining takes 13 times as long as the diagnosis took" in plain
    if diagnosis.expected_gain:
        assert f"{diagnosis.expected_gain.mean:+.1f}" in plain


def test_unknown_costs_are_said_to_be_unknown(tmp_path):
    assert "not known: they were made elsewhere" in page(tmp_path, FULL)[1]
    assert "What a retraining costs is not known" in page(tmp_path, FULL, cost=make_cost(3.0, 1e9).to_dict())[1]


def test_the_dot_stands_where_the_bins_say(reference):
    for bins in reference.summary()["bins"]:
        first, second = bins["metrics"]
        drawn = phase_plot(bins, FULL)
        x, y = (float(v) for v in re.search(r'class="dot" cx="([\d.]+)" cy="([\d.]+)"', drawn).groups())
        ground = re.search(r'class="ground" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', drawn)
        left, top, width, height = map(float, ground.groups())
        for name, place, edges in (
            (first, (x - left) / width, bins["edges"][0]),
            (second, 1 - (y - top) / height, bins["edges"][1]),
        ):
            edges = sorted(edges)
            cell = int(np.searchsorted(edges, FULL[name])) - 1
            share = (FULL[name] - edges[cell]) / (edges[cell + 1] - edges[cell])
            assert place == pytest.approx((cell + share) / 12, abs=2e-3)
    assert phase_plot(bins, {"train_error": 3.0}) == ""


def test_every_model_of_the_reference_is_on_the_map(reference):
    bins = reference.summary()["bins"][0]
    assert sum(np.sum(counts) for counts in bins["counts"].values()) == len(reference.models)
    drawn = len(re.findall("fill-opacity", phase_plot(bins, FULL)))
    assert drawn == np.count_nonzero(sum(np.asarray(counts) for counts in bins["counts"].values()))


def test_many_models_have_an_index_and_a_page_each(tmp_path, reference):
    rows = [FULL, FULL | {"train_error": 0.0, "mode_connectivity_peak": 0.0}, {"cka": 0.3}]
    items = list(zip(["same", "same", "<x>"], diagnose_metrics(rows, units="percent"), strict=True))
    index, *pages = write_reports(tmp_path, items, reference)
    text = index.read_text()
    assert len(set(pages)) == 3
    assert all(f'href="{p.name}"' in text and 'href="index.html"' in p.read_text() for p in pages)
    assert "&lt;x&gt;" in text


def test_the_terminal_says_the_same_in_the_same_order():
    diagnosis = diagnose_metrics(FULL, training={"batch_size": 64})[0]
    console = Console(file=io.StringIO(), width=80)
    print_answer(console, diagnosis, name="[bold]net", cost=COST)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    joined = " ".join(text.split())
    parts = ["[bold]net", "What to do:", percent(diagnosis.probability), "One retraining takes 13", "Evidence"]
    places = [joined.index(part) for part in parts]
    assert places[:2] == sorted(places[:2])
    assert places[3] < places[4]
    assert all(step.sentence in joined for step in diagnosis.evidence)
    print_summary(console, [("a", diagnosis)] * 50)
    assert "and 10 more in the report" in console.file.getvalue()
