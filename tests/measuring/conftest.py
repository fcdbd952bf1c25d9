"""A cohort that is measured once for all modules of this folder."""

import pytest

from tests.measuring.cohorts import make_cohort, make_data, measure
from tests.numerics import quick_float64


@pytest.fixture(scope="module")
def float64():
    """Have the programs of a module compute in float64."""
    with quick_float64():
        yield


@pytest.fixture(scope="session")
def data():
    """Return the images that the networks of `cohort` are measured on."""
    return make_data()


@pytest.fixture(scope="session")
def cohort():
    """Return a cohort and its networks."""
    with quick_float64():
        return make_cohort()


@pytest.fixture(scope="session")
def measured(cohort, data):
    """Return all that is measured of `cohort`."""
    with quick_float64():
        return measure(*cohort, data)
