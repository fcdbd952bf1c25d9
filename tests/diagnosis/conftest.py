import pytest

from mdtree_jax.diagnosis.reference import default_reference


@pytest.fixture(scope="session")
def reference():
    """Return the packaged reference F."""
    return default_reference()
