"""Columns that are nearly known: named, not ignored; a user's own columns stay."""

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdtree_jax import UserError, diagnose_metrics, load_collection
from mdtree_jax.checks import is_misspelt
from mdtree_jax.collection.columns import ALIASES, COLUMN, check_spelling
from mdtree_jax.files import records_folder
from mdtree_jax.registry.knobs import KNOBS
from tests.refusals import answer_of

KNOWN = [name for name in (*COLUMN, *KNOBS, *ALIASES) if len(name) >= 6 and not any(map(str.isdigit, name))]
METRICS = {"train_error": 20.0, "test_error": 30.0, "log_hessian_trace": 5.0}


@given(name=st.sampled_from(KNOWN), place=st.floats(0, 1, exclude_max=True), kind=st.sampled_from("sdict"))
def test_a_slip_of_the_finger_is_named(name, place, kind):
    at = int(place * (len(name) - 1))
    typed = {
        "s": name[:at] + name[at + 1] + name[at] + name[at + 2 :],
        "d": name[:at] + name[at + 1 :],
        "i": name[:at] + "x" + name[at:],
        "c": name.upper(),
        "t": name.replace("_", " ").title(),
    }[kind]
    message = answer_of(check_spelling, ["test", typed])[1]
    assert message is None if typed in {*COLUMN, *KNOBS, *ALIASES} else f"unknown column '{typed}' (did" in message


@pytest.mark.parametrize("typed", ["tran_error_se", "Batch Size", "hessian_trcae", "num_clases"])
def test_a_table_of_metrics_with_a_misspelt_column(typed):
    with pytest.raises(UserError, match=f"unknown column '{typed}' \\(did you mean"):
        diagnose_metrics({k: v for k, v in METRICS.items() if k != "train_error" or "tran" not in typed} | {typed: 1})


def test_columns_of_the_user_stay():
    own = {"best_loss": 1.0, "test_loss": 2.0, "epoch": 3, "lr": 0.1, "notes": "x", "test_acc5": 90.0, "depth": 8}
    check_spelling({**METRICS, **own})
    assert len(diagnose_metrics(METRICS | own)) == 1


def test_a_collection_with_a_misspelt_column(small_grid):
    with pytest.raises(UserError, match="unknown column 'log_hesian_trace' \\(did you mean 'log_hessian_trace'"):
        load_collection(small_grid.rename(columns={"log_hessian_trace": "log_hesian_trace"}))
    assert "mine" in load_collection(small_grid.assign(mine=1))


def test_no_column_that_a_sweep_writes_is_near_another():
    names = {c for path in records_folder().glob("*.parquet") for c in pd.read_parquet(path).columns if len(c) > 3}
    for name in names:
        check_spelling([name])
    assert len(names) > 100


def test_names_that_differ_in_a_digit_are_two():
    assert not is_misspelt("test_acc5", "test_acc")
    assert not is_misspelt("layer_1_norm", "layer_2_norm")
