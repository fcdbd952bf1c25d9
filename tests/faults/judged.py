"""Is a diagnosis right about what is planted? And what following it gains, by retraining."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from mdtree_jax.diagnosis.result import Diagnosis
from mdtree_jax.registry.causes import NONE
from mdtree_jax.registry.findings import FINDINGS
from mdtree_jax.registry.remedies import REMEDIES
from tests.faults.data import DATA
from tests.faults.planted import FAULTS
from tests.faults.situations import SITUATIONS
from tests.faults.training import Spec, errors_of

#: Probability above which a wrong cause is a wrong answer, even beside the right one.
SURE = 0.7


class Truth(NamedTuple):
    """What is planted: causes that are right, further ones that are not wrong."""

    right: frozenset[str]
    allowed: frozenset[str] = frozenset()


class Judged(NamedTuple):
    """One diagnosis: whether the first cause is right, and whether one that is told is wrong."""

    is_named: bool
    is_wrong: bool


def causes_of(findings: Iterable[str]) -> frozenset[str]:
    return frozenset(cause for kind in findings if (cause := FINDINGS[kind].cause))


def truth_of(name: str) -> Truth:
    """Return what is planted in a situation, a fault, or (nothing) in a healthy network."""
    if name in SITUATIONS:
        case = SITUATIONS[name]
        return Truth(causes_of(case.findings) | frozenset(case.causes), causes_of(case.allowed))
    if name in FAULTS:
        return Truth(causes_of(FAULTS[name].findings), causes_of(FAULTS[name].allowed))
    return Truth(frozenset([NONE]))


def judged(name: str, diagnosis: Diagnosis) -> Judged:
    """Return whether a diagnosis names what is planted, and whether it says something wrong.

    Named is the first cause, if it is told. Wrong is another one in its place, or one beside it with a probability
    above `SURE`. Of a healthy network, wrong is every fault that a finding tells.
    """
    right, allowed = truth_of(name)
    if name not in SITUATIONS and name not in FAULTS:
        told = any(finding.is_told and finding.cause and finding.entry.decides for finding in diagnosis.findings)
        return Judged(not told, told)
    first = None if diagnosis.abstains else diagnosis.cause
    sure = {cause for cause, probability in diagnosis.causes if probability > SURE}
    wrong = ({first} | sure) - right - allowed - {None, NONE}
    return Judged(first in right, bool(wrong))


def advised(spec: Spec, diagnosis: Diagnosis) -> Spec | None:
    """Return the training that a diagnosis advises, None for none."""
    action = diagnosis.action
    if action.kind == "repair" and action.finding is not None:
        return spec.but(**_repair(spec, action.finding.kind))
    return spec.but(**_remedy(spec, action.remedy)) if action.kind == "remedy" else None


def _repair(spec: Spec, kind: str) -> dict:
    """Return the changes that follow the sentence of a finding."""
    usual = "sigmoid" if spec.net.outputs == 1 else "softmax"
    last = {"logits": "linear", "probabilities": usual, "values": "linear"}[spec.wants]
    labelled = "binary_cross_entropy_p" if spec.net.outputs == 1 else "cross_entropy_p"
    colder = {"learning_rate": spec.learning_rate / 5}
    scaled = not spec.target_scaled and float(abs(DATA[spec.data](0).y_train).max()) > 30
    drawn = {"net_kernels": "lecun", "net_first_bias": 0.0}
    return {
        "inputs_unscaled": {"input_factor": 1.0} if spec.input_factor != 1 else {"input_scaled": True},
        "labels_unrelated": {"labels": ""},
        "labels_relabelled": {"labels": ""},
        "unshuffled": {"order": ""},
        "targets_out_of_reach": {"net_last": "linear", "target_scaled": scaled or spec.target_scaled},
        "softmax_over_one_unit": {"net_last": "sigmoid"},
        "relu_output": {"net_last": last},
        "outputs_not_probabilities": {"net_last": last},
        "bounded_logits": {"net_last": last},
        "biased_outputs": {"net_bias": True},
        "loss_settles_at_majority": {"loss": labelled},
        "dead_units": drawn,
        "saturated_units": drawn,
        "vanishing_gradient": {"net_activation": "relu"},
        "identical_units": drawn,
        "weights_too_large": drawn,
        "weights_grown": colder,
        "unstable_loss": colder,
        "unstable_error": colder,
        "weights_shrunk": {"weight_decay": spec.weight_decay / 100},
        "straight_loss": {"learning_rate": spec.learning_rate * 10},
        "falling_at_end": {"epochs": 4 * spec.epochs},
        "few_steps": {"batch_size": max(1, spec.batch_size // 16)},
        "wide_gap": {"num_train": None},
    }[kind]


def _remedy(spec: Spec, name: str) -> dict:
    remedy = REMEDIES[name]
    if remedy.knob == "width":
        wider = {"net_hidden": tuple(2 * width for width in spec.net.hidden)}
        return wider | {"net_channels": tuple(2 * width for width in spec.net.channels)}
    if remedy.knob == "data_fraction":  # at the price of the larger data set
        more = {} if spec.num_train is None else {"num_train": 2 * spec.num_train}
        return more | ({} if spec.steps is None else {"steps": 2 * spec.steps})
    known = {"learning_rate": "learning_rate", "batch_size": "batch_size", "train_epochs": "epochs"}
    field = known.get(remedy.knob, remedy.knob)
    value = getattr(spec, field, None)
    if value is None or not remedy.factor:
        return {}
    moved = value * remedy.factor
    return {field: max(1, round(moved)) if field == "batch_size" else moved}


def gain_of(spec: Spec, changed: Spec | None) -> float:
    """Return the points of test error that a change gains, the mean of three seeds; 0 for no change.

    A network that diverges loses all of its error and more: as much as there was to lose, 100 points.
    """
    if changed is None or changed == spec:
        return 0.0
    before, after = errors_of([spec, changed])
    return before - after if math.isfinite(after) else -100.0
