"""The remedies: what can be changed and trained again, and how its gain is defined. No JAX.

The gain of a remedy is the test error of a network minus that of one that is trained from scratch with one knob
changed, in points. A remedy is one entry: labels, the model of gains, races, advice and words follow from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mdtree_jax.registry.probes import REFRESHED
from mdtree_jax.registry.register import BINDERS, in_table
from mdtree_jax.registry.table import Table


@dataclass(frozen=True)
class Remedy:
    """One remedy.

    Attributes:
        name: identifier; `gain_<name>` is the column of its gain.
        knob: that is changed.
        factor: of the knob's value; 0 where the change is not by a factor (`value`).
        cause: that it addresses.
        value: new value of the knob, if it is not multiplied.
        is_free: whether the training costs no more and needs nothing new.
        steps: training steps of a racer, relative to the network's own training at the same share.
        races: whether a short training shows its gain; more steps always look best at an equal share.
        probe: that shows its gain as it is, on the held-out examples; '' where the gain is predicted.
        meaning: one line for help and tables.
        words: what to do, an imperative that follows "To gain most, …".
    """

    name: str
    knob: str = ""
    factor: float = 0.0
    cause: str = ""
    value: float | None = None
    is_free: bool = False
    steps: float = 1.0
    races: bool = True
    probe: str = ""
    meaning: str = ""
    words: str = ""


REMEDIES: Table[Remedy] = Table(
    "remedy",
    [
        Remedy(
            "rate_up",
            "learning_rate",
            3.0,
            "temperature_too_low",
            is_free=True,
            meaning="learning rate x 3",
            words="raise the learning rate by a factor of 3",
        ),
        Remedy(
            "rate_down",
            "learning_rate",
            1 / 3,
            "temperature_too_high",
            is_free=True,
            meaning="learning rate / 3",
            words="lower the learning rate by a factor of 3",
        ),
        Remedy(
            "batch_down",
            "batch_size",
            0.5,
            "temperature_too_low",
            is_free=True,
            steps=2.0,
            meaning="batch size / 2",
            words="halve the batch size",
        ),
        Remedy(
            "batch_up",
            "batch_size",
            2.0,
            "temperature_too_high",
            is_free=True,
            steps=0.5,
            meaning="batch size x 2",
            words="double the batch size",
        ),
        Remedy("wider", "width", 2.0, "model_too_small", meaning="width x 2", words="make the network twice as wide"),
        Remedy(
            "more_data",
            "data_fraction",
            2.0,
            "too_little_data",
            steps=2.0,
            meaning="training data x 2",
            words="get twice as much training data",
        ),
        Remedy(
            "longer",
            "train_epochs",
            4.0,
            "trained_too_short",
            steps=4.0,
            races=False,
            meaning="epochs x 4",
            words="train for four times as many epochs",
        ),
        Remedy(
            "decay_up",
            "weight_decay",
            10.0,
            "too_little_regularization",
            is_free=True,
            meaning="weight decay x 10",
            words="raise the weight decay by a factor of 10",
        ),
        Remedy(
            "decay_down",
            "weight_decay",
            0.1,
            "too_much_regularization",
            is_free=True,
            meaning="weight decay / 10",
            words="lower the weight decay by a factor of 10",
        ),
        Remedy(
            "smoothing_on",
            "label_smoothing",
            value=0.1,
            cause="too_little_regularization",
            is_free=True,
            meaning="label smoothing 0.1",
            words="smooth the labels by 0.1",
        ),
        Remedy(
            "augment_on",
            "augment",
            value=1.0,
            cause="too_little_regularization",
            is_free=True,
            meaning="data augmentation on",
            words="augment the training data",
        ),
        Remedy(
            "refreshed",
            cause="stale_statistics",
            is_free=True,
            steps=0.0,
            races=False,
            probe=REFRESHED,
            meaning="statistics of BatchNorm computed anew",
            words="recompute the BatchNorm statistics over the training data, with the weights as they are",
        ),
    ],
)
BINDERS[Remedy] = in_table(REMEDIES)


@dataclass(frozen=True)
class Comparison:
    """A question that expected gains answer: which of two groups of remedies gains more?

    Attributes:
        name: identifier.
        sentence: the question in words.
        answers: name of the answer -> causes whose remedies belong to it.
        words: name of the answer -> in words; it follows the question.
    """

    name: str
    sentence: str
    answers: Mapping[str, tuple[str, ...]]
    words: Mapping[str, str]

    def remedies(self, answer: str) -> tuple[str, ...]:
        """Return the remedies of an answer."""
        return tuple(name for name, remedy in REMEDIES.items() if remedy.cause in self.answers[answer])


_TEMPERATURE = ("temperature_too_low", "temperature_too_high")


def _against_temperature(name: str, sentence: str, answer: str, cause: str, words: str) -> Comparison:
    answers = {"temperature": _TEMPERATURE, answer: (cause,)}
    return Comparison(name, sentence, answers, {"temperature": "a better temperature", answer: words})


COMPARISONS: Mapping[str, Comparison] = {
    one.name: one
    for one in (
        Comparison(
            "optimizer",
            "Was the training temperature too low or too high?",
            {"too_low": _TEMPERATURE[:1], "too_high": _TEMPERATURE[1:]},
            {"too_low": "too low: train hotter", "too_high": "too high: train colder"},
        ),
        _against_temperature(
            "size",
            "Would a larger model gain more than a better temperature?",
            "size",
            "model_too_small",
            "a larger model",
        ),
        _against_temperature(
            "data",
            "Would more training data gain more than a better temperature?",
            "data",
            "too_little_data",
            "more data",
        ),
        _against_temperature(
            "time",
            "Would a longer training gain more than a better temperature?",
            "time",
            "trained_too_short",
            "a longer training",
        ),
    )
}
