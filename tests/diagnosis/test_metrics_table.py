"""Tables of metrics as they are read: names, units, missing values, standard errors, mistakes."""

import numpy as np
import pandas as pd
import pytest

from mdtree_jax import diagnose_metrics
from mdtree_jax.causes import joint
from mdtree_jax.checks import UserError
from mdtree_jax.diagnosis import from_metrics as verdict
from mdtree_jax.diagnosis import probabilities as chances
from mdtree_jax.diagnosis.facts import fact
from mdtree_jax.diagnosis.metrics_table import read_metrics
from tests.diagnosis.test_from_metrics import COLD


def test_a_negative_eigenvalue_of_a_table_is_as_large_as_it_is():
    rows = [
        COLD | {"log_hessian_max_eigenvalue": None, "hessian_max_eigenvalue": value} for value in (-30.0, 30.0, 0.0)
    ]
    negative, positive, zero = diagnose_metrics([row | {"hessian_max_eigenvalue_se": 3.0} for row in rows])
    assert negative.metrics["log_hessian_max_eigenvalue"] == pytest.approx(np.log(30.0))
    assert negative.ranking == positive.ranking
    assert negative.metrics["log_hessian_max_eigenvalue_se"] == pytest.approx(0.1)
    assert "log_hessian_max_eigenvalue" not in zero.metrics


def test_fractions_among_percentages_are_told():
    rows = pd.DataFrame([COLD | {"train_error": 0.1 * i} for i in range(6)])
    assert diagnose_metrics(rows)[3].remarks == (fact("read_as_percent", metrics=["train_error"]),)
    assert diagnose_metrics(rows)[3].notes == [
        "no model has a value of training error above 1; the values are read as percent, like the other errors"
    ]
    assert diagnose_metrics(rows, units="percent")[3].notes == []
    assert diagnose_metrics(rows.assign(train_error=2.0))[3].notes == []


def test_published_names_and_accuracies_are_understood():
    ours = diagnose_metrics({"train_error": 12.0, "log_hessian_trace": 5.0, "cka": 0.4})[0]
    theirs = diagnose_metrics({"train_acc": 88.0, "hessian_t": 5.0, "CKA": 0.4})[0]
    assert ours == theirs


UNITS = [
    ({"train_error": [0.2, 3.0]}, None, [0.2, 3.0]),
    ({"train_error": [0.2], "mode_connectivity_peak": [-12.0]}, None, [0.2]),
    ({"train_error": [0.2], "test_acc": [0.7]}, None, [20.0]),
    ({"train_acc": [0.8]}, None, [20.0]),
    ({"train_error": [0.2]}, "fraction", [20.0]),
    ({"train_error": [0.2, np.inf], "test_acc": [0.7, 0.6]}, None, [20.0, float("nan")]),
    ({"train_error": [0.2]}, "percent", [0.2]),
]


@pytest.mark.parametrize(("table", "units", "expected"), UNITS, ids=str)
def test_units_are_decided_from_all_error_columns(table, units, expected):
    read = read_metrics(pd.DataFrame(table | {"train_error_se": [0.01] * len(expected)}), units)
    assert read.train_error.tolist() == pytest.approx(expected, nan_ok=True)
    fraction = units == "fraction" or (units is None and ("train_acc" in table or "test_acc" in table))
    assert read.train_error_se.tolist() == pytest.approx([1.0 if fraction else 0.01] * len(expected))


def test_zeros_have_no_unit():
    assert read_metrics({"train_error": 0.0, "mode_connectivity_peak": -0.0, "cka": 0.3}).train_error.tolist() == [0.0]


BAD = [
    (
        {"train_error": 0.2, "cka": 0.4},
        None,
        r"may be fractions or percentages \('train_error' up to 0.2\); set un",
    ),
    (
        {"train_error": 0.0, "mode_connectivity_peak": -0.2},
        None,
        r"percentages \('mode_connectivity_peak' up to -0.2\); set units",
    ),
    ({"train_error": 0.2}, "per mille", "unknown units 'per mille'.*available: fraction, percent"),
    ({"accuracy": 3}, None, "has none of the metrics train_error, .*; it has accuracy"),
    ({"train_eror": 3}, None, r"it has train_eror; 'train_eror' \(did you mean 'train_error'\?\)"),
    (
        {"test_error": 10.0, "train_eror": 3},
        None,
        r"it has test_error, train_eror; 'train_eror' \(did you mean 'train_er",
    ),
    (pd.DataFrame([[1.0, 2.0]], columns=["cka", "cka"]), None, "has two columns 'cka'"),
    ({"train_error;cka": "3;0.4"}, None, "its columns do not seem to be separated by commas"),
    (
        [{"train_error": "3"}, {"train_error": "7.5%"}],
        None,
        "column 'train_error' holds '7.5%' in row 2; it must hold numbers",
    ),
    ({"train_error": -3.0}, None, r"train_error=-3 in row 1; it must be at least 0"),
    ({"mode_connectivity_peak": 12.0}, None, "minus the largest training error"),
    ({"cka": 1.4}, None, r"cka=1.4 in row 1; it must be in"),
    ({"cka": 0.4, "cka_se": -0.1}, None, "'cka_se' holds a negative standard error"),
    ([], None, "has no rows"),
    (
        {"train_error": 0.282, "train_acc": 71.8},
        None,
        "'train_error' and 'train_acc' are two names of one metric, but differ in row 1: 0.282 and 28.2",
    ),
    ([{"cka": 0.4, "CKA": 0.4}, {"cka": 0.4, "CKA": 0.5}], None, "differ in row 2: 0.4 and 0.5"),
    ({"train_error": 28.0, "train_error.1": 0.28}, None, "has two columns 'train_error'"),
    (
        {"mode_connectivity_peak": -12.0, "train_acc": 0.7},
        None,
        "accuracies must be percentages, but column",
    ),
]


