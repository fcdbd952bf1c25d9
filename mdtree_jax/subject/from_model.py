"""`diagnose_model`: from networks and data to a diagnosis. JAX."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from mdtree_jax.checks import UserError, check_choice
from mdtree_jax.diagnosis.advice import direction_only
from mdtree_jax.diagnosis.combine import with_outlook
from mdtree_jax.diagnosis.cost import Training, make_cost, retraining
from mdtree_jax.diagnosis.facts import Fact, fact
from mdtree_jax.diagnosis.from_metrics import diagnose_metrics, withhold
from mdtree_jax.diagnosis.metrics_table import EVIDENCE
from mdtree_jax.diagnosis.reference import Reference, as_reference
from mdtree_jax.diagnosis.result import Diagnosis
from mdtree_jax.recipe.measure_settings import MeasureConfig
from mdtree_jax.registry.objectives import DEFAULT_OBJECTIVE, Objective, find_objective
from mdtree_jax.runs.jax_backend import keep_programs
from mdtree_jax.subject.adapted import check_different, subject_of
from mdtree_jax.subject.convolutions import quick_in_loops
from mdtree_jax.subject.evidence import (
    beside_of,
    findings_of,
    is_confirmed,
    outlook_from,
    planned,
    with_more_cost,
    without_copies,
)
from mdtree_jax.subject.experiments.plan import check_experiments
from mdtree_jax.subject.frozen import freeze
from mdtree_jax.subject.held_out import examples_of
from mdtree_jax.subject.limits import NO_LIMITS, Limits
from mdtree_jax.subject.measure import Prepared, measure_prepared, measure_subject, prepare
from mdtree_jax.subject.network import Examples, Subject
from mdtree_jax.subject.settings import cheap_measure, settings_of, with_budget


def diagnose_model(
    model: Any = None,
    networks: Any = None,
    train: Any = None,
    y_train: Any = None,
    *,
    validation: Any = None,
    test: Any = None,
    x_test: Any = None,
    y_test: Any = None,
    apply_train: Callable[..., Any] | None = None,
    init: Callable[[Any], Any] | None = None,
    build: Callable[..., Any] | None = None,
    step: int | None = None,
    weights: str | None = None,
    frozen: str | Sequence[str] = (),
    objective: str | Objective = DEFAULT_OBJECTIVE,
    training: Training | Mapping | None = None,
    history: Any = None,
    cost: float | str | None = None,
    evidence: str = "all",
    initial: Any = None,
    measure: MeasureConfig | Mapping | None = None,
    max_images: int = 10_000,
    memory_gb: float | None = None,
    max_minutes: float | None = None,
    reference: Reference | str | os.PathLike | None = None,
    progress: Callable[[float, str], None] | None = None,
    apply: Any = None,
    params: Any = None,
    x_train: Any = None,
) -> Diagnosis:
    """Say why a trained model is not better, from its training history, its weights and small experiments.

        settings = Training(optimizer=optax.adam(1e-3), learning_rate=1e-3, batch_size=64, epochs=20)
        d = diagnose_model(model, [a, b], train, test=test, training=settings, history="history.csv")
        d.cause, d.probability, d.outlook.moves, d.findings, d.improved, d.action, d.cost
        d.report("report.html")

    Args:
        model: the model, recognised by its type: Flax Linen, Flax NNX, Equinox, Haiku, Keras 3 on JAX, or
            `torch.nn.Module`; or a function `apply(variables, x) -> outputs` in evaluation mode: logits (n, classes),
            or what else the objective takes.
        networks: the networks, trained in the same way from different seeds; two give a better diagnosis than one. Each
            is what the framework has for one (variables, a module, a state dict, see `frameworks.FRAMEWORKS`), or the
            path of a checkpoint (see `checkpoints.FORMATS`). For a function, the pytree that it takes; with running
            averages that is `{"params": ..., other collections}`.
        train: the training data: `(x, y)`, or another form of `subject.data`: a file, a folder, a loader, a data set.
            Inputs are preprocessed for the model: an array (n, ...), floating point or integers such as token ids, or a
            mapping or tuple of them. Targets are (n,) integers from 0 for classes, see `registry.objectives.TARGETS`.
        y_train: the targets, if `train` holds the inputs alone.
        validation, test: held-out data, in the same forms. With both, evidence is read on the first and errors are of
            the second; one of them is split in halves with a fixed seed.
        x_test, y_test: the test set as two arrays; errors are of all of it, evidence of a half.
        apply_train: `apply_train(variables, x[, key]) -> (logits, variables)` in training mode, for a function and
            networks with running averages; without it, their connectivity is not measured, and a note says so.
        init: `init(key) -> variables`, fresh ones, for a function.
        build: returns a fresh model, for frameworks whose models hold their weights.
        step, weights: of checkpoints: the step of a folder with several; `ema` for averaged weights.
        frozen: names of parameters that were not trained, or of layers that hold them, see `frozen.freeze`.
        objective: what the networks were trained for: `cross_entropy` (classes), `lm` (a token at every place of a
            sequence), `binary`, `multilabel`, `regression`, `huber`, or `Objective(loss=…, error=…)` of your own.
        training: the settings, as far as they are known, see `Training`: for experiments, for the new settings and for
            the cost of a retraining. Without it, the action gives only the direction, and the cost is unknown.
        history: the training history: a path that `history.read_history` takes, a DataFrame, or a list with one for
            each network.
        cost: what experiments may train: a share of one training, such as 0.1, or wall time, such as `60s`. None is 0.1
            where `training` has learning rate, batch size and epochs or steps, else 0; with 0 nothing is trained.
        evidence: `all`, or `landscape`: then history, settings and held-out data have no part in the answer, and
            nothing is trained.
        initial: the networks before their training, in the form of `networks`, if they are known.
        measure: what to measure of the landscape and how precisely, see `measure_settings.MeasureConfig`; None is
            `default_measure`, and with all evidence the cheap metrics without a trained curve. Curves take as many
            steps as the training, if it is known and the reference is not a published one.
        max_images: size of the random sample (with a fixed seed) of each set on which errors and points between
            networks are evaluated; curves are trained on all training images that fit into memory.
        memory_gb, max_minutes: what measuring may take; a plan beyond it is refused, with what would fit.
        reference: the reference to compare with: a `Reference`, its file, or a name of `reference_names()`; None is
            `published_F`.
        progress: called with the fraction done and a message.
        apply, params, x_train: other names of `model`, `networks` and `train`.

    Raises:
        UserError: arrays, labels and networks that do not match; the message names the first problem.
    """
    given = {"model": (model, apply), "networks": (networks, params), "train": (train, x_train)}
    model, networks, train = (_one_of(name, *pair) for name, pair in given.items())
    check_choice("evidence", evidence, EVIDENCE)
    keep_programs()
    data, notes = examples_of(train, y_train, validation, test, x_test, y_test, objective=objective)
    options = {"apply_train": apply_train, "init": init, "build": build, "step": step, "weights": weights}
    subject = freeze(subject_of(model, networks, data.x_train, **options)._replace(objective=objective), frozen)
    start = None
    if initial is not None:
        start = freeze(subject_of(model, initial, data.x_train, **options), frozen).variables
    diagnosis = diagnose_subject(
        subject,
        data,
        training=Training.of(training),
        history=history,
        cost=cost,
        evidence=evidence,
        initial=start,
        measure=measure,
        max_images=max_images,
        limits=Limits(memory_gb, max_minutes),
        reference=reference,
        progress=progress,
    )
    return dataclasses.replace(diagnosis, remarks=(*diagnosis.remarks, *notes))


def measure_model(
    model: Any,
    networks: Any,
    train: Any,
    *,
    validation: Any = None,
    test: Any = None,
    apply_train: Callable[..., Any] | None = None,
    init: Callable[[Any], Any] | None = None,
    build: Callable[..., Any] | None = None,
    step: int | None = None,
    weights: str | None = None,
    frozen: str | Sequence[str] = (),
    objective: str | Objective = DEFAULT_OBJECTIVE,
    width: float | None = None,
    batch_size: int | None = None,
    data_fraction: float | None = None,
    measure: MeasureConfig | Mapping | None = None,
    max_images: int = 10_000,
    memory_gb: float | None = None,
    max_minutes: float | None = None,
    progress: Callable[[float, str], None] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Return the metrics of a trained model as one row of a collection table, for `mdtree_jax.reference`.

        row = measure_model(model, [a, b], train, test=test, width=64, batch_size=128, data_fraction=1)

    Args:
        model, networks, train, validation, test, apply_train, init, build, step, weights, frozen, objective: as of
            `diagnose_model`.
        width, batch_size, data_fraction: the settings that the networks were trained with, columns of the row.
        measure: what to measure; None is everything that the packaged reference has.
        max_images, memory_gb, max_minutes, progress: as of `diagnose_model`.
        settings: further columns, such as `learning_rate`, `train_epochs` or the name of the model.

    Returns:
        Column -> value; a metric that was not measured is left out.

    Raises:
        UserError: as `diagnose_model`.
    """
    data, _ = examples_of(train, None, validation, test, objective=objective)
    options = {"apply_train": apply_train, "init": init, "build": build, "step": step, "weights": weights}
    subject = freeze(subject_of(model, networks, data.x_train, **options)._replace(objective=objective), frozen)
    trained = {"width": width, "batch_size": batch_size, "data_fraction": data_fraction, **settings}
    limits = Limits(memory_gb, max_minutes)
    return measure_row(subject, data, trained, measure=measure, max_images=max_images, limits=limits, progress=progress)


