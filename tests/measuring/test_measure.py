"""Measuring of cohorts: chunks, company, resume, diverged members, devices, compilations."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from mdtree_jax.checks import UserError
from mdtree_jax.measuring import curves as curve_blocks
from mdtree_jax.measuring import measure as measure_module
from mdtree_jax.measuring.programs import Choices
from mdtree_jax.models import Model, build_model, count_flops
from mdtree_jax.recipe.measure_settings import resolve
from tests.measuring.cohorts import (
    BUDGET,
    CLASSES,
    CONFIG,
    SETTINGS,
    SHAPE,
    WIDTH,
    assert_same,
    make_cohort,
    measure,
    without_seconds,
)

pytestmark = pytest.mark.usefixtures("float64")


def test_networks_side_by_side_are_those_one_after_the_other(cohort, data, measured, monkeypatch):
    """The way of an accelerator: lanes of several networks, and the products of a block at once.

    Six networks and pairs in chunks of two lanes on each of two devices: the last chunk is filled up.
    """
    assert len(jax.devices()) == 2
    choices = Choices(5, True, True, 2, 10, 16)
    monkeypatch.setattr(measure_module, "choose", lambda *arguments: choices)
    found = measure(*cohort, data)
    assert found.choices == choices._asdict()
    assert_same(found, measured, rtol=1e-6, atol=1e-8)


def test_a_network_is_measured_the_same_alone_and_in_any_company(cohort, data, measured):
    whole, variables = cohort
    keep = [row for row, member in enumerate(whole.members) if member.seed != 1 and member.index == 1]
    part = dataclasses.replace(whole, members=tuple(whole.members[row] for row in keep))
    alone = measure(part, jax.tree.map(lambda leaf: leaf[keep], variables), data)
    members = measured.members.query("configuration == 1 and seed != 1").reset_index(drop=True)
    np.testing.assert_allclose(without_seconds(alone.members), without_seconds(members), rtol=1e-9, atol=1e-12)
    pair = measured.pairs.query("configuration == 1 and seed_a == 0 and seed_b == 2").iloc[0]
    for name in ("cka", "barrier", "aligned_barrier_loss", "mode_connectivity_peak", "mode_connectivity"):
        assert alone.pairs[name].iloc[0] == pytest.approx(pair[name], rel=1e-9, abs=1e-12)


def test_no_device_repeats_what_another_does(cohort, data, measured, monkeypatch):
    """Two networks are one pair: both devices measure a network, one the pair, with the threads of the other."""
    whole, variables = cohort
    used, make = {}, measure_module.program_of

    def program_of(stage, model, settings, mesh, *rest):
        used[stage] = mesh.size
        return make(stage, model, settings, mesh, *rest)

    monkeypatch.setattr(measure_module, "program_of", program_of)
    part = dataclasses.replace(whole, members=whole.members[:2])
    found = measure(part, jax.tree.map(lambda leaf: leaf[:2], variables), data)
    assert used == {"hessian": 2, "sharpness": 2, "similarity": 2, "barrier": 1, "connectivity": 1}
    pair = measured.pairs.query("configuration == 0 and seed_a == 0 and seed_b == 1").iloc[0]
    for name in ("cka", "barrier", "aligned_barrier_loss", "mode_connectivity_peak"):
        assert found.pairs[name].iloc[0] == pytest.approx(pair[name], rel=1e-9, abs=1e-12)


def test_a_diverged_network_is_nan_and_harms_no_other(cohort, data, measured):
    whole, variables = cohort
    broken = jax.tree.map(
        lambda leaf: np.where(np.arange(6).reshape(6, *[1] * (leaf.ndim - 1)) == 1, np.nan, leaf), variables
    )
    found = measure(whole, broken, data, is_finite=[True, False, True, True, True, True])
    assert found.members.iloc[1].drop(["configuration", "seed"]).isna().all()
    rest = [0, 2, 3, 4, 5]
    np.testing.assert_array_equal(
        without_seconds(found.members).iloc[rest], without_seconds(measured.members).iloc[rest]
    )
    assert found.pairs["configuration"].tolist() == [0, 1, 1, 1]
    np.testing.assert_allclose(found.pairs["cka"].iloc[1:], measured.pairs["cka"].iloc[3:], rtol=1e-12)
    # Marked finite, its own numbers are NaN, and the programs end.
    marked = measure(whole, broken, data)
    assert np.isnan(
        marked.members.loc[1, ["hessian_trace", "hessian_max_eigenvalue", "ball_sharpness"]].astype(float)
    ).all()
    np.testing.assert_array_equal(
        without_seconds(marked.members).iloc[rest], without_seconds(measured.members).iloc[rest]
    )


def test_the_given_networks_are_looked_at_before_anything_runs(cohort, data, monkeypatch):
    model = build_model("mlp", WIDTH, CLASSES, SHAPE, "float64")

    def apply(variables, x, train):
        """Depend on the rest of the batch, but not as long as a bias is at its initial 0."""
        logits, intermediates, statistics = model.apply(variables, x, train)
        return logits + variables["params"]["BatchNorm_0"]["bias"].sum() * x.mean(), intermediates, statistics

    monkeypatch.setattr(measure_module, "model_of", lambda *_: Model(model.init, apply))
    with pytest.raises(UserError, match="depends on the other examples"):
        measure(*cohort, data)
    broken = jax.tree.map(lambda leaf: np.concatenate([np.full_like(leaf[:1], np.nan), leaf[1:]]), cohort[1])
    with pytest.raises(UserError, match="depends on the other examples"):
        measure(cohort[0], broken, data)


def test_a_cohort_without_a_finite_network_has_no_metrics(cohort, data, measured):
    whole, variables = cohort
    found = measure(whole, variables, data, is_finite=[False] * 6)
    assert found.members["configuration"].tolist() == [0, 0, 0, 1, 1, 1]
    assert list(found.members) == ["configuration", "seed"]
    assert not len(found.pairs)
    assert not len(found.layers)


def test_networks_without_a_second_have_no_pairs(cohort, data, measured):
    whole, variables = cohort
    keep = [row for row, member in enumerate(whole.members) if member.seed == 1]
    part = dataclasses.replace(whole, members=tuple(whole.members[row] for row in keep))
    found = measure(part, jax.tree.map(lambda leaf: leaf[keep], variables), data)
    assert not len(found.pairs)
    expected = measured.members.query("seed == 1").reset_index(drop=True)
    np.testing.assert_allclose(found.members["ball_sharpness"], expected["ball_sharpness"], rtol=1e-9)


def test_interrupted_anywhere_the_tables_are_the_same(cohort, data, measured):
    saved = []

    def stop_after(count):
        def checkpoint(state):
            saved.append(state)
            if len(saved) == count:
                raise KeyboardInterrupt

        return checkpoint

    resume = None
    for _ in range(3):
        saved.clear()
        with pytest.raises(KeyboardInterrupt):
            measure(*cohort, data, checkpoint=stop_after(4), checkpoint_seconds=0.0, resume=resume)
        resume = saved[-1]
    fractions = []
    again = measure(*cohort, data, resume=resume, progress=lambda fraction, message: fractions.append(fraction))
    assert_same(again, measured, rtol=0, atol=0)
    assert fractions[0] > 0.2
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1.0)
    other = dataclasses.replace(cohort[0], members=cohort[0].members[:3])
    with pytest.raises(UserError, match="not of cohort w6-b8-e1"):
        measure(other, jax.tree.map(lambda leaf: leaf[:3], cohort[1]), data, resume=resume)


def test_curves_that_take_long_are_cut_and_can_be_taken_up(cohort, data, measured, monkeypatch):
    model = build_model("mlp", WIDTH, CLASSES, SHAPE, "float64")
    flops = 3 * SETTINGS.curve_batch_size * count_flops(model, SHAPE, "float64")
    monkeypatch.setattr(curve_blocks, "CURVE_BLOCK_FLOPS", 2 * flops)  # five steps in calls of two
    run = functools.partial(measure, *cohort, data, settings=SETTINGS.with_metrics(("connectivity",)))
    names = ["mode_connectivity", "mode_connectivity_peak"]
    saved, fractions = [], []

    def stop(state):
        saved.append(state)
        if state.get("curves/0000") is not None:
            raise KeyboardInterrupt

    for step in (2, 4):
        resume = saved[-1] if saved else None
        with pytest.raises(KeyboardInterrupt):
            run(checkpoint=stop, checkpoint_seconds=0.0, resume=resume)
        steps = [array for array in saved[-1].values() if array.ndim == 1 and array.dtype == np.int32 and len(array)]
        assert any((array == step).all() for array in steps)
        assert saved[-1]["curve_seconds"] > 0
    again = run(resume=saved[-1], progress=lambda fraction, message: fractions.append(fraction))
    np.testing.assert_array_equal(again.pairs[names], measured.pairs[names])
    assert fractions == sorted(fractions)
    assert (again.pairs["connectivity_seconds"] > 0).all()
    # On another number of devices the curves under training start over.
    there = {name: array[:1] if name.startswith("curves/") else array for name, array in saved[-1].items()}
    elsewhere = run(resume=there | {"devices/number": np.asarray(1 + len(jax.devices()))})
    np.testing.assert_array_equal(elsewhere.pairs[names], measured.pairs[names])
    # Side by side, three at a time, as on an accelerator.
    monkeypatch.setattr(measure_module, "choose", lambda *arguments: Choices(20, True, False, 3, 20, 64))
    np.testing.assert_allclose(run().pairs[names], measured.pairs[names], rtol=1e-9, atol=1e-9)


def test_a_cohort_goes_on_as_it_was_begun(cohort, data, monkeypatch):
    def stop(state):
        raise RuntimeError(state)

    run = functools.partial(measure, *cohort, data, settings=SETTINGS.with_metrics(("sharpness",)))
    with pytest.raises(RuntimeError) as stopped:
        run(checkpoint=stop, checkpoint_seconds=0.0)
    saved, begun = stopped.value.args[0], run().choices
    monkeypatch.setattr(measure_module, "choose", lambda *arguments: Choices(5, False, False, 1, 5, 16))
    assert run(resume=saved, memory_budget_bytes=BUDGET * 2 // 3).choices == begun
    assert run(resume=saved, memory_budget_bytes=BUDGET // 3).choices != begun
    assert run(resume=saved | {"devices/number": saved["devices/number"] + 1}).choices != begun


def test_one_compilation_a_program_and_none_the_second_time(data, measured):
    # Hessian, sharpness, outputs, their similarities, barrier (aligned too), curve
    assert measured.num_compilations == 6
    cohort, variables = make_cohort()
    assert measure(cohort, variables, data).num_compilations == 0
    other = dataclasses.replace(cohort, batch_size=4)
    assert measure(other, variables, data).num_compilations == 0


def test_some_metrics_alone(cohort, data, measured):
    found = measure(*cohort, data, settings=resolve(dataclasses.replace(CONFIG, metrics=["sharpness"])))
    assert "hessian_trace" not in found.members
    np.testing.assert_allclose(found.members["ball_sharpness"], measured.members["ball_sharpness"])
    assert not len(found.pairs)
    assert not len(found.layers)
