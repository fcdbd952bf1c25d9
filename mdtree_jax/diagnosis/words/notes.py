"""The facts of `mdtree_jax.diagnosis.facts` as sentences: why a diagnosis abstains, what was missing, a cost's basis.

Sentences begin with a small letter and have no full stop; whoever shows them adds both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mdtree_jax.diagnosis.facts import Fact
from mdtree_jax.diagnosis.words.formats import below, listed, number, percent
from mdtree_jax.diagnosis.words.metrics import named
from mdtree_jax.registry.causes import CAUSES, NONE
from mdtree_jax.registry.questions import QUESTIONS, answer_words


def sentence(fact: Fact) -> str:
    """Return a fact in words."""
    return SENTENCES[fact.kind](**fact.values)


def question(name: str) -> str:
    """Return a question in words, its name where it is not registered."""
    return QUESTIONS[name].sentence if name in QUESTIONS else name


_question = question  # some facts have a value of that name


def _short(cause: str) -> str:
    return f"“{CAUSES[cause].short}”"


def _out_of_range(metrics: Sequence[str], reference: str, suspects: Mapping[str, float]) -> str:
    verb = "lies" if len(metrics) == 1 else "lie"
    text = f"its {named(metrics)} {verb} outside the range of the reference collection '{reference}'"
    for name, value in list(suspects.items())[:1]:
        text += f"; '{name}' must be a natural logarithm, and {number(value)} does not look like one"
    return text


def _contradicted(cause: str, probability: float, question: str, answer: str, against: float) -> str:
    return (
        f"the evidence disagrees: comparison with similar models gives {_short(cause)} ({percent(probability)}), while "
        f"the trees for “{_question(question)}” answer “{answer_words(question, answer)}” ({percent(against)})"
    )


def _unlikely(cause: str, probability: float, least: float) -> str:
    shown = below(probability, least)
    return f"no cause is likely enough: the most likely one, {_short(cause)}, has a probability of {shown}"


def _no_clear_gain(cause: str, probability: float, least: float) -> str:
    if cause == NONE:
        return (
            "it cannot be told whether anything gains a point: no change is expected to, with a probability of only "
            f"{below(probability, least)}"
        )
    return (
        f"it cannot be told which change gains most: the one that comes first is against {_short(cause)}, which is the "
        f"cause with a probability of only {below(probability, least)}"
    )


def _too_few_metrics(missing: Sequence[str]) -> str:
    return f"no diagnostic tree can be used with so few metrics; missing: {', '.join(f'{m!r}' for m in missing)}"


def _guessing(train_error: float, error_of_guessing: float) -> str:
    return (
        f"a training error of {train_error:.1f} % is hardly better than guessing, the best constant prediction "
        f"({error_of_guessing:.1f} %): check that the data are those that the network was trained on, with the same "
        "preprocessing"
    )


def _metrics_missing(metrics: Sequence[str]) -> str:
    verb = "is" if len(metrics) == 1 else "are"
    return f"the answer comes from a model fitted without {named(metrics)}, which {verb} not given"


def _metrics_unused(metrics: Sequence[str], reference: str) -> str:
    verb = "is" if len(metrics) == 1 else "are"
    return f"{named(metrics)} {verb} not used: the reference collection '{reference}' has no such values"


def _one_pair(kernels: Sequence[str]) -> str:
    verb = "has" if len(kernels) == 1 else "have"
    return (
        f"two networks form a single pair: {listed(kernels)} {verb} no standard error, so the probabilities ignore the "
        "variation between seeds; three networks form three pairs, which give a standard error"
    )


def _one_network(kernels: Sequence[str]) -> str:
    return f"{listed(kernels)} not measured: two networks are needed, and there is only one network"


def _no_apply_train(kernels: Sequence[str]) -> str:
    return (
        f"{listed(kernels)} not measured: the networks have running averages (BatchNorm), which cannot be recomputed "
        "between two networks without apply_train"
    )


def _no_averages(kernels: Sequence[str], state: str) -> str:
    return (
        f"{listed(kernels)} not measured: the networks keep the state '{state}', which is not a running average "
        "new = m old + (1 - m) batch and cannot be recomputed between two networks"
    )


def _objective(loss: str, unit: str, error: str) -> str:
    text = f"these networks minimize another loss than the classifiers of the reference: {loss} (unit: {unit})"
    return text + (f"; their error is the {error}" if error else "") + "; the answer is less reliable than stated"


#: Kind of fact -> its sentence.
SENTENCES: dict[str, Callable[..., str]] = {
    "out_of_range": _out_of_range,
    "unlike_any": lambda reference: (
        f"the reference collection '{reference}' has no model with a similar combination of metrics"
    ),
    "too_few_metrics": _too_few_metrics,
    "contradicted": _contradicted,
    "unlikely": _unlikely,
    "no_clear_gain": _no_clear_gain,
    "nothing_given": lambda wanted: f"a diagnosis needs at least one of the metrics {', '.join(wanted)}; none is given",
    "not_measured": lambda error: error,
    "diverged": lambda: "every network of this configuration diverged, so nothing was measured",
    "guessing": _guessing,
    "metrics_missing": _metrics_missing,
    "metrics_unused": _metrics_unused,
    "question_not_asked": lambda question: f"“{_question(question)}” cannot be answered with these metrics",
    "question_asked_of": lambda question, metrics: f"“{_question(question)}” is answered from {named(metrics)} only",
    "read_as_percent": lambda metrics: (
        f"no model has a value of {named(metrics)} above 1; the values are read as percent, like the other errors"
    ),
    "shares_of_reference": lambda: "the probabilities are the shares of the causes in the reference collection",
    "columns_unused": lambda columns: f"columns not used: {', '.join(columns)}",
    "label_noise": lambda share: (
        f"{percent(share)} of the training labels are noise; the reference has no such models, so its answers are less "
        "reliable than stated"
    ),
    "sampled_errors": lambda side, images, of: (
        f"{side} errors were measured on a random sample of {images} of {of} examples"
    ),
    "sampled_curves": lambda images, of: (
        f"curves were trained on {images} of {of} training examples, as many as fit into memory"
    ),
    "one_pair": _one_pair,
    "one_network": _one_network,
    "no_apply_train": _no_apply_train,
    "no_averages": _no_averages,
    "test_as_validation": lambda: "no validation error is given, so the test error stands for it",
    "chance_unknown": lambda columns: (
        f"the error of guessing is not known; with a column {listed([repr(name) for name in columns], 'or')} the "
        "expected gains would be more certain"
    ),
    "no_held_out": lambda: (
        "there are no held-out data: with test=, the error on new data is shown and limits the expected gain"
    ),
    "halved": lambda side: (
        f"the {side} set was split in halves with a fixed seed: evidence is read on one, errors are of the other"
    ),
    "taken_in": lambda sentence: sentence,
    "objective": _objective,
    "no_experiments": lambda missing: (
        f"no experiment from the checkpoint was run: training= does not say the {listed(missing)}"
    ),
    "no_training_mode": lambda: (
        "no experiment from the checkpoint was run: the networks keep a state (BatchNorm) that training changes, and "
        "that takes an apply_train which updates it as a running average"
    ),
    "no_start": lambda: (
        "the norm of the weights at initialization is not known, and no short training can start: there is no init="
    ),
    "own_schedule": lambda: (
        "no experiment from the checkpoint was run: the optimizer given holds a schedule of its own; give it at its "
        "constant peak rate, and the schedule by its name, training.schedule="
    ),
    "state_unfit": lambda: (
        "the state of the optimizer does not fit its transformation and the parameters: its moments were warmed up "
        "with the weights frozen instead"
    ),
    "networks_probed": lambda number, of: (
        f"experiments were run from {number} of {of} networks, as many as the cost allows"
    ),
    "time_over": lambda seconds, left_out: (
        f"not run, because it would have taken longer than the {seconds:g} s allowed: {listed(left_out)}"
    ),
    "memory_over": lambda left_out: (
        f"not run, because it would have taken more memory than allowed (memory_gb=): {listed(left_out)}"
    ),
    "epochs_unknown": lambda: (
        "the cost of one retraining is not known, because the number of epochs was not given (training.epochs=)"
    ),
    "retraining_at_rate": lambda epochs, images: (
        f"one retraining is {epochs:g} epochs of {images} examples, timed at the throughput of the diagnosis"
    ),
    "of_sweep": lambda: (
        "time and operations are those of the sweep that trained and measured these networks; one retraining is the "
        "share of one network in a cohort trained in parallel, and takes longer alone"
    ),
}
