"""Tables of metrics as people write them: the same numbers come back, and each row is diagnosed by itself."""

import dataclasses
import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdtree_jax import diagnose_metrics
from mdtree_jax.collection.columns import ERROR_SUFFIXES
from mdtree_jax.collection.load import read_csv
from mdtree_jax.diagnosis.metrics_table import read_metrics, standard_errors, unused_columns
from mdtree_jax.registry.measurements import MEASUREMENTS
from tests.refusals import answer_of

RANGES = {
    "train_error": (0.0, 100.0),
    "train_loss": (0.0, 20.0),
    "log_hessian_trace": (-5.0, 12.0),
    "log_hessian_max_eigenvalue": (-5.0, 12.0),
    "mode_connectivity": (-60.0, 30.0),
    "mode_connectivity_peak": (-100.0, 0.0),
    "cka": (0.0, 1.0),
    "test_error": (0.0, 100.0),
}
IN_PERCENT = ("train_error", "test_error", "mode_connectivity", "mode_connectivity_peak")
#: Metric -> another name of it, and what it holds of a value (in the unit of errors, `whole` to the full).
OTHER_NAMES = {
    "train_error": ("train_acc", lambda value, whole: whole - value),
    "test_error": ("test_acc", lambda value, whole: whole - value),
    "log_hessian_trace": ("hessian_t", lambda value, whole: value),
    "log_hessian_max_eigenvalue": ("hessian_e", lambda value, whole: value),
    "cka": ("CKA", lambda value, whole: value),
}
#: Metric -> its name without the logarithm.
PLAIN = {"log_hessian_trace": "hessian_trace", "log_hessian_max_eigenvalue": "hessian_max_eigenvalue"}
MISSING = [None, np.nan, "", "-", "n/a", "NaN", "inf", np.inf]
EXTRA = {"note": ["yes", "", None, "-3"], "date": [pd.Timestamp(2024, 1, 1), None], "Train_Err": [0.1, 7], 7: [1, "a"]}


@st.composite
def written(draw):
    """Return (table as a user wrote it, its units, the numbers and standard errors that stand in it, in our units)."""
    rows = draw(st.integers(1, 5))
    metrics = draw(st.lists(st.sampled_from(list(RANGES)), min_size=1, max_size=8, unique=True))
    if metrics == ["test_error"]:
        metrics = ["cka", "test_error"]
    units = draw(st.sampled_from(["percent", "fraction"]))
    whole = 1.0 if units == "fraction" else 100.0
    columns, values, errors = {}, {}, {}
    for metric in metrics:
        numbers = st.floats(*RANGES[metric], allow_subnormal=False)
        values[metric] = np.array(draw(st.lists(numbers, min_size=rows, max_size=rows)))
        errors[metric] = np.array(draw(st.lists(st.floats(0.001, 2.0), min_size=rows, max_size=rows)))
        scale = whole / 100.0 if metric in IN_PERCENT else 1.0
        name, cells, spread = metric, values[metric] * scale, errors[metric] * scale
        way = draw(st.sampled_from(["ours", "other", "plain"]))
        if way == "other" and metric in OTHER_NAMES:
            name, turn = OTHER_NAMES[metric]
            cells = turn(cells, whole)
        elif way == "plain" and metric in PLAIN:
            name, cells, spread = PLAIN[metric], np.exp(cells), spread * np.exp(cells)
        cells = cells.tolist()
        for row in draw(st.lists(st.integers(0, rows - 1), max_size=2)):
            cells[row], values[metric][row] = draw(st.sampled_from(MISSING)), np.nan
        as_text = draw(st.booleans())
        columns[name] = [repr(c) if as_text and isinstance(c, float) and np.isfinite(c) else c for c in cells]
        if draw(st.booleans()):
            columns[name + draw(st.sampled_from(ERROR_SUFFIXES))] = spread.tolist()
        else:
            errors[metric][:] = np.nan
    for name, options in EXTRA.items():
        if draw(st.booleans()):
            columns[name] = [draw(st.sampled_from(options)) for _ in range(rows)]
    order = draw(st.permutations(list(columns)))
    return pd.DataFrame({name: pd.Series(columns[name], dtype=object) for name in order}), units, values, errors


