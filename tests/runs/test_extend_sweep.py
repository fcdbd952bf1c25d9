"""A real sweep that grows ends with the tables of a fresh one, to the last bit where the executor is the same."""

import pandas as pd
import pytest

from mdtree_jax import lowering, sweep
from mdtree_jax.cli import compose

SMALL = [
    *("+grid=digits_tiny", "grid.model=mlp", "grid.width=[4]", "grid.batch_size=[32]", "grid.data_fraction=[0.3]"),
    *("grid.learning_rate=[0.1]", "grid.train_epochs=[2]", "grid.num_seeds=2"),
    *("grid.measure.effort=fast", "grid.measure.curve_steps=20", "grid.measure.similarity_images=64"),
    "grid.measure.metrics=[sharpness]",
]
GROWN = ["grid.width=[4,8]", "grid.num_seeds=4", "grid.measure.metrics=[sharpness,similarity]"]
LARGE = ["grid.width=[4,8]", "grid.num_seeds=4", "grid.learning_rate=[0.05,0.1]"]
ALL = "grid.measure.metrics=[hessian,sharpness,similarity,barrier,connectivity]"


def tables(path):
    for name in ("members", "pairs", "layers", "collection"):
        table = pd.read_parquet(path / f"{name}.parquet")
        yield table[[column for column in table if not column.endswith("_seconds")]]


@pytest.mark.parametrize(
    ("grown", "said", "done"),
    [
        (GROWN, "metrics + similarity): 2 trained networks are kept and 6 are added", "2 configurations, 8 networks"),
        pytest.param(
            [*LARGE, ALL],
            "metrics + hessian, similarity, barrier, connectivity): 2 trained networks are kept and 14 are added",
            "4 configurations, 16 networks",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["small", "large"],
)
def test_a_sweep_that_grows_ends_with_the_tables_of_a_fresh_one(tmp_path, monkeypatch, capsys, grown, said, done):
    monkeypatch.chdir(tmp_path)
    row = lowering.TABLE["cpu"]._replace(lane_bytes=0)  # one lane, whatever the number of networks
    monkeypatch.setitem(lowering.TABLE, "cpu", row)
    assert sweep.main(compose("sweep", [*SMALL, "out=steps"])) == 0
    assert sweep.main(compose("sweep", [*SMALL, *grown, "out=steps", "dry_run=true"])) == 0
    assert "steps would be extended (width [4] -> [4, 8];" in capsys.readouterr().out
    assert sweep.main(compose("sweep", [*SMALL, *grown, "out=steps"])) == 0
    out = capsys.readouterr().out
    assert said in out
    assert f"{done}; 2 cohorts trained and 2 measured" in out
    assert sweep.main(compose("sweep", [*SMALL, *grown, "out=fresh"])) == 0
    for steps, fresh in zip(tables(tmp_path / "steps"), tables(tmp_path / "fresh"), strict=True):
        pd.testing.assert_frame_equal(steps, fresh, check_exact=True)
