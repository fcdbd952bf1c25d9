"""What is measured on trained networks, and how precisely. No JAX, so that `--help` is fast.

`MeasureConfig` holds the settings of a grid file; `resolve` turns it into `MeasureSettings`, with all numbers set.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from mdtree_jax.checks import UserError, check_choice
from mdtree_jax.recipe.cohort import Cohort
from mdtree_jax.recipe.setting import setting
from mdtree_jax.registry.kernels import CHOICES, KERNELS
from mdtree_jax.registry.probes import DEFAULT_PROBES, PROBES

#: The groups of metrics that can be chosen, in the order in which they are measured.
METRICS = CHOICES
PAIRS = ("first", "ring", "all")
CURVE_INITS = ("linear", "published")
CURVE_BUDGETS = ("steps", "training", "published")
#: Settings of the published curves (Garipov et al., as in MD tree).
PUBLISHED_CURVE = {"curve_steps": 19_000, "curve_batch_size": 128, "curve_learning_rate": 0.01}
CURVE_SCHEDULES = ("published", "constant", "cosine")
TRACE_METHODS = ("xtrace", "hutchinson")
EIGENVALUE_METHODS = ("lanczos", "power")
EIGENVALUE_STARTS = ("trace", "random")
#: Settings added after collections had been recorded, with the values used for those collections.
ADDED_LATER = {
    "curve_schedule": "published",
    "curve_budget": "steps",
    "similarity_features": "softmax",
    "similarity_debiased": False,
    "trace_method": "xtrace",
    "eigenvalue_method": "lanczos",
    "eigenvalue_start": "random",
    "evaluation_images": None,
    "probes": DEFAULT_PROBES,
    "probe_images": 2000,
}

#: The settings of an effort; numbers that a grid sets itself take precedence. `curve_steps` is relative to the grid's.
EFFORTS: dict[str, dict[str, Any]] = {
    "fast": {
        "trace_products": 30,
        "trace_relative_error": 0.10,
        "eigenvalue_steps": 24,
        "eigenvalue_start": "random",
        "eigenvalue_tolerance": 1e-2,
        "ball_steps": 3,
        "barrier_points": 3,
        "curve_share": 0.5,
        "curve_points": 5,
    },
    "standard": {
        "trace_products": 100,
        "trace_relative_error": 0.05,
        "eigenvalue_steps": 48,
        "eigenvalue_start": "trace",
        "eigenvalue_tolerance": 1e-3,
        "ball_steps": 5,
        "barrier_points": 5,
        "curve_share": 1.0,
        "curve_points": 5,
    },
    "exact": {
        "trace_products": 1000,
        "trace_relative_error": 0.005,
        "eigenvalue_steps": 200,
        "eigenvalue_start": "trace",
        "eigenvalue_tolerance": 1e-5,
        "ball_steps": 20,
        "barrier_points": 25,
        "curve_share": 4.0,
        "curve_points": 25,
    },
}


@dataclass
class MeasureConfig:
    """The measurement settings of a grid file; None leaves a number to `effort`."""

    metrics: list[str] = setting(
        lambda: f"groups: {', '.join(METRICS)}", [name for name in METRICS if KERNELS[name].is_default]
    )
    effort: str = setting("fast | standard | exact: precision; sets the settings below that are null", "standard")
    pairs: str = setting(
        "first | ring | all: pairs for lines and curves (ring: each network in two pairs); similarity uses all pairs",
        "ring",
    )
    seed: int = setting("seed for random vectors, mixup images and curve batches", 0)
    hessian_images: int = setting(
        "number of training images for Hessian, sharpness and your own metrics: the first of the subset", 200
    )
    trace_products: int | None = setting(
        "maximum number of Hessian-vector products for a trace, in blocks of 16 (hutchinson: 8)", None
    )
    trace_relative_error: float | None = setting("relative standard error at which the trace estimate stops", None)
    eigenvalue_steps: int | None = setting("maximum number of Lanczos steps", None)
    eigenvalue_tolerance: float | None = setting("relative residual at which Lanczos stops", None)
    ball_radius: float = setting(
        "radius of the ball for worst-case sharpness, as a fraction of the parameters' norm", 0.005
    )
    ball_steps: int | None = setting("steps of gradient ascent in the ball", None)
    similarity_images: int = setting("number of mixup training images on which outputs are compared", 768)
    mixup_alpha: float = setting("parameter of the Beta distribution for mixup", 16.0)
    barrier_points: int | None = setting(
        "number of equally spaced points on the straight line, including the ends", None
    )
    statistics_batch_size: int = setting("batch size for BatchNorm statistics between two networks", 128)
    curve_budget: str = setting(
        "steps | training | published: length of a curve's training: curve_steps, that of the longest training of the "
        "cohort with its batch size, or the paper's 19000 steps of 128 images",
        "steps",
    )
    curve_steps: int = setting(
        "training steps of a curve; effort=fast uses half of them, effort=exact four times as many", 19_000
    )
    curve_batch_size: int = setting("batch size for training a curve", 128)
    curve_learning_rate: float = setting("learning rate for training a curve, in the first half of the steps", 0.01)
    curve_momentum: float = setting("momentum for training a curve", 0.9)
    curve_weight_decay: float = setting("weight decay at the point on the curve, as a term of the loss", 5e-4)
    curve_points: int | None = setting(
        "number of equally spaced points at which a curve is evaluated, including the ends", None
    )
    curve_init: str = setting(
        "linear | published: initialization of a curve's middle point (published: a random network)", "linear"
    )
    curve_schedule: str = setting("published | constant | cosine: schedule of a curve's learning rate", "published")
    similarity_features: str = setting("softmax | logits | NAME of an activation: features compared by CKA", "softmax")
    similarity_debiased: bool = setting("use the unbiased estimator of CKA", False)
    trace_method: str = setting(
        "xtrace | hutchinson (published); xtrace falls back to hutchinson if memory is short", "xtrace"
    )
    eigenvalue_start: str | None = setting(
        "trace | random: start vector of Lanczos (trace: the leading vector found by xtrace)", None
    )
    eigenvalue_method: str = setting("lanczos | power (the power iteration of the paper)", "lanczos")
    evaluation_images: int | None = setting(
        "number of training images on which points of curves and lines are evaluated; null is all", None
    )
    probes: list[str] = setting(lambda: f"experiments of the metric probes: {', '.join(PROBES)}", [*DEFAULT_PROBES])
    probe_images: int = setting(
        "number of training images on which probes and short runs are evaluated, and BatchNorm statistics recomputed",
        2000,
    )


@dataclass(frozen=True)
class MeasureSettings:
    """All settings of a measurement with their values; hashable, so that compiled programs can be cached by it.

    The fields are those of `MeasureConfig`, with `effort` applied.
    """

    metrics: tuple[str, ...]
    pairs: str
    seed: int
    hessian_images: int
    trace_products: int
    trace_relative_error: float
    eigenvalue_steps: int
    eigenvalue_tolerance: float
    ball_radius: float
    ball_steps: int
    similarity_images: int
    mixup_alpha: float
    barrier_points: int
    statistics_batch_size: int
    curve_budget: str
    curve_steps: int
    curve_batch_size: int
    curve_learning_rate: float
    curve_momentum: float
    curve_weight_decay: float
    curve_points: int
    curve_init: str
    curve_schedule: str
    similarity_features: str
    similarity_debiased: bool
    trace_method: str
    eigenvalue_start: str
    eigenvalue_method: str
    evaluation_images: int | None
    probes: tuple[str, ...]
    probe_images: int

    def recorded(self) -> dict[str, Any]:
        """Return the settings as a manifest holds them.

        What was added after collections had been recorded is left out where it is as then, so that they can go on.
        """
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if name not in ADDED_LATER or value != ADDED_LATER[name]}

    def of_cohort(self, cohort: Cohort) -> MeasureSettings:
        """Return the settings for a cohort: with `curve_budget=training`, curves train for as long as its networks."""
        if self.curve_budget != "training":
            return self
        most = max(member.num_samples for member in cohort.members)
        steps = cohort.train_epochs * max(1, most // cohort.batch_size)
        return dataclasses.replace(self, curve_steps=steps, curve_batch_size=min(cohort.batch_size, most))

    def of_training(self, steps: int, batch_size: int) -> MeasureSettings:
        """Return the settings for networks whose training is known: curves take as many steps, of as many examples."""
        return dataclasses.replace(self, curve_budget="steps", curve_steps=steps, curve_batch_size=batch_size)

    def with_metrics(self, metrics: tuple[str, ...]) -> MeasureSettings:
        """Return the same settings for other groups of metrics."""
        return dataclasses.replace(self, metrics=metrics)


def resolve(config: MeasureConfig) -> MeasureSettings:
    """Return the settings of `config`, with what it leaves open filled in by its effort.

    Raises `UserError` for an unknown metric, effort or choice of pairs, and for a number out of range.

    >>> resolve(MeasureConfig(effort="fast", curve_steps=600)).curve_steps
    300
    """
    preset = dict(EFFORTS[check_choice("effort", config.effort, EFFORTS)])
    if not config.curve_steps >= 1:  # before the effort's share of it, which is one step at least
        raise UserError(f"grid.measure.curve_steps={config.curve_steps} is out of range; it must be at least 1")
    for metric in config.metrics:
        check_choice("metric", metric, METRICS)
    check_choice("choice of pairs", config.pairs, PAIRS)
    values = dataclasses.asdict(config)
    del values["effort"]
    values["metrics"] = tuple(metric for metric in METRICS if metric in config.metrics)
    for probe in config.probes:
        check_choice("probe", probe, PROBES)
    values["probes"] = tuple(probe for probe in PROBES if probe in config.probes)
    check_choice("curve_budget", config.curve_budget, CURVE_BUDGETS)
    values["curve_steps"] = max(1, round(config.curve_steps * preset.pop("curve_share")))
    values |= PUBLISHED_CURVE if config.curve_budget == "published" else {}
    values |= {name: number for name, number in preset.items() if values[name] is None}
    settings = MeasureSettings(**values)
    _check_ranges(settings)
    if (settings.trace_method, settings.eigenvalue_method) != (
        "xtrace",
        "lanczos",
    ):  # nothing starts from a trace there
        settings = dataclasses.replace(settings, eigenvalue_start="random")
    return settings


#: Least values of numbers that are not merely above 0; the second says whether the least itself is out.
_LEAST: dict[str, tuple[float, bool]] = {
    "seed": (0, False),
    "curve_momentum": (0, False),
    "curve_weight_decay": (0, False),
    "trace_products": (4, False),
    "similarity_images": (2, False),
    "mixup_alpha": (0.5, True),
    "barrier_points": (3, False),
    "curve_points": (5, False),
}


def _check_ranges(settings: MeasureSettings) -> None:
    if not settings.metrics:
        raise UserError(f"grid.measure.metrics is empty; available: {', '.join(METRICS)}")
    check_choice("curve_init", settings.curve_init, CURVE_INITS)
    check_choice("curve_schedule", settings.curve_schedule, CURVE_SCHEDULES)
    check_choice("trace_method", settings.trace_method, TRACE_METHODS)
    check_choice("eigenvalue_start", settings.eigenvalue_start, EIGENVALUE_STARTS)
    check_choice("eigenvalue_method", settings.eigenvalue_method, EIGENVALUE_METHODS)
    if settings.similarity_debiased and settings.similarity_images < 4:
        raise UserError(
            f"grid.measure.similarity_images={settings.similarity_images} is out of range; it must be at least 4 where "
            "similarity_debiased is true"
        )
    for name, value in dataclasses.asdict(settings).items():
        if value is None or isinstance(value, (tuple, str, bool)):
            continue
        least, is_strict = _LEAST.get(name, (0, True))
        if not math.isfinite(value) or value < least or (is_strict and value == least):
            wanted = f"{'above' if is_strict else 'at least'} {least:g}"
            raise UserError(f"grid.measure.{name}={value:g} is out of range; it must be {wanted}")
    if settings.seed >= 2**31:
        raise UserError(f"grid.measure.seed={settings.seed} is out of range; it must be 0 to 2^31 - 1")
    if settings.curve_momentum >= 1.0:
        raise UserError(
            f"grid.measure.curve_momentum={settings.curve_momentum:g} is out of range; it must be in [0, 1)"
        )
    if settings.curve_points % 4 != 1:
        raise UserError(
            f"grid.measure.curve_points={settings.curve_points} misses the quarters of the curve; use 5, 9, 13, …"
        )


def chosen_pairs(is_finite: list[bool], pairs: str) -> list[tuple[int, int]]:
    """Return the pairs (a < b) of a configuration's networks on which a curve is trained; only finite ones take part.

    >>> chosen_pairs([True, True, True, True], "ring")
    [(0, 1), (1, 2), (2, 3), (0, 3)]
    >>> chosen_pairs([True, False, True], "first"), chosen_pairs([True, False, False], "all")
    ([(0, 2)], [])
    """
    there = [index for index, finite in enumerate(is_finite) if finite]
    every = [(a, b) for position, a in enumerate(there) for b in there[position + 1 :]]
    if pairs == "first":
        return every[:1]
    if pairs == "all" or len(there) < 4:
        return every
    around = zip(there, there[1:] + there[:1], strict=True)
    return [(min(pair), max(pair)) for pair in around]
