"""A value that is missing in one row is missing in that row: no companion tree goes for the others."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdtree_jax import MDTreeClassifier, load_collection
from mdtree_jax.collection.tasks import TASKS
from mdtree_jax.trees import robust

TASK = "optimizer"


@pytest.fixture(scope="module")
def digits():
    frame = load_collection("digits")
    return frame[frame[TASKS[TASK].label].notna()].reset_index(drop=True)


@settings(max_examples=15)
@given(
    source=st.sampled_from(["cka", "mode_connectivity", "log_hessian_max_eigenvalue"]),
    seed=st.integers(0, 99),
    count=st.integers(1, 40),
)
def test_other_rows_keep_their_companions(digits, source, seed, count):
    tree = MDTreeClassifier(TASK).fit(digits)
    rows = np.random.default_rng(seed).choice(len(digits), count, replace=False)
    holes = digits.copy()
    holes.loc[rows, source] = np.nan
    before, after = tree.predict_proba(digits), tree.predict_proba(holes)
    rest = np.setdiff1d(np.arange(len(digits)), rows)
    np.testing.assert_array_equal(before[rest], after[rest])
    # A row that lacks it is answered as in a table of such rows only.
    np.testing.assert_array_equal(after[rows], tree.predict_proba(holes.loc[rows].drop(columns=source)))


def test_a_companion_learns_from_the_rows_that_have_its_features(digits, tmp_path):
    holes = digits.copy()
    holes.loc[:4, "cka"] = np.nan
    whole, fitted = MDTreeClassifier(TASK).fit(digits), MDTreeClassifier(TASK).fit(holes)
    assert [m.name for m in fitted.members_] == [m.name for m in whole.members_]
    with_cka = next(i for i, m in enumerate(fitted.members_) if "cka" in m.features)
    used = holes[5:]
    used = used[used[TASKS[TASK].label] != "optimal"]
    member = fitted.members_[with_cka]
    place = np.argsort(fitted._verdict_to_class)[np.searchsorted(fitted.classes_, used[TASKS[TASK].label])]
    alone = robust.fit_posterior(member, used[list(member.features)].to_numpy(float), place)
    np.testing.assert_array_equal(fitted._average.members[with_cka].marginals[0], alone.marginals[0])
    fitted.save(tmp_path / "tree.json")
    again = MDTreeClassifier.load(tmp_path / "tree.json")
    np.testing.assert_array_equal(again.predict_proba(holes), fitted.predict_proba(holes))
