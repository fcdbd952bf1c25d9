"""A network without a fault, looked at once for all modules of this folder."""

import pytest

from mdtree_jax.subject.preflight import gather
from tests.numerics import unoptimized
from tests.subject.preflight.problems import cross_entropy, data, fitted, net


@pytest.fixture(scope="session")
def healthy():
    x, y = data()
    with unoptimized():
        return gather(net(), fitted(x, y), x, y, loss=cross_entropy, validation=data(seed=2))
