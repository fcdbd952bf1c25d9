"""The scale `rank`: what it may depend on, and what it must leave alone."""

import numpy as np
import pandas as pd
import pytest

from mdtree_jax import UserError
from mdtree_jax.collection.ranks import at_ranks_of
from mdtree_jax.experiments.suite import transfer

METRICS = ["train_error", "train_loss", "test_loss", "mode_connectivity_peak", "mode_connectivity", "cka"]
METRICS += ["log_hessian_trace", "log_hessian_max_eigenvalue"]
SETUP = {
    "mode": "all",
    "tasks": ["optimizer", "size"],
    "methods": ["md_tree", "validation"],
    "seeds": [42],
    "k": [2, 8],
}


def test_any_rising_change_of_the_test_side_leaves_every_answer(F, F_noise):
    changed = F_noise.assign(**{name: np.arctan(F_noise[name]) / 50 - 3 for name in METRICS})
    changed.attrs.update(F_noise.attrs)
    plain, other = (transfer(F, test, scale="rank", **SETUP) for test in (F_noise, changed))
    pd.testing.assert_frame_equal(plain.results, other.results)
    pd.testing.assert_frame_equal(plain.one_step, other.one_step)
    assert not transfer(F, changed, **SETUP).results.equals(plain.results)


def test_gains_are_those_of_the_test_side_itself(F, F_noise):
    raw, ranked = (
        transfer(F, F_noise, scale=scale, **SETUP | {"mode": "one_step"}).one_step for scale in ("raw", "rank")
    )
    by_method = [dict(list(rows.groupby("method"))) for rows in (raw, ranked)]
    pd.testing.assert_frame_equal(by_method[0]["oracle"], by_method[1]["oracle"])
    assert not by_method[0]["md_tree"].equals(by_method[1]["md_tree"])


def test_a_collection_has_its_own_ranks(F):
    same = at_ranks_of(F, F)
    for name in F.select_dtypes("number"):
        alone = ~F[name].duplicated(keep=False)  # equal values share their average rank, which lies between two
        assert np.allclose(same[name][alone], F[name][alone], rtol=1e-9, atol=1e-9), name
    pd.testing.assert_series_equal(same["width"], F["width"])
    pd.testing.assert_series_equal(same["rfi_width"], F["rfi_width"])


def test_missing_values_stay_missing_and_take_no_rank():
    train, test = pd.DataFrame({"cka": [0.1, 0.5, np.nan]}), pd.DataFrame({"cka": [7.0, np.nan, 9.0]})
    assert at_ranks_of(train, test)["cka"].tolist() == pytest.approx([0.1, np.nan, 0.5], nan_ok=True)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"scale": "ranks"}, "unknown scale 'ranks' .*available: raw, rank"),
        ({"tasks": ["joint"], "methods": None}, "scale=rank supports the tasks optimizer, size and data"),
        ({"test": None}, "scale=rank needs another collection, test="),
    ],
)
def test_where_there_are_no_ranks(F, F_noise, changed, message):
    setup = {"train": F, "test": F_noise, "scale": "rank"} | SETUP | changed
    with pytest.raises(UserError, match=message):
        transfer(setup.pop("train"), setup.pop("test"), **setup)