@pytest.mark.parametrize(("table", "units", "message"), BAD, ids=str)
def test_bad_tables(table, units, message):
    with pytest.raises(UserError, match=message):
        diagnose_metrics(table, units=units)


def test_two_names_of_one_metric_that_agree_are_one():
    both, one = diagnose_metrics({"train_error": 28.2, "train_acc": 71.8, "cka": 0.4} | {"CKA": 0.4}), COLD
    assert both[0].metrics == {"train_error": 28.2, "cka": 0.4}
    gaps = diagnose_metrics([{"cka": None, "CKA": 0.4, "train_acc": 70.0, "train_error": np.nan}, COLD])
    assert gaps[0].metrics == {"train_error": 30.0, "cka": 0.4}
    at_chance = {"train_acc": 0.01, "cka": one["cka"]}
    assert diagnose_metrics(at_chance, units="fraction")[0].metrics["train_error"] == pytest.approx(99.0)
    assert diagnose_metrics(at_chance, units="percent")[0].metrics["train_error"] == pytest.approx(99.99)


def test_missing_metrics_are_done_without_and_named():
    rows = diagnose_metrics([COLD, COLD | {"cka": float("nan")}, {"cka": None, "train_error": None}])
    assert rows[0].notes == []
    assert rows[1].remarks[0] == fact("metrics_missing", metrics=["cka"])
    assert rows[1].notes[0] == "the answer comes from a model fitted without similarity, which is not given"
    assert rows[1].questions.keys() == rows[0].questions.keys()
    assert rows[2].abstains
    assert rows[2].abstention.kind == "nothing_given"
    assert rows[2].reason.startswith("a diagnosis needs at least one of the metrics train_error, ")
    single = diagnose_metrics({"train_error": 12.0, "log_hessian_trace": 5.0})[0]
    assert fact("question_not_asked", question="size") in single.remarks
    assert [step.feature for step in single.evidence] == ["train_error", "log_hessian_trace"]


def test_draws_have_the_moments_of_the_standard_errors():
    errors = dict(zip(joint.COLUMNS, (2.0, 0.1, 0.3, 0.2, 0.8, 0.9, 0.02), strict=True))
    centre = COLD | {"train_error": 30.0, "train_loss": 1.0, "mode_connectivity_peak": -40.0}
    table = read_metrics(centre | {f"{name}_se": error for name, error in errors.items()})
    rows, drawn = chances.draw_metrics(table, joint.COLUMNS)
    assert rows.tolist() == [0]
    assert drawn.mean().to_numpy() == pytest.approx([centre[name] for name in joint.COLUMNS])
    assert drawn.std(ddof=0).to_numpy() == pytest.approx(list(errors.values()))
    # As if drawn alone: no two metrics move together.
    assert np.abs(drawn.corr() - np.eye(7)).max(axis=None) < 0.13
    rows, drawn = chances.draw_metrics(table.drop(columns="cka_se"), ["cka", "train_loss"])
    assert drawn.std(ddof=0).to_numpy() == pytest.approx([0.0, errors["train_loss"]], abs=1e-12)


def test_rows_are_the_same_in_pieces(monkeypatch, F_noise):
    rows = F_noise[list(joint.COLUMNS)].iloc[:7].reset_index(drop=True)
    rows.loc[3, "cka"] = np.nan
    whole = diagnose_metrics(rows, units="percent")
    monkeypatch.setattr(verdict, "_ROWS", 2)
    for a, b in zip(whole, diagnose_metrics(rows, units="percent"), strict=True):
        assert a.cause == b.cause
        np.testing.assert_allclose(list(a.ranking.values()), list(b.ranking.values()), rtol=1e-9)


def test_traces_and_eigenvalues_may_come_without_their_logarithm():
    plain = {"hessian_trace": np.exp(5.2), "hessian_trace_se": 0.1 * np.exp(5.2), "train_error": 28.0, "cka": 0.4}
    table = read_metrics(plain)
    assert table.log_hessian_trace[0] == pytest.approx(5.2)
    assert table.log_hessian_trace_se[0] == pytest.approx(0.1)
    assert np.isnan(read_metrics(plain | {"hessian_trace": -3.0}).log_hessian_trace[0])
    both = read_metrics([plain | {"log_hessian_trace": 4.0}, plain | {"log_hessian_trace": None}])
    assert both.log_hessian_trace.tolist() == pytest.approx([4.0, 5.2])
    assert np.isnan(both.log_hessian_trace_se[0])
    assert both.log_hessian_trace_se[1] == pytest.approx(0.1)


def test_columns_that_are_no_metrics_may_hold_anything():
    table = pd.DataFrame([COLD | {"use_se": "yes", "note": "-3"}])
    assert diagnose_metrics(table)[0].ranking == diagnose_metrics(COLD)[0].ranking
