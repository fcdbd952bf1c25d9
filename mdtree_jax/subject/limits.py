"""What measuring a subject will take, of memory and of time, before it starts; too much is refused. JAX."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from mdtree_jax.checks import UserError
from mdtree_jax.measuring.flops import MeasureCost
from mdtree_jax.measuring.kernels import Data
from mdtree_jax.measuring.programs import OVERESTIMATE, choose, devices_for
from mdtree_jax.models import abstract_inputs, count_activations, count_flops, count_parameters
from mdtree_jax.population.memory import peak_bytes
from mdtree_jax.recipe.cohort import Cohort
from mdtree_jax.recipe.measure_settings import MeasureSettings
from mdtree_jax.runs.jax_backend import device_memory_bytes, this_machine
from mdtree_jax.runs.plan import MEASURE_COMPILE_SECONDS, ModelCost
from mdtree_jax.subject.network import Examples, Subject
from mdtree_jax.training.arrays import num_bytes, one_row, shapes_in, take_rows


class Limits(NamedTuple):
    """What measuring may take.

    Attributes:
        memory_gb: of all devices together, as of a sweep; None is 80 % of accelerators, half of what the host has left.
        max_minutes: of the estimated time here, with compilation; None is any.
    """

    memory_gb: float | None = None
    max_minutes: float | None = None

    def memory_bytes(self) -> int:
        """Return what the devices may hold; raises `UserError` for a limit that is no positive number."""
        for name, value in self._asdict().items():
            if value is not None and not 0.0 < value < math.inf:
                raise UserError(f"{name}={value:g} is out of range; it must be above 0, finite")
        return device_memory_bytes() if self.memory_gb is None else int(1e9 * self.memory_gb)


#: What is there, and any time.
NO_LIMITS = Limits()


def check_network_fits(subject: Subject, data: Examples, limits: Limits, batch_size: int) -> None:
    """Raise `UserError` if the networks and what one batch computes are more than may be used; nothing is computed."""
    room = limits.memory_bytes()
    if limits.memory_gb is None and jax.default_backend() == "cpu":
        room *= 2  # all that is left: half of it is kept for what is measured
    images = abstract_inputs(one_row(shapes_in(data.x_train, "float32")), batch_size)
    network = jax.eval_shape(subject.model.init, jax.random.key(0))
    try:
        program = jax.make_jaxpr(lambda v, x: subject.model.apply(v, x, False)[0])(network, images).jaxpr
    except Exception:  # a user's code may raise anything, and `check_fit` says what
        return
    # Of every network there is a copy in one array for all, and the one on a device.
    needed = 2 * num_bytes(subject.variables) + peak_bytes(program) / OVERESTIMATE
    if needed > room:
        raise UserError(
            f"{len(subject.variables)} networks of {count_parameters(subject.model):,} parameters take at least "
            f"{needed / 1e9:.3g} GB of memory, and {room / 1e9:.3g} GB may be used: allow more (memory_gb=), or "
            "measure fewer networks, or on a larger machine"
        )


def check_plan(subject: Subject, data: Examples, cohort: Cohort, settings: MeasureSettings, limits: Limits) -> float:
    """Raise `UserError`, which says what would fit, if the measurements are planned to take more than their limits.

    Args:
        subject: networks.
        data: what is measured on.
        cohort: of the networks, as `measure_cohort` takes it.
        settings: what is measured.
        limits: what it may take.

    Returns:
        The minutes that it takes about, 0 where they are not limited.
    """
    if limits.memory_gb is not None:
        _check_memory(subject, data, settings, limits.memory_bytes())
    if limits.max_minutes is None:
        return 0.0
    return _check_time(subject, data, cohort, settings, limits.max_minutes)


def _check_memory(subject: Subject, data: Examples, settings: MeasureSettings, budget: int) -> None:
    sides = Data(*shapes_in((data.x_train, data.y_train, data.x_test, data.y_test), "float32"))
    devices, left = devices_for(budget, num_bytes(sides))

    def refusal(metrics: tuple[str, ...]) -> UserError | None:
        chosen = settings.with_metrics(metrics)
        try:
            choose(subject.model, sides, chosen, left, devices[0].platform, subject.objective)
        except UserError as error:
            return error
        return None

    if left <= 0:
        raise UserError(
            f"the data take {num_bytes(sides) / 1e9:.3g} GB of memory, and {budget / 1e9:.3g} GB may be used: allow "
            "more (memory_gb=), or look at fewer images (max_images=)"
        )
    if error := refusal(settings.metrics):
        raise UserError(f"{error}; {_would_fit([m for m in settings.metrics if not refusal((m,))])}") from error


def _check_time(
    subject: Subject, data: Examples, cohort: Cohort, settings: MeasureSettings, max_minutes: float
) -> float:
    minutes = _minutes(subject, data, cohort)
    whole = minutes(settings)
    if whole <= max_minutes:
        return whole
    fitting: list[str] = []
    for metric in sorted(settings.metrics, key=lambda m: minutes(settings.with_metrics((m,)))):
        if minutes(settings.with_metrics((*fitting, metric))) <= max_minutes:
            fitting.append(metric)
    ordered = [metric for metric in settings.metrics if metric in fitting]
    raise UserError(
        f"measuring takes about {whole:.2g} minutes here, and max_minutes={max_minutes:g}: allow more, or measure with "
        f"effort=fast or fewer curve_steps ({settings.curve_steps}), or fewer metrics; {_would_fit(ordered)}"
    )


def _would_fit(metrics: list[str]) -> str:
    return f"measure={{metrics: [{', '.join(metrics)}]}} would fit" if metrics else "no single one of the metrics fits"


def _minutes(subject: Subject, data: Examples, cohort: Cohort) -> Callable[[MeasureSettings], float]:
    """Return how long measuring with some settings takes, in minutes; as the plan of a sweep."""
    cost, machine = cost_of(subject, data), this_machine("float32")
    per_pass = machine.step(cost, 128) / (3 * 128) / machine.num_devices
    evaluated = len(subject.variables) * (len(data.y_train) + len(data.y_test))

    def minutes(settings: MeasureSettings) -> float:
        passes = MeasureCost(settings, cost.forward_flops, len(data.y_test)).cohort_passes(cohort)
        return ((passes + evaluated) * per_pass + MEASURE_COMPILE_SECONDS) / 60

    return minutes


def cost_of(subject: Subject, data: Examples) -> ModelCost:
    """Return what one network takes, computing none."""
    one = one_row(shapes_in(take_rows(data.x_train, slice(1)), "float32"))
    activations = 4 * count_activations(subject.model, one, 1)
    sizes = count_parameters(subject.model), num_bytes(subject.variables[0])
    return ModelCost(*sizes, count_flops(subject.model, one), activations)


@contextlib.contextmanager
def memory_suffices(
    while_: str = "measuring", instead: str = "measure fewer metrics, or fewer images (max_images=)"
) -> Iterator[None]:
    """Turn memory that runs out while something is done into a `UserError`, which says what to do instead."""
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        said: Any = " ".join(str(error).split())
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in said:
            raise
        raise UserError(
            f"the memory ran out while {while_} ({said[:120] or 'the host has no more'}): plan with less "
            f"(memory_gb=), {instead}"
        ) from error