def measure_row(
    subject: Subject,
    data: Examples,
    trained: Mapping[str, Any],
    *,
    measure: MeasureConfig | Mapping | None = None,
    max_images: int = 10_000,
    limits: Limits = NO_LIMITS,
    progress: Callable[[float, str], None] | None = None,
) -> dict[str, Any]:
    """Return a row of a collection: how the networks were trained, as far as it is known, and what was measured."""
    check_different(subject)
    reference, known = as_reference(None), Training()
    settings = settings_of(measure, reference)
    if settings.curve_budget == "training":
        epochs = trained.get("epochs", trained.get("train_epochs"))
        known = Training(batch_size=trained.get("batch_size"), epochs=epochs)
    settings = with_budget(settings, measure, reference, known, len(data.y_train))
    measured = measure_subject(subject, data, settings, max_images=max_images, limits=limits, progress=progress)
    counts = {"num_samples": len(data.y_train), "num_finite": len(subject.variables)}
    return {name: value for name, value in trained.items() if value is not None} | counts | measured.row


def _one_of(name: str, value: Any, other: Any) -> Any:
    if (value is None) == (other is None):
        raise UserError(f"'{name}' is missing" if value is None else f"'{name}' is given twice, under both its names")
    return other if value is None else value


def diagnose_subject(
    subject: Subject,
    data: Examples,
    *,
    training: Training | None = None,
    history: Any = None,
    cost: float | str | None = None,
    evidence: str = "landscape",
    initial: tuple[Any, ...] | None = None,
    measure: MeasureConfig | Mapping | None = None,
    max_images: int = 10_000,
    in_random_order: bool = False,
    limits: Limits = NO_LIMITS,
    reference: Reference | str | os.PathLike | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> Diagnosis:
    """Diagnose networks that are already wrapped; arguments as for `diagnose_model` and `measure_subject`.

    `initial` are in the form of `subject.variables`.
    """
    training, reference = training or Training(), as_reference(reference)
    options = {"max_images": max_images, "in_random_order": in_random_order, "limits": limits}
    if evidence == "landscape":
        check_different(subject)
        settings = with_budget(settings_of(measure, reference), measure, reference, training, len(data.y_train))
        prepared = prepare(subject, data, settings, **options)
        return _of_landscape(prepared, data, training, reference, progress).diagnosis
    beside = beside_of(subject, training, history, cost, initial)
    distinct, own = without_copies(quick_in_loops(subject), beside)
    asks_curve = isinstance(measure, Mapping) and any(name.startswith("curve_") for name in measure)
    settings = settings_of(measure, reference, default=cheap_measure(asks_curve))
    settings = with_budget(settings, measure, reference, training, len(data.y_train))
    # All that is refused is refused before anything is measured.
    prepared = prepare(distinct, data, settings, **options)
    plan = planned(distinct, data, training, own, max_images)
    check_experiments(plan, limits, prepared.minutes)
    # What experiments take of the time is not known before; where they train, that is about half.
    measuring = 0.5 if own.spending.trains else 0.8
    whole = _of_landscape(prepared, data, training, reference, part_of(progress, 0.0, measuring))
    begin = time.perf_counter()
    tell = part_of(progress, measuring, 1.0)
    tell(0.0, "looking for faults")
    findings = findings_of(subject, data, training, beside)
    seconds = time.perf_counter() - begin
    memory = None if limits.memory_gb is None else limits.memory_bytes()
    outlook, gathered = outlook_from(plan, own, whole.row, memory_bytes=memory, progress=tell)
    diagnosis = with_more_cost(whole.diagnosis, seconds + gathered.seconds, gathered.compile_seconds)
    remarks = (*diagnosis.remarks, *gathered.notes)
    diagnosis = dataclasses.replace(diagnosis, remarks=remarks, by_class=gathered.by_class)
    return with_outlook(
        diagnosis,
        outlook,
        findings,
        gathered.improved,
        training=training,
        num_images=len(data.y_train),
        is_confirmed=is_confirmed(own.histories, gathered.row),
    )


class _Whole(NamedTuple):
    """The diagnosis from the landscape, and the columns that it is made from."""

    diagnosis: Diagnosis
    row: dict[str, float]


def _of_landscape(
    prepared: Prepared,
    data: Examples,
    training: Training,
    reference: Reference,
    progress: Callable[[float, str], None] | None,
) -> _Whole:
    measured = measure_prepared(prepared, progress)
    start = time.perf_counter()
    row = measured.row | {"num_samples": len(data.y_train)}
    diagnosis = diagnose_metrics(row, reference, "percent", training, evidence="landscape")[0]
    seconds = measured.seconds + time.perf_counter() - start
    rate = measured.flops / measured.seconds
    again = retraining(training.with_length(len(data.y_train)), len(data.y_train), measured.forward_flops, rate)
    cost = make_cost(seconds, measured.flops, measured.compile_seconds, *again)
    action = direction_only(diagnosis.action) if training == Training() else diagnosis.action
    remarks = (*measured.notes, *_of_objective(prepared.subject), *diagnosis.remarks)
    diagnosis = dataclasses.replace(diagnosis, action=action, cost=cost, remarks=remarks)
    return _Whole(withhold(diagnosis, measured.doubt) if measured.doubt else diagnosis, measured.row)


def part_of(progress: Callable[[float, str], None] | None, begin: float, end: float) -> Callable[[float, str], None]:
    """Return the progress of a part of the work, which is done between two fractions of it."""
    if progress is None:
        return lambda fraction, message: None
    return lambda fraction, message: progress(begin + (end - begin) * fraction, message)


def _of_objective(subject: Subject) -> list[Fact]:
    """Return a note if the networks are no classifiers, as those of the references are, as a list of facts."""
    objective = find_objective(subject.objective)
    if objective.name == DEFAULT_OBJECTIVE:
        return []
    loss, error = objective.meaning or objective.name, objective.error_meaning
    return [fact("objective", loss=loss, unit=objective.unit, error=error)]
