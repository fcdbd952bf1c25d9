"""Planted faults over ten healthy networks: `make_fault(name, seed)`; a fault is what was changed in one of these.

Rules and thresholds were looked at on `DEVELOPMENT`, and after a first figure on `HELD_OUT`; `FRESH` was committed
before any of it was run. Of its eleven, two were no faults by retraining (they cost 0.4 and 2.5 points) and are left
out; of the nine others nine were named and one was told a wrong cause beside the right one, dead units that a strong
weight decay made, which has led to a rule since.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.faults.networks import Net
from tests.faults.training import Situation, Spec, train

HEALTHY: dict[str, Spec] = {
    "digits_adam": Spec("digits", Net((64,), 10), "cross_entropy", "adam", 3e-3, 32, 20, "logits"),
    "digits_momentum": Spec("digits", Net((48, 48), 10), "cross_entropy", "momentum", 0.03, 32, 20, "logits"),
    "digits_tanh": Spec("digits", Net((48, 48), 10, "tanh"), "cross_entropy", "adam", 2e-3, 32, 20, "logits"),
    "digits_norm": Spec("digits", Net((48, 48), 10, norm=True), "cross_entropy", "adam", 2e-3, 64, 15, "logits"),
    "images_cnn": Spec(
        "digit_images", Net((32,), 10, channels=(8, 16)), "cross_entropy", "adam", 2e-3, 50, 8, "logits"
    ),
    "wine_softmax": Spec(
        "wine", Net((16,), 3, last="softmax"), "cross_entropy_p", "adam", 5e-3, 10, 40, "probabilities"
    ),
    "cancer_sigmoid": Spec(
        "cancer", Net((30,), 1, last="sigmoid"), "binary_cross_entropy_p", "adam", 2e-3, 16, 20, "probabilities"
    ),
    "unbalanced_sigmoid": Spec(
        "unbalanced", Net((48,), 1, last="sigmoid"), "binary_cross_entropy_p", "adam", 3e-3, 20, 40, "probabilities"
    ),
    "teacher_values": Spec("teacher", Net((32,), 1, "tanh"), "squared_error", "adam", 5e-3, 32, 60, "values"),
    "diabetes_values": Spec("diabetes_scaled", Net((8,), 1), "squared_error", "adam", 3e-3, 32, 25, "values"),
}


class Fault(NamedTuple):
    """One planted fault.

    Attributes:
        base: the healthy network.
        changes: what is wrong, as of `Spec.but`.
        findings: names that are right, one of them is enough.
        allowed: further names that are not wrong, symptoms of the fault among them.
        cure: the change that mends it, None: taking back all changes.
    """

    base: str
    changes: dict
    findings: tuple[str, ...]
    allowed: tuple[str, ...] = ()
    cure: dict | None = None


_STUCK = ("constant_outputs", "no_gradient", "never_moved", "flat_loss")

DEVELOPMENT: dict[str, Fault] = {
    "rate_x30_digits": Fault(
        "digits_momentum",
        {"learning_rate": 0.9},
        ("unstable_loss", "unstable_error", "weights_grown"),
        (*_STUCK, "dead_units"),
    ),
    "rate_div100_digits": Fault("digits_adam", {"learning_rate": 3e-5}, ("straight_loss", "falling_at_end")),
    "unscaled_cancer": Fault("cancer_sigmoid", {"data": "cancer_raw"}, ("inputs_unscaled",), (*_STUCK, "dead_units")),
    "sigmoid_output_diabetes": Fault(
        "diabetes_values", {"data": "diabetes", "net_last": "sigmoid"}, ("targets_out_of_reach",), _STUCK
    ),
    "dead_relu_digits": Fault("digits_momentum", {"net_first_bias": -20.0}, ("dead_units",), _STUCK),
    "zero_init_digits": Fault(
        "digits_tanh", {"net_kernels": "zero"}, ("identical_units", "no_gradient", "never_moved"), _STUCK
    ),
    "shuffled_labels_digits": Fault("digits_momentum", {"labels": "shuffled"}, ("labels_unrelated",), ("wide_gap",)),
    "too_few_epochs_cnn": Fault(
        "images_cnn", {"epochs": 1, "batch_size": 500}, ("few_steps", "falling_at_end"), ("straight_loss",)
    ),
    "forty_examples_digits": Fault("digits_adam", {"num_train": 40, "steps": 740}, ("wide_gap",)),
    "strong_decay_digits": Fault(
        "digits_momentum", {"weight_decay": 0.1}, ("weights_shrunk",), (*_STUCK, "dead_units", "identical_units")
    ),
    "absolute_error_unbalanced": Fault(
        "unbalanced_sigmoid",
        {"loss": "absolute_error", "optimizer": "sgd", "learning_rate": 0.05},
        ("loss_settles_at_majority",),
        (*_STUCK, "straight_loss", "falling_at_end"),
    ),
    "sorted_digits": Fault(
        "digits_momentum", {"order": "sorted"}, ("unshuffled",), ("unstable_loss", "dead_units", *_STUCK)
    ),
    "saturated_tanh_digits": Fault(
        "digits_tanh",
        {"net_kernels": "lecun*12"},
        ("saturated_units", "weights_too_large"),
        ("wide_gap", "falling_at_end"),
    ),
}

HELD_OUT: dict[str, Fault] = {
    "rate_x30_teacher": Fault(
        "teacher_values",
        {"learning_rate": 0.3},
        ("unstable_loss", "unstable_error", "weights_grown"),
        (*_STUCK, "saturated_units"),
    ),
    "rate_div100_cancer": Fault(
        "cancer_sigmoid", {"learning_rate": 2e-5}, ("straight_loss", "falling_at_end"), ("few_steps",)
    ),
    "pixels_to_255_cnn": Fault(
        "images_cnn",
        {"input_factor": 255.0, "optimizer": "momentum", "learning_rate": 0.01},
        ("inputs_unscaled",),
        (*_STUCK, "dead_units", "unstable_loss"),
    ),
    "relu_output_wine": Fault(
        "wine_softmax", {"net_last": "relu", "learning_rate": 1e-3}, ("relu_output",), ("dead_units", *_STUCK)
    ),
    "softmax_one_unit_unbalanced": Fault(
        "unbalanced_sigmoid", {"net_last": "softmax"}, ("softmax_over_one_unit",), _STUCK
    ),
    "dead_relu_cnn": Fault("images_cnn", {"net_first_bias": -8.0}, ("dead_units",), _STUCK),
    "next_class_digits": Fault("digits_adam", {"labels": "next_class"}, ("labels_relabelled",), ("wide_gap",)),
    "whole_batch_digits": Fault(
        "digits_adam", {"batch_size": 1200, "learning_rate": 1e-3}, ("few_steps", "falling_at_end"), ("straight_loss",)
    ),
    "strong_decay_teacher": Fault(
        "teacher_values", {"weight_decay": 20.0}, ("weights_shrunk",), (*_STUCK, "identical_units")
    ),
    "deep_sigmoid_wine": Fault(
        "wine_softmax",
        {"net_hidden": (16,) * 7, "net_activation": "sigmoid"},
        ("vanishing_gradient", "saturated_units"),
        _STUCK,
    ),
    "exploding_init_cnn": Fault(
        "images_cnn",
        {"net_kernels": "lecun*10"},
        ("weights_too_large",),
        ("falling_at_end", "wide_gap", "unstable_loss"),
    ),
    "missing_bias_teacher": Fault(
        "teacher_values", {"data": "teacher_offset", "net_bias": False}, ("biased_outputs",), (), {"net_bias": True}
    ),
    "next_row_teacher": Fault("teacher_values", {"labels": "next_row"}, ("labels_unrelated",), ("wide_gap",)),
}
FRESH: dict[str, Fault] = {
    "rate_div100_teacher": Fault("teacher_values", {"learning_rate": 5e-5}, ("straight_loss", "falling_at_end")),
    "hundred_images_cnn": Fault("images_cnn", {"num_train": 100, "steps": 560}, ("wide_gap",)),
    "relu_output_teacher": Fault("teacher_values", {"net_last": "relu"}, ("targets_out_of_reach",), _STUCK),
    "softmax_output_diabetes": Fault(
        "diabetes_values", {"net_last": "softmax"}, ("softmax_over_one_unit", "targets_out_of_reach"), _STUCK
    ),
    "inputs_x200_tanh": Fault(
        "digits_tanh", {"input_factor": 200.0}, ("inputs_unscaled",), ("saturated_units", "wide_gap", *_STUCK)
    ),
    "next_row_unbalanced": Fault("unbalanced_sigmoid", {"labels": "next_row"}, ("labels_unrelated",), ("wide_gap",)),
    "whole_batch_unbalanced": Fault(
        "unbalanced_sigmoid", {"batch_size": 600}, ("few_steps", "falling_at_end"), ("straight_loss",)
    ),
    "strong_decay_cnn": Fault("images_cnn", {"weight_decay": 30.0}, ("weights_shrunk",), (*_STUCK, "identical_units")),
    "large_init_digits": Fault(
        "digits_adam", {"net_kernels": "lecun*30"}, ("weights_too_large",), ("wide_gap", "falling_at_end")
    ),
}
FAULTS: dict[str, Fault] = DEVELOPMENT | HELD_OUT | FRESH


def faulty_spec(name: str) -> Spec:
    fault = FAULTS[name]
    return HEALTHY[fault.base].but(**fault.changes)


def cured_spec(name: str) -> Spec:
    fault = FAULTS[name]
    return HEALTHY[fault.base] if fault.cure is None else faulty_spec(name).but(**fault.cure)


def make_fault(name: str, seed: int = 0) -> Situation:
    """Return the two networks trained with a fault from seeds 2 seed and 2 seed + 1."""
    return train(faulty_spec(name), (2 * seed, 2 * seed + 1))


def make_healthy(name: str, seed: int = 0) -> Situation:
    return train(HEALTHY[name], (2 * seed, 2 * seed + 1))
