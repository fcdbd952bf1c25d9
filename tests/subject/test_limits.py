"""Plans of measuring beyond the memory or the time that they may take, and networks that are too large."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdtree_jax import UserError, diagnose_model, measure_model
from mdtree_jax.diagnosis.cost import Training
from mdtree_jax.recipe.cohort import Cohort, Member
from mdtree_jax.recipe.measure_settings import MeasureConfig, resolve
from mdtree_jax.subject import limits as limits_module
from mdtree_jax.subject.experiments import plan as plan_module
from mdtree_jax.subject.experiments.plan import check_experiments, plan_experiments
from mdtree_jax.subject.experiments.spending import Spending
from mdtree_jax.subject.limits import Limits, check_network_fits, check_plan, memory_suffices
from mdtree_jax.subject.network import Examples, wrap


def apply(params, x):
    return jnp.tanh(x @ params["w1"]) @ params["w2"]


def make(hidden, num=400, features=50):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, num)
    x = rng.standard_normal((num, features)).astype(np.float32)

    def params(seed):
        rng = np.random.default_rng(seed)
        shapes = {"w1": (features, hidden), "w2": (hidden, 3)}
        return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}

    return wrap(apply, [params(0), params(1)]), Examples(x, y, x[:20], y[:20])


def planned(subject, data, limits, **config):
    members = tuple(Member(0, seed, len(data.y_train), 1.0, 0.0, 0.0) for seed in (0, 1))
    check_plan(subject, data, Cohort(0, 1, 1, members), resolve(MeasureConfig(**config)), limits)


@pytest.fixture
def is_not_measured(monkeypatch):
    def forbidden(*arguments, **options):
        raise AssertionError("it was measured")

    monkeypatch.setattr("mdtree_jax.subject.measure.measure_cohort", forbidden)


def test_a_plan_beyond_the_memory_says_what_would_fit():
    subject, data = make(20_000)  # a vector of 1 million parameters, 4 MB
    config = {"metrics": ["hessian", "similarity", "connectivity"], "hessian_images": 20, "eigenvalue_steps": 400}
    planned(subject, data, Limits(memory_gb=4), **config)
    message = (
        r"takes at least .* GB of memory on each device, and 0\.\d+ GB may be used: .*metrics: \[(.*)\]\} would fit"
    )
    with pytest.raises(UserError, match=message) as error:
        planned(subject, data, Limits(memory_gb=0.12), **config)
    said = str(error.value).partition("metrics: [")[2].partition("]")[0].split(", ")
    assert "hessian" not in said
    assert "similarity" in said
    planned(subject, data, Limits(memory_gb=0.12), **config | {"metrics": said})
    with pytest.raises(UserError, match=r"the data take 8.*e-05 GB of memory, and 5e-05 GB may be used"):
        planned(subject, data, Limits(memory_gb=5e-5), **config)


def test_a_plan_beyond_the_time_says_what_would_fit(monkeypatch):
    subject, data = make(200)
    machine = limits_module.this_machine("float32")._replace(num_devices=1, flops_per_second=1e7, step_seconds=0.0)
    monkeypatch.setattr(limits_module, "this_machine", lambda dtype: machine)
    config = {"metrics": ["hessian", "similarity", "connectivity"], "curve_steps": 2000, "curve_batch_size": 32}
    planned(subject, data, Limits(max_minutes=1000), **config)
    with pytest.raises(UserError, match=r"measuring takes about .* minutes here, and max_minutes=8") as error:
        planned(subject, data, Limits(max_minutes=8), **config)
    assert str(error.value).endswith("measure={metrics: [hessian, similarity]} would fit")
    planned(subject, data, Limits(max_minutes=8), **config | {"metrics": ["hessian", "similarity"]})
    with pytest.raises(UserError, match="no single one of the metrics fits"):
        planned(subject, data, Limits(max_minutes=0.5), **config)
    # 2000 steps of 32 images, three passes each, of 2 x 200 x 53 operations at 1e7 in a second: 7 minutes.
    minutes = limits_module._minutes(subject, data, Cohort(0, 1, 1, (Member(0, 0, 400, 1.0, 0.0, 0.0),) * 2))
    settings = [resolve(MeasureConfig(["connectivity"], curve_steps=n, curve_batch_size=32)) for n in (2000, 4000)]
    assert minutes(settings[1]) - minutes(settings[0]) == pytest.approx(2000 * 32 * 3 * 21_200 / 1e7 / 60, rel=0.05)


def experiments(cost, hidden=200, learning_rate=0.01, seconds=None):
    subject, data = make(hidden)
    training = Training(learning_rate=learning_rate, batch_size=20, epochs=50)  # 1000 steps
    return plan_experiments(subject, data, training, spending=Spending(cost, seconds))


def test_experiments_beyond_the_time_say_what_would_fit(monkeypatch):
    machine = limits_module.this_machine("float32")._replace(flops_per_second=1e7, step_seconds=0.0)
    machine = machine._replace(bytes_per_second=np.inf, far_bytes_per_second=np.inf)
    monkeypatch.setattr(plan_module, "this_machine", lambda dtype: machine)
    # A training is 1000 steps of 20 examples, three passes each, of 2 x 200 x 53 operations at 1e7 in a second: 2.1
    # minutes; half a minute is for compilation.
    check_experiments(experiments(0.5), Limits(max_minutes=2.5))
    with pytest.raises(UserError, match=r"experiments take about 2\.\d minutes here, measuring about 1, and") as error:
        check_experiments(experiments(1.0), Limits(max_minutes=2.5), 1.0)
    fits = float(str(error.value).partition("cost=")[2].split()[0])
    assert 0.1 < fits < 0.6
    check_experiments(experiments(0.98 * fits), Limits(max_minutes=2.5), 1.0)
    with pytest.raises(UserError, match=r"max_minutes=2\.5: .* cost=0 would fit"):
        check_experiments(experiments(2.0), Limits(max_minutes=2.5), 1.87)
    check_experiments(experiments(0.0), Limits(max_minutes=2.5), 1.87)
    with pytest.raises(UserError, match="evidence=landscape runs none"):
        check_experiments(experiments(0.0), Limits(max_minutes=2.5), 2.4)
    with pytest.raises(UserError, match="experiments take about 2"):
        check_experiments(experiments(1.0, seconds=90.0), Limits(max_minutes=1))


def test_experiments_beyond_the_memory_say_what_would_fit():
    plan = experiments(0.1, hidden=20_000)  # 4 MB a network; the activations of 400 examples, 32 MB
    assert plan.program.names
    probes, none = (one.program.memory_bytes(None) for one in (plan, plan.without_probes()))
    assert probes > none > 8 * 4e6
    check_experiments(plan, Limits(memory_gb=1.01e-9 * probes))
    with pytest.raises(
        UserError, match=r"experiments from the checkpoint take 0\.\d+ GB of memory, .*cost=0 would fit"
    ):
        check_experiments(plan, Limits(memory_gb=1.01e-9 * none))
    with pytest.raises(UserError, match=r"look at fewer examples \(max_images=\)"):
        check_experiments(plan, Limits(memory_gb=0.5e-9 * none))


def test_experiments_are_refused_before_anything_is_measured(monkeypatch, is_not_measured):
    subject, data = make(50)
    networks = [dict(one["params"]) for one in subject.variables]
    sides = {"train": (data.x_train, data.y_train), "test": (data.x_test, data.y_test)}
    training = {"learning_rate": 0.1, "batch_size": 20, "epochs": 10_000_000}
    with pytest.raises(UserError, match="experiments take about"):
        diagnose_model(apply, networks, training=training, max_minutes=10, measure={"metrics": ["hessian"]}, **sides)


def test_networks_that_are_too_large_for_the_machine_are_a_sentence(monkeypatch, is_not_measured):
    subject, data = make(50)
    monkeypatch.setattr(limits_module, "device_memory_bytes", lambda: 10_000)
    message = r"2 networks of 2,650 parameters take at least .* GB of memory, and .* may be used: allow more"
    with pytest.raises(UserError, match=message):
        check_network_fits(subject, data, Limits(), 128)
    with pytest.raises(UserError, match=message):
        diagnose_model(apply, [dict(one["params"]) for one in subject.variables], data.x_train, data.y_train)
    check_network_fits(subject, data, Limits(memory_gb=1), 128)


def test_nothing_is_measured_beyond_the_limits(is_not_measured):
    subject, data = make(20_000)
    networks = [dict(one["params"]) for one in subject.variables]
    sides = (data.x_train, data.y_train)
    with pytest.raises(UserError, match=r"would fit|no single one"):
        measure_model(apply, networks, sides, memory_gb=0.05, measure={"metrics": ["hessian"]})
    with pytest.raises(UserError, match=r"max_minutes=0\.001: allow more"):
        measure_model(apply, networks, sides, max_minutes=0.001, measure={"metrics": ["hessian"]})
    for limits, name in ((Limits(memory_gb=-1), "memory_gb=-1"), (Limits(max_minutes=0), "max_minutes=0")):
        with pytest.raises(UserError, match=f"{name} is out of range; it must be above 0, finite"):
            limits.memory_bytes()


def test_memory_that_runs_out_is_a_sentence():
    for error in (MemoryError(), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")):
        with pytest.raises(UserError, match=r"the memory ran out while measuring .*memory_gb="), memory_suffices():
            raise error
    with pytest.raises(jax.errors.JaxRuntimeError), memory_suffices():
        raise jax.errors.JaxRuntimeError("INTERNAL: another fault")
