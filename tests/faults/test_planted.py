"""Planted faults: how many the preflight names, how many wrongly, and that healthy networks are told none."""

import pytest

from tests.faults.look import told
from tests.faults.planted import (
    DEVELOPMENT,
    FAULTS,
    HEALTHY,
    HELD_OUT,
    cured_spec,
    faulty_spec,
    make_fault,
    make_healthy,
)
from tests.faults.training import errors_of

pytestmark = pytest.mark.slow


def counted(names):
    """Return the faults that are not named, and what is told beside the truth."""
    missed = [name for name in names if not set(told(make_fault, name)) & set(FAULTS[name].findings)]
    right = {name: FAULTS[name].findings + FAULTS[name].allowed for name in names}
    wrong = [(name, kind) for name in names for kind in told(make_fault, name) if kind not in right[name]]
    return missed, wrong


def test_faults_that_thresholds_were_looked_at_on():
    missed, wrong = counted(DEVELOPMENT)
    assert not missed
    assert not wrong


def test_faults_that_were_held_out():
    missed, wrong = counted(HELD_OUT)
    assert len(missed) <= 2
    assert len(wrong) <= 1


def test_healthy_networks():
    accused = {name: told(make_healthy, name) for name in HEALTHY}
    assert sum(map(bool, accused.values())) <= 1, accused


@pytest.mark.parametrize("name", FAULTS)
def test_truth_by_retraining(name):
    """Taking back the fault mends at least a quarter of the error, and 5 points."""
    error, cured = errors_of([faulty_spec(name), cured_spec(name)])
    assert error - cured > max(5, 0.25 * error)
