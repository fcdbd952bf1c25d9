"""What is measured of a subject, and how precisely. No JAX."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from numbers import Integral, Real

from mdtree_jax.checks import UserError, nearest
from mdtree_jax.diagnosis.cost import Training
from mdtree_jax.diagnosis.reference import Reference
from mdtree_jax.recipe.measure_settings import MeasureConfig, MeasureSettings, resolve
from mdtree_jax.registry.kernels import CHOICES
from mdtree_jax.registry.measurements import kernels_of


def default_measure(columns: Sequence[str]) -> MeasureConfig:
    """Return the settings to measure exactly what a reference with these columns needs.

    The curve is trained on 64 000 images at ten times the published rate, see `tests/benchmarks/curve_accuracy.py`.
    """
    asked = {kernel for column in columns for kernel in kernels_of(column)}
    metrics = [kernel for kernel in CHOICES if kernel in asked]
    return MeasureConfig(metrics=metrics or ["hessian"], curve_steps=2000, curve_batch_size=32, curve_learning_rate=0.1)


def cheap_measure(with_curve: bool = False) -> MeasureConfig:
    """Return the settings to measure what costs less than a training: no trained curve, unless it is asked for."""
    metrics = ["hessian", "similarity", "barrier", *(["connectivity"] if with_curve else [])]
    return dataclasses.replace(default_measure(()), metrics=metrics)


def with_budget(
    settings: MeasureSettings,
    measure: MeasureConfig | Mapping | None,
    reference: Reference,
    training: Training,
    num_train: int,
) -> MeasureSettings:
    """Return the settings with curves trained for as long as the networks, if that is asked for or nothing else is.

    It is the default where the training is known and the reference is one of your own: the curves of the published
    collections were trained for a fixed number of steps, which `default_measure` stands for.

    Args:
        settings: what is measured.
        measure: what was asked for.
        reference: of the diagnosis.
        training: how the networks were trained, as far as it is known.
        num_train: examples of the training set.

    Raises:
        UserError: it is asked for, and how long the networks were trained is not known.
    """
    asked = settings.curve_budget == "training"
    says = isinstance(measure, MeasureConfig) or any(name.startswith("curve_") for name in measure or ())
    if not asked and (says or reference.name.startswith("published/")):
        return settings
    known = training.with_length(num_train)
    if known.steps is not None and known.batch_size is not None:
        return settings.of_training(round(known.steps), min(round(known.batch_size), num_train))
    if asked:
        raise UserError(
            "measure.curve_budget=training needs the length of the training: give training.batch_size, and "
            "training.epochs or training.steps"
        )
    return settings


def settings_of(
    measure: MeasureConfig | Mapping | None, reference: Reference, default: MeasureConfig | None = None
) -> MeasureSettings:
    """Return what is measured, every number decided; raises `UserError` for a setting that does not exist or fit.

    `default` is what holds where `measure` does not say; None is `default_measure` of the reference.
    """
    config = default or default_measure(reference.columns)
    if isinstance(measure, Mapping):
        known = [field.name for field in dataclasses.fields(MeasureConfig)]
        for name in measure:
            if name not in known:
                raise UserError(f"unknown measure '{name}'{nearest(name, known)}; available: {', '.join(known)}")
        config = dataclasses.replace(config, **measure)
        _check_types(measure)
    elif isinstance(measure, MeasureConfig):
        config = measure
    elif measure is not None:
        raise UserError(f"measure={measure!r} is not a mapping; give settings by name: measure={{effort: fast}}")
    return resolve(config)


def _check_types(measure: Mapping) -> None:
    """Raise `UserError` for a setting of measuring whose value is of another kind than the setting's default."""
    kinds = {field.name: str(field.type) for field in dataclasses.fields(MeasureConfig)}
    for name, value in measure.items():
        wants_list, wants_text, wants_whole = "list" in kinds[name], "str" in kinds[name], "int" in kinds[name]
        is_text = isinstance(value, str)
        if wants_list:
            good = not is_text and isinstance(value, Sequence)
        elif wants_text:
            good = is_text or (value is None and "None" in kinds[name])
        else:
            number = Integral if wants_whole else Real
            good = (isinstance(value, number) and not isinstance(value, bool)) or (
                value is None and "None" in kinds[name]
            )
            good = isinstance(value, bool) if kinds[name] == "bool" else good
        if not good:
            raise UserError(f"measure.{name}={value!r} has the wrong type; it must be {kinds[name]}")
