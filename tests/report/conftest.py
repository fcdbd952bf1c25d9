import pytest

from mdtree_jax import diagnose_metrics
from mdtree_jax.diagnosis.reference import default_reference
from tests.report.pages import ROWS


@pytest.fixture(scope="session")
def reference():
    return default_reference()


@pytest.fixture(scope="session")
def diagnoses(reference):
    training = {"batch_size": 64, "learning_rate": 0.1, "epochs": 30}
    return {name: diagnose_metrics(row, reference, "percent", training)[0] for name, row in ROWS.items()}
