"""The metrics of a subject as one row of a table, with standard errors and what they cost. JAX.

The kernels are those of a sweep (`measuring.measure`): the subject is a cohort of one configuration.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from mdtree_jax.checks import UserError
from mdtree_jax.diagnosis.facts import Fact, fact
from mdtree_jax.measuring.measure import measure_cohort
from mdtree_jax.measuring.tables import MeasuredCohort
from mdtree_jax.models import count_flops
from mdtree_jax.population.executor import compiler_options
from mdtree_jax.recipe.cohort import Cohort, Member, Recipe
from mdtree_jax.recipe.measure_settings import MeasureSettings
from mdtree_jax.registry.kernels import BETWEEN_CHOICES, KERNELS, PAIR_CHOICES
from mdtree_jax.registry.objectives import find_objective
from mdtree_jax.store.tables import COST_COLUMNS, MEMBER_COLUMNS, OK, collect
from mdtree_jax.subject.adapted import unlike_averages
from mdtree_jax.subject.limits import NO_LIMITS, Limits, check_network_fits, check_plan, memory_suffices
from mdtree_jax.subject.network import Examples, Subject, check_fit, tried_inputs
from mdtree_jax.training import chance_error, evaluate
from mdtree_jax.training.arrays import num_bytes, one_row, take_rows

EVALUATION_BATCH = 128
#: Share of the error of guessing from which a network has learned next to nothing.
NEAR_GUESSING = 0.9
#: Kinds of targets whose error is a share of examples, or of what is in them, that is counted.
COUNTED = ("class", "tokens", "binary", "labels")
SAMPLE_SEED = 0


class Measured(NamedTuple):
    """What was measured of a subject.

    Attributes:
        row: metric -> value, `<metric>_se` -> standard error; columns as of a collection.
        notes: facts on what could not be measured, and on samples, of `facts.NOTES`.
        seconds: of the wall, without the compilation of programs.
        compile_seconds: of that.
        flops: operations of all measurements.
        forward_flops: operations of one image's forward pass.
        doubt: why nothing should be concluded from it, of `facts.REASONS`; None if nothing speaks against.
    """

    row: dict[str, float]
    notes: list[Fact]
    seconds: float
    compile_seconds: float
    flops: float
    forward_flops: float
    doubt: Fact | None


class Prepared(NamedTuple):
    """A subject that can be measured: it was checked, and what is planned fits.

    Attributes:
        subject, settings, data: as they are measured, without what is not possible.
        num_outputs: of the networks.
        cohort: of the networks; `sides` are its examples, a test set of one where there is none.
        num_images: of the training set on which errors are evaluated, the first ones, of `num_all`.
        budget: bytes of memory.
        notes: facts on what could not be measured, and on samples.
        seconds, checking: of the wall until here, and of checks therein, compilation almost all of them.
        minutes: that measuring takes about; 0 where they are not limited.
    """

    subject: Subject
    settings: MeasureSettings
    data: Examples
    num_outputs: int
    cohort: Cohort
    sides: Examples
    num_images: int
    num_all: int
    budget: int
    notes: list[Fact]
    seconds: float
    checking: float
    minutes: float


def measure_subject(
    subject: Subject,
    data: Examples,
    settings: MeasureSettings,
    *,
    progress: Callable[[float, str], None] | None = None,
    **options: Any,
) -> Measured:
    """Return the metrics of a subject; arguments and errors are those of `prepare` and `measure_prepared`."""
    return measure_prepared(prepare(subject, data, settings, **options), progress)


@memory_suffices()
def prepare(
    subject: Subject,
    data: Examples,
    settings: MeasureSettings,
    *,
    max_images: int = 10_000,
    in_random_order: bool = False,
    limits: Limits = NO_LIMITS,
) -> Prepared:
    """Return what will be measured; nothing is measured yet.

    Args:
        subject: one network or more; metrics of pairs need two.
        data: images as the model takes them.
        settings: what to measure and how finely.
        max_images: of the training and of the test set on which errors and points between networks are evaluated, a
            random sample with a fixed seed. Curves are trained on all training images that fit into memory: on a sample
            they would find less to fit, and a path where there is none.
        in_random_order: whether the training images are, as those of a run folder. Kernels look at the first images and
            at consecutive ones, which of images sorted by label would be of one class: others are shuffled.
        limits: of memory and time.

    Raises:
        UserError: as `check_fit`; settings that leave nothing to measure; a plan beyond the limits, or networks too
            large for the machine.
    """
    if isinstance(max_images, bool) or not isinstance(max_images, Integral) or max_images < 1:
        raise UserError(f"max_images={max_images!r} is out of range; it must be a whole number of at least 1")
    check_network_fits(subject, data, limits, EVALUATION_BATCH)
    budget = limits.memory_bytes()
    start = time.perf_counter()
    num_outputs = check_fit(subject, data)
    checking = time.perf_counter() - start  # compilation almost all of it, on a few images
    notes: list[Fact] = []
    notes += [fact("taken_in", sentence=sentence) for sentence in subject.notes]
    if strange := unlike_averages(subject, tried_inputs(data)):
        subject = subject._replace(can_recompute=False)
    settings = _possible(subject, settings, notes, strange)
    used, num_images = _used(data, settings, max_images, notes, budget, shuffle=not in_random_order)
    settings = _for_images(settings, num_images, len(used.y_train))
    cohort, sides = _as_cohort(subject, used)
    minutes = check_plan(subject, sides, cohort, settings, limits)
    seconds = time.perf_counter() - start
    known = num_images, len(data.y_train), budget, notes, seconds, checking, minutes
    return Prepared(subject, settings, used, num_outputs, cohort, sides, *known)


@memory_suffices()
def measure_prepared(prepared: Prepared, progress: Callable[[float, str], None] | None = None) -> Measured:
    """Return the metrics of a subject.

    Args:
        prepared: what is measured.
        progress: called with the fraction done and a message.

    Raises:
        UserError: a network whose loss is not finite, memory that runs out.
    """
    subject, settings, used, num_images = prepared.subject, prepared.settings, prepared.data, prepared.num_images
    start = time.perf_counter() - prepared.seconds
    notes = list(prepared.notes)
    evaluated = used._replace(x_train=take_rows(used.x_train, slice(num_images)), y_train=used.y_train[:num_images])
    errors, evaluation_compile = _evaluate(subject, evaluated)
    recipe = Recipe("", subject.architecture, prepared.num_outputs, (), objective=subject.objective)
    found = measure_cohort(
        recipe,
        prepared.cohort,
        prepared.sides,
        jax.tree.map(lambda *leaves: np.stack(leaves), *subject.variables),
        [True] * len(prepared.cohort.members),
        settings,
        memory_budget_bytes=prepared.budget,
        model=subject.model,
        progress=_named(progress),
    )
    if len(errors) == 2 and (pair_metrics := [name for name in settings.metrics if name in PAIR_CHOICES]):
        notes.append(fact("one_pair", kernels=pair_metrics))
    row = _row_of(found, errors)
    if find_objective(subject.objective).targets in COUNTED:
        _add_sampling_error(row, num_images, prepared.num_all)
    compile_seconds = found.compile_seconds + evaluation_compile + prepared.checking
    forward = float(count_flops(subject.model, one_row(used.x_train)))
    flops = sum(float(t[c].sum()) for t in (found.members, found.pairs) for c in t if str(c).endswith("_flops"))
    flops += forward * len(subject.variables) * (num_images + len(used.y_test))
    seconds = time.perf_counter() - start - compile_seconds
    doubt = _doubt(errors, chance_error(subject.objective, used.y_train))
    return Measured(row, notes, seconds, compile_seconds, flops, forward, doubt)


def _used(
    data: Examples, settings: MeasureSettings, max_images: int, notes: list[Fact], budget: int, shuffle: bool
) -> tuple[Examples, int]:
    """Return the examples that are held, and on how many of the training ones errors are evaluated, the first ones.

    What is a sample is said in `notes`.
    """
    num_all = len(data.y_train)
    num_held = min(num_all, max(max_images, _num_that_fit(data.x_train, budget)))
    num_images = min(num_all, max_images)
    if num_images < num_all:
        notes.append(fact("sampled_errors", side="training", images=num_images, of=num_all))
    if num_held < num_all and any("curve" in KERNELS[metric].needs for metric in settings.metrics):
        notes.append(fact("sampled_curves", images=num_held, of=num_all))
    used = Examples(
        *_sample(data.x_train, data.y_train, num_held, shuffle),
        *_sample(data.x_test, data.y_test, max_images),
    )
    if len(used.y_test) < len(data.y_test):
        notes.append(fact("sampled_errors", side="test", images=max_images, of=len(data.y_test)))
    return used, num_images


def _for_images(settings: MeasureSettings, num_images: int, num_held: int) -> MeasureSettings:
    """Return the settings for `num_images` images to evaluate errors on, of `num_held` that curves are trained on."""
    settings = _no_image_twice(settings, num_images)
    if num_images < num_held:
        most = num_images if settings.evaluation_images is None else min(num_images, settings.evaluation_images)
        settings = dataclasses.replace(settings, evaluation_images=most)
    return settings


def _as_cohort(subject: Subject, used: Examples) -> tuple[Cohort, Examples]:
    """Return the networks as a cohort of one configuration, whose seeds are their positions, and its examples."""
    seeds = range(len(subject.variables))
    members = tuple(Member(0, seed, len(used.y_train), 1.0, 0.0, 0.0) for seed in seeds)
    # Without a test set the curve is looked at on a single image: the kernel wants one.
    test = (used.x_test, used.y_test) if len(used.y_test) else take_rows((used.x_train, used.y_train), slice(1))
    return Cohort(0, 1, 1, members), Examples(used.x_train, used.y_train, *test)


def _row_of(found: MeasuredCohort, errors: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the finite means and standard errors of what was measured, without seconds and operations."""
    means = collect(_with_training_columns(found.members, errors), found.pairs).iloc[0]
    row = {str(name): float(value) for name, value in means.items() if np.isfinite(value)}
    return {name: value for name, value in row.items() if not name.endswith(("_seconds", "_flops"))}


