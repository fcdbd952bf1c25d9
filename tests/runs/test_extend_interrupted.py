"""Runs that grow and are interrupted, at any change of a name on disk or inside a cohort."""

import contextlib
import itertools
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdtree_jax import files
from tests.runs.growing import METRICS, QUICK, Lab, assert_same_tables, growing_plans, plan


class Killed(Exception):
    """The process ends here."""


@contextlib.contextmanager
def killed_at(monkeypatch, moment):
    """Raise before or after the change of a name on disk with number `moment`."""
    count = itertools.count()

    def fatal(change):
        def wrapper(*arguments, **options):
            if next(count) >= moment:  # and nothing after it happens either
                raise Killed
            result = change(*arguments, **options)
            if next(count) >= moment:
                raise Killed
            return result

        return wrapper

    with monkeypatch.context() as patch:
        for name in ("replace", "unlink", "rmdir"):
            patch.setattr(files.os, name, fatal(getattr(files.os, name)))
        try:
            yield
        except Killed:
            return


@settings(QUICK, max_examples=6)
@given(plans=growing_plans(), data=st.data())
def test_interrupted_anywhere_it_ends_with_the_same_tables(pickled, tmp_path_factory, plans, data):
    path, lab = tmp_path_factory.mktemp("killed"), Lab(plans[0].diverging)
    monkeypatch = pytest.MonkeyPatch()
    for wanted in plans:
        for _ in range(data.draw(st.integers(0, 4))):
            with killed_at(monkeypatch, data.draw(st.integers(0, 80))):
                lab.run(path / "steps", wanted)
    lab.run(path / "steps", plans[-1])
    Lab(plans[0].diverging).run(path / "fresh", plans[-1])
    assert_same_tables(path / "steps", path / "fresh")
    assert not [p for p in (path / "steps").rglob("*") if "partial" in p.name or p.parent.name == "unfinished"]


def test_extended_by_a_named_knob_wherever_a_first_extension_ended(pickled, tmp_path, monkeypatch):
    first = {"width": (2,), "learning_rate": (0.05,), "metrics": ("hessian",)}
    plans = [plan(3, seed=1, **first), plan(4, **first), plan(4, optimizer=("sgd", "adamw"), **first)]
    Lab().run(tmp_path / "fresh", plans[-1])
    for moment in range(52, 68):  # from the last part to the manifest
        path = tmp_path / str(moment)
        Lab().run(path, plans[0])
        with killed_at(monkeypatch, moment):
            Lab().run(path, plans[1])
        Lab().run(path, plans[-1])
        assert_same_tables(path, tmp_path / "fresh")


@pytest.mark.slow
def test_killed_at_every_moment_of_an_extension(pickled, tmp_path, monkeypatch):
    small, large = plan(metrics=METRICS[:3]), plan(4, learning_rate=(0.02, 0.1, 0.05))
    Lab().run(tmp_path / "fresh", large)
    Lab().run(tmp_path / "small", small)
    num_killed = 0
    for moment in range(1000):
        path = tmp_path / f"killed{moment}"
        shutil.copytree(tmp_path / "small", path)
        lab, is_done = Lab(), False
        with killed_at(monkeypatch, moment):
            lab.run(path, large)
            is_done = True
        if is_done:
            break
        num_killed += 1
        lab.run(path, large)
        assert_same_tables(path, tmp_path / "fresh")
        shutil.rmtree(path)
    assert num_killed > 60


def test_a_state_inside_a_cohort_is_resumed_only_if_its_members_are_the_same(pickled, tmp_path):
    seen = []

    class Interrupted(Lab):
        def train(self, recipe, cohort, data, *, checkpoint, resume, **options):
            seen.append((cohort.key, len(cohort.members), resume is not None))
            if cohort.width == 4:
                checkpoint({"members": np.zeros(len(cohort.members))})
                raise KeyboardInterrupt
            return super().train(recipe, cohort, data, checkpoint=checkpoint, resume=resume, **options)

    # Interrupted in the cohort of width 4, and again; then the cohort grows, and then only the grid does.
    for wanted in (
        plan(),
        plan(),
        plan(3),
        plan(3, width=(2, 4, 8)),
        plan(3, width=(2, 4, 8), learning_rate=(0.1, 0.05)),
    ):
        with pytest.raises(KeyboardInterrupt):
            Interrupted().run(tmp_path, wanted)
    assert [resumed for key, _, resumed in seen if key == "w4-b16-e3"] == [False, True, False, True, False]
    Lab().run(tmp_path, wanted)
    Lab().run(tmp_path / "fresh", wanted)
    assert_same_tables(tmp_path, tmp_path / "fresh")
