"""The recipes of `sweeps`: what they compare is what they say."""

import numpy as np
import pytest

from mdtree_jax import load_collection
from mdtree_jax.causes.joint import COLUMNS
from mdtree_jax.collection.grid import make_grid
from mdtree_jax.collection.moves import AXES
from sweeps import advice, forms, sample


def test_gains_of_steps_equal_a_loop(small_grid):
    frame = load_collection(small_grid)
    error = {tuple(row[list(AXES)]): row["test_error"] for _, row in frame.iterrows()}
    values = {axis: sorted(frame[axis].unique()) for axis in AXES}
    grid = make_grid(frame)
    found = advice.gains_of_steps(grid, 1.0)
    assert (found[:, -1] == 0).all()
    for place, (_, row) in enumerate(frame.iterrows()):
        for column, (axis, sign) in enumerate(grid.moves):
            here = row[axis]
            ahead = [v for v in values[axis] if (v - here) * sign > 0]
            nearest = min(ahead, key=lambda v: abs(abs(np.log2(v / here)) - 1), default=here)
            there = tuple(nearest if name == axis else row[name] for name in AXES)
            assert found[place, column] == pytest.approx(row["test_error"] - error[there])


def test_no_advice_beats_the_best_possible(monkeypatch):
    monkeypatch.setattr(advice, "NUMBER", 30)
    digits = load_collection("digits")
    found = advice.one_draw(digits, digits, 0)
    for step in advice.STEPS:
        gains = {row["method"]: row["gain"] for row in found if row["step"] == step}
        assert gains["oracle"] >= max(gains[m] for m in ("diagnosis", "validation", "commonest", "random"))
        assert gains["diagnosis"] > gains["random"]


def test_a_reference_without_the_models_that_it_is_asked_about():
    record = load_collection("digits")
    table = record.iloc[[3, 700, 1500]]
    reference, places = sample.fit_without(record, table)
    assert places == [3, 700, 1500]
    seen = reference.models[list(COLUMNS)].round(6).merge(table[list(COLUMNS)].round(6))
    assert not len(seen)
    assert len(reference.models) >= 1600


def test_every_form_is_explained():
    frame = load_collection("digits")
    made = forms.forms(frame)
    assert list(made) == list(forms.FORMS)
    assert np.isfinite(made.to_numpy()).all()
    np.testing.assert_allclose(made["trace/loss"] - made["trace"], -made["loss"])
