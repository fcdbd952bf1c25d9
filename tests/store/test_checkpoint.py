"""Checkpoints: whole populations, one member alone, the state inside a cohort, a full disk."""

import errno

import numpy as np
import pandas as pd
import pytest

from mdtree_jax.checks import UserError
from mdtree_jax.store import checkpoint


def population(members=3, dtype=np.float32):
    rng = np.random.default_rng(0)
    return {
        "params": {
            "conv": {"kernel": rng.standard_normal((members, 3, 3, 2, 4)).astype(dtype)},
            "dense": {
                "kernel": rng.standard_normal((members, 4, 10)).astype(dtype),
                "bias": np.zeros((members, 10), dtype),
            },
        },
        "batch_stats": {"mean": rng.standard_normal((members, 4)).astype(dtype)},
    }


def assert_same_tree(a, b):
    assert isinstance(a, dict) == isinstance(b, dict)
    if isinstance(a, dict):
        assert sorted(a) == sorted(b)
        for key in a:
            assert_same_tree(a[key], b[key])
    else:
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_population_and_each_member_alone(tmp_path, dtype, monkeypatch):
    variables, members = population(dtype=dtype), [(7, 0), (7, 1), (9, 0)]
    path = tmp_path / "checkpoints" / "w2-b16-e5"
    checkpoint.save_population(path, population(5), [(i, 0) for i in range(5)])  # is replaced
    checkpoint.save_population(path, variables, members)
    loaded, order = checkpoint.load_population(path)
    assert order == members
    assert_same_tree(loaded, variables)
    for group_bytes in (1, 300, 2**30):  # one array at a time, a few, all
        monkeypatch.setattr(checkpoint, "_GROUP_BYTES", group_bytes)
        alone = checkpoint.load_member(path, 9, 0)
        np.testing.assert_array_equal(alone["params"]["dense"]["kernel"], variables["params"]["dense"]["kernel"][2])
        np.testing.assert_array_equal(alone["batch_stats"]["mean"], variables["batch_stats"]["mean"][2])
        assert alone["params"]["conv"]["kernel"].dtype == dtype
    with pytest.raises(UserError, match="no network of configuration 9 and seed 1"):
        checkpoint.load_member(path, 9, 1)


def test_network_by_configuration_and_seed(tmp_path):
    rows = pd.DataFrame(
        {
            "configuration": [0, 0, 1, 1],
            "seed": [0, 1, 0, 1],
            "cohort": ["a", "a", "b", "b"],
            "width": [2, 2, 4, 4],
            "data_fraction": [0.1, 0.1, 0.3, 0.3],
        }
    )
    rows.to_parquet(tmp_path / "members.parquet")
    variables = population(2)
    checkpoint.save_population(tmp_path / "checkpoints" / "b", variables, [(1, 0), (1, 1)])
    network, row = checkpoint.load_network(tmp_path, seed=1, width=4, data_fraction=0.1 + 0.2)
    assert row["configuration"] == 1
    np.testing.assert_array_equal(network["batch_stats"]["mean"], variables["batch_stats"]["mean"][1])
    for selection, message in (
        ({"width": 3}, "0 networks of .* have width=3, seed=1; expected exactly one"),
        ({"depth": 3}, "unknown column 'depth'; available: configuration, seed"),
        ({"width": 2}, "no checkpoint of cohort a: it was run with keep=metrics_only"),
    ):
        with pytest.raises(UserError, match=message):
            checkpoint.load_network(tmp_path, seed=1, **selection)


def test_state_inside_a_cohort(tmp_path):
    path = tmp_path / "unfinished" / "w2-b16-e5"
    assert checkpoint.load_state(path) is None
    state = {
        "lanes/0/w": np.arange(6.0).reshape(2, 3),
        "a.b": np.zeros((0, 4), np.int32),
        "is_done": np.array([True, False]),
        "key": np.array([2**32 - 1], np.uint32),
    }
    for epoch in (10, 20):
        checkpoint.save_state(path, {**state, "epoch": np.int64(epoch)})
    for _ in range(2):
        loaded = checkpoint.load_state(path)
        assert list(loaded) == [*state, "epoch"]
        assert loaded["epoch"] == 20
        for name, array in state.items():
            assert loaded[name].dtype == array.dtype
            np.testing.assert_array_equal(loaded[name], array)
        if path.exists():  # as if killed between the two renames
            path.rename(path.with_name(path.name + ".old"))
    description = path.with_name(path.name + ".old") / "state" / "_METADATA"
    description.write_text(description.read_text()[:50])
    assert checkpoint.load_state(path) is None


def test_a_damaged_checkpoint_is_one_sentence(tmp_path):
    path = tmp_path / "c"
    checkpoint.save_population(path, population(), [(0, 0), (0, 1), (0, 2)])
    description = path / "state" / "_METADATA"
    description.write_text(description.read_text()[:50])
    with pytest.raises(UserError, match="is damaged"):
        checkpoint.load_population(path)
    with pytest.raises(UserError, match="is not a checkpoint"):
        checkpoint.load_population(tmp_path / "nothing")


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise ValueError("write failed") from error

    monkeypatch.setattr(checkpoint, "_save", full)
    with pytest.raises(UserError, match="no space left on the disk; finished work is intact"):
        checkpoint.save_population(tmp_path / "c", population(), [(0, 0), (0, 1), (0, 2)])


def test_what_does_not_fit_is_not_begun(tmp_path, monkeypatch, capfd):
    members, free = [(0, 0), (0, 1), (0, 2)], [2**30]
    usage = type("Usage", (), {"total": 2**40, "free": property(lambda self: free[0])})
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: usage())
    checkpoint.save_population(tmp_path / "fits", population(), members)
    free[0] = 1000
    with pytest.raises(UserError, match="no space left on the disk; finished work is intact"):
        checkpoint.save_population(tmp_path / "c", population(), members)
    assert not list(tmp_path.glob("c*"))
    assert capfd.readouterr().err == ""