def _named(progress: Callable[[float, str], None] | None) -> Callable[[float, str], None] | None:
    """Return the progress without the name of a cohort, which a subject has none of."""
    return progress and (lambda fraction, message: progress(fraction, message.partition(": ")[2]))


def _possible(
    subject: Subject, settings: MeasureSettings, notes: list[Fact], strange: Sequence[str] = ()
) -> MeasureSettings:
    """Return the settings without what this subject does not allow, and say so in `notes`.

    `strange` are the parts of its state that are no running averages.
    """
    metrics = settings.metrics
    if len(subject.variables) < 2 and (pairs := [m for m in metrics if m in PAIR_CHOICES]):
        notes.append(fact("one_network", kernels=pairs))
        metrics = tuple(m for m in metrics if m not in PAIR_CHOICES)
    if not subject.can_recompute and (between := [m for m in metrics if m in BETWEEN_CHOICES]):
        kind = fact("no_averages", kernels=between, state=strange[0]) if strange else None
        notes.append(kind or fact("no_apply_train", kernels=between))
        metrics = tuple(m for m in metrics if m not in between)
    if not metrics:
        raise UserError("nothing is left to measure: with a single network, choose hessian or sharpness")
    return settings.with_metrics(metrics)


def _doubt(errors: list[dict[str, float]], guessing: float | None) -> Fact | None:
    """Return that the networks only guess: more likely of other data than trained so badly. None if they do better.

    `guessing` is the error (%) of the best constant prediction, None where that is not known.
    """
    best = min(row["train_error"] for row in errors)
    if guessing is None or not 0 < NEAR_GUESSING * guessing <= best:
        return None
    return fact("guessing", train_error=best, error_of_guessing=float(guessing))