def forms(table):
    """Yield the table in the forms in which it can be handed over."""
    yield table
    yield table.set_axis(np.arange(len(table))[::-1] // 2)
    records = [
        {k: v for k, v in row.items() if v is not None or i == 0} for i, row in enumerate(table.to_dict("records"))
    ]
    yield records if len(records) > 1 else records[0]
    stream = io.StringIO(table.to_csv(index=False))
    yield read_csv(stream)


@settings(max_examples=120)
@given(written())
def test_a_table_reads_back_as_what_was_measured(case):
    table, units, values, errors = case
    for form in forms(table):
        frame = read_metrics(form, units)
        assert len(frame) == len(table)
        for metric in values:
            np.testing.assert_allclose(frame[metric].to_numpy(dtype=float), values[metric], rtol=1e-11, atol=1e-11)
            known = np.where(np.isnan(values[metric]), np.nan, errors[metric])
            found = np.where(np.isnan(values[metric]), np.nan, standard_errors(frame, metric))
            np.testing.assert_allclose(found, known, rtol=1e-9)
        for metric in set(RANGES) - set(values):
            assert metric not in frame or frame[metric].isna().all()
    spread_of_test = {
        f"test_{what}{suffix}" for what in ("error", "acc") for suffix in ERROR_SUFFIXES
    }  # no diagnosis asks it
    assert set(unused_columns(table, "landscape")) == {
        str(name) for name in table if name in EXTRA or name in spread_of_test
    }


@settings(max_examples=80)
@given(written())
def test_units_are_read_off_rightly_or_asked_for(case):
    """Without `units` a table of percentages, or of fractions with an accuracy, is read alike or refused."""
    table, units, values, _ = case
    numbers = [np.abs(v[np.isfinite(v)]) for m, v in values.items() if m in IN_PERCENT]
    largest = max([v.max() for v in numbers if len(v)], default=0.0)
    if units == "percent" and largest <= 1.0:
        return  # fractions, for all that can be told
    frame, message = answer_of(read_metrics, table)
    if message:
        assert "fractions" in message
        return
    for metric in values:
        np.testing.assert_allclose(frame[metric].to_numpy(dtype=float), values[metric], rtol=1e-11, atol=1e-11)


def same(a, b):
    """Check that two diagnoses say the same, but for the last bits of a matrix product."""
    for field in dataclasses.fields(a):
        one, other = getattr(a, field.name), getattr(b, field.name)
        if field.name in ("cause", "abstention", "remarks", "leads_to", "reference", "knobs"):
            assert one == other, field.name
    assert a.ranking == pytest.approx(b.ranking, rel=1e-9, abs=1e-12)
    assert a.metrics == pytest.approx(b.metrics, rel=1e-12)
    assert list(a.questions) == list(b.questions)
    for question, classes in a.questions.items():
        assert classes == pytest.approx(b.questions[question], rel=1e-9, abs=1e-12)
    assert a.action.sentence == b.action.sentence
    assert [(s.feature, s.side, s.value) for s in a.evidence] == [(s.feature, s.side, s.value) for s in b.evidence]


#: Few sets of columns, because a reference is fitted to each anew.
SETS = (
    ("train_error", "log_hessian_trace", "mode_connectivity_peak", "cka"),
    ("train_error", "train_loss", "log_hessian_trace", "log_hessian_max_eigenvalue", "mode_connectivity", "cka"),
)


@settings(max_examples=20)
@given(st.sampled_from(SETS), st.data())
def test_a_row_is_diagnosed_by_itself(columns, data):
    rows, draw = data.draw(st.integers(2, 4)), data.draw
    table = pd.DataFrame({c: draw(st.lists(st.floats(*RANGES[c]), min_size=rows, max_size=rows)) for c in columns})
    table.loc[draw(st.integers(0, rows - 1)), "cka"] = np.nan
    if draw(st.booleans()):
        table["train_error_se"] = 0.5
    whole = diagnose_metrics(table, units="percent")
    order = draw(st.permutations(range(rows)))
    moved = diagnose_metrics(table.iloc[order][draw(st.permutations(list(table)))], units="percent")
    for place, row in enumerate(order):
        same(moved[place], whole[row])
    row = draw(st.integers(0, rows - 1))
    same(diagnose_metrics(table.iloc[row].to_dict(), units="percent")[0], whole[row])
    same(diagnose_metrics(table.iloc[row].dropna().to_dict(), units="percent")[0], whole[row])


GARBAGE = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just([]), st.just({}))
NAMES = [
    *RANGES,
    "train_acc",
    "hessian_t",
    "CKA",
    "cka_se",
    "train_error_se",
    "batch_size",
    "name",
    "x",
    "",
    "hessian_trace",
]


@settings(max_examples=200)
@given(st.lists(st.dictionaries(st.sampled_from(NAMES), GARBAGE, max_size=5), max_size=3),
       st.sampled_from([None, "percent", "fraction", "bananas"]))  # fmt: skip
def test_any_table_is_read_or_refused_in_one_sentence(table, units):
    frame, message = answer_of(read_metrics, table, units)
    if message:
        return
    for metric in (m for m in RANGES if m in frame):
        known = frame[metric].dropna().to_numpy(dtype=float)
        assert np.isfinite(known).all()
        if metric in ("train_error", "cka", "test_error"):
            low, high = MEASUREMENTS[metric].limits  # an error of a regression can exceed 100 %
            assert ((known >= low - 1e-6) & (known <= high + 1e-6)).all()