def _no_image_twice(settings: MeasureSettings, num_images: int) -> MeasureSettings:
    """Return the settings without more images than there are: kernels would start over and count the first twice.

    Fewer than asked for by at most a twentieth, so that they can be halved again and again to fit into memory.
    """
    most = {name: min(getattr(settings, name), num_images) for name in ("hessian_images", "statistics_batch_size")}
    if most["hessian_images"] < settings.hessian_images:
        power = 2 ** max(0, (num_images // 20).bit_length() - 1)
        most["hessian_images"] = num_images // power * power
    return dataclasses.replace(settings, **most)


def _num_that_fit(inputs: Any, budget: int) -> int:
    """Return how many inputs every device may hold, in all a quarter of the memory."""
    return budget // (4 * len(jax.devices()) * max(1, num_bytes(take_rows(inputs, slice(1)))))


def _sample(x: Any, y: np.ndarray, most: int, shuffle: bool = False) -> tuple[Any, np.ndarray]:
    """Return at most `most` inputs and targets, a random sample; `shuffle`: in random order anyway."""
    if len(y) <= most and not shuffle:
        return x, y
    rows = np.random.default_rng(SAMPLE_SEED).permutation(len(y))[:most]
    return take_rows((x, y), rows)


def _evaluate(subject: Subject, data: Examples) -> tuple[list[dict[str, float]], float]:
    """Return errors (%) and losses of every network, and the seconds of compilation."""
    sides = {"train": (data.x_train, data.y_train), "test": (data.x_test, data.y_test)}
    out: list[dict[str, float]] = [{} for _ in subject.variables]
    seconds = 0.0
    for side, arrays in sides.items():
        if not len(arrays[1]):
            continue
        x, y = jax.tree.map(jnp.asarray, arrays)
        run = jax.jit(
            functools.partial(evaluate, subject.model, batch_size=EVALUATION_BATCH, objective=subject.objective),
            compiler_options=compiler_options(jax.default_backend()),
        )
        begin = time.perf_counter()
        run = run.lower(subject.variables[0], x, y, num_samples=jnp.int32(len(y))).compile()
        seconds += time.perf_counter() - begin
        for number, (row, variables) in enumerate(zip(out, subject.variables, strict=True), 1):
            loss, errors = run(variables, x, y, num_samples=jnp.int32(len(y)))
            if not np.isfinite(loss):
                what = {"train": "training", "test": "test"}[side]
                raise UserError(
                    f"network {number} has a mean loss of {float(loss)} on the {what} images: its outputs are not "
                    "finite for at least one of them"
                )
            row |= {f"{side}_error": 100 * float(errors) / len(y), f"{side}_loss": float(loss)}
    return out, seconds


def _with_training_columns(members: pd.DataFrame, errors: Sequence[Mapping[str, float]]) -> pd.DataFrame:
    """Return the table of measurements with the columns of training that `collect` expects, unknown ones NaN."""
    known = pd.DataFrame(errors)
    rest = {c: np.nan for c in (*MEMBER_COLUMNS, *COST_COLUMNS) if c not in members and c not in known}
    return members.join(known).assign(**rest | {"status": OK, "cohort": ""})


def _add_sampling_error(row: dict[str, float], num_images: int, num_all: int) -> None:
    """Add to the training error's standard error what comes from looking at a sample of the images.

    One network of which all images are looked at has none: it stays unknown, not 0.
    """
    share = row["train_error"] / 100
    variance = 1e4 * share * (1 - share) / num_images * (1 - num_images / num_all)
    if variance > 0 or "train_error_se" in row:
        row["train_error_se"] = float(np.hypot(row.get("train_error_se", 0.0), np.sqrt(variance)))
