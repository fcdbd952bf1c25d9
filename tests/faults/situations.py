"""Ten training faults that people asked about in public, rebuilt; with what retraining with each change gives."""

from __future__ import annotations

from typing import NamedTuple

from tests.faults.networks import Net
from tests.faults.training import Spec


class Case(NamedTuple):
    """A fault, what mends it, and what does not.

    Attributes:
        spec: as trained.
        cures: changes that mend it, the best first.
        useless: changes that gain less than half of the best cure.
        findings: names of which preflight must tell at least one; empty where the fault shows in probes only.
        allowed: further names that are right.
        causes: that are right beside those of the findings.
    """

    spec: Spec
    cures: tuple[dict, ...]
    useless: tuple[dict, ...]
    findings: tuple[str, ...]
    allowed: tuple[str, ...] = ()
    causes: tuple[str, ...] = ()


_CNN = Net((32,), 10, channels=(8, 16))
_IMAGES = Spec("digit_images", _CNN, "cross_entropy", "adam", 1e-3, 50, 10, "logits")

SITUATIONS: dict[str, Case] = {
    "relu_as_last_of_ten_classes": Case(
        _IMAGES.but(net_last="relu", loss="cross_entropy_p", wants="probabilities"),
        ({"net_last": "softmax"},),
        ({"learning_rate": 2.5e-4},),
        ("relu_output",),
    ),
    "table_in_its_own_units": Case(
        Spec("wine_raw", Net((12, 8), 3), "cross_entropy", "adam", 1e-3, 10, 30, "logits"),
        ({"input_scaled": True},),
        ({"learning_rate": 1e-2}, {"optimizer": "sgd", "learning_rate": 1e-2}),
        ("inputs_unscaled",),
        ("falling_at_end", "dead_units"),
    ),
    "rate_too_hot_but_it_learns": Case(
        _IMAGES.but(optimizer="momentum", learning_rate=0.1, batch_size=32, epochs=8),
        ({"learning_rate": 1e-2},),
        (),
        (),
        ("unstable_loss", "unstable_error", "weights_grown", "dead_units", "constant_outputs"),
        ("temperature_too_high",),
    ),
    "batch_of_a_thousand": Case(
        _IMAGES.but(batch_size=1000, epochs=5),
        ({"batch_size": 50}, {"epochs": 40}),
        (),
        (),
        ("falling_at_end", "few_steps"),
        ("trained_too_short", "temperature_too_low"),
    ),
    "softmax_over_one_unit": Case(
        Spec(
            "cancer",
            Net((50, 50), 1, last="softmax"),
            "binary_cross_entropy_p",
            "rmsprop",
            1e-3,
            16,
            3,
            "probabilities",
        ),
        ({"net_last": "sigmoid"},),
        ({"epochs": 40},),
        ("softmax_over_one_unit",),
        ("constant_outputs", "no_gradient", "never_moved"),
    ),
    "exclusive_or_with_absolute_error": Case(
        Spec(
            "corners",
            Net((4,), 1, "sigmoid", "sigmoid"),
            "absolute_error",
            "little_momentum",
            0.05,
            40,
            1000,
            "probabilities",
        ),
        ({"loss": "squared_error", "optimizer": "adam", "learning_rate": 3e-2},),
        ({"loss": "squared_error"}, {"learning_rate": 0.1}),
        ("loss_settles_at_majority",),
        ("constant_outputs", "straight_loss", "flat_loss"),
    ),
    "relu_as_a_probability": Case(
        Spec(
            "table_raw",
            Net((12, 12), 1, last="relu", kernels="normal0.05"),
            "binary_cross_entropy_p",
            "adam",
            1e-3,
            5,
            30,
            "probabilities",
        ),
        ({"input_scaled": True, "net_last": "sigmoid"},),
        ({"learning_rate": 1e-4},),
        ("relu_output",),
        ("inputs_unscaled", "dead_units", "constant_outputs", "no_gradient"),
        ("inputs_not_scaled",),
    ),
    "line_learnt_too_slowly": Case(
        Spec("line", Net((), 1), "squared_error", "rmsprop", 1e-3, 32, 100, "values"),
        ({"learning_rate": 0.1},),
        ({"input_scaled": True},),
        (),
        ("straight_loss",),
        ("temperature_too_low",),
    ),
    "sigmoid_on_a_regression": Case(
        Spec("short_line", Net((5,), 1, "sigmoid", "sigmoid"), "squared_error", "sgd", 0.01, 160, 1000, "values"),
        ({"net_last": "linear"},),
        ({"learning_rate": 0.1}, {"epochs": 4000}),
        ("targets_out_of_reach",),
        ("constant_outputs", "flat_loss"),
    ),
    "thirty_examples": Case(
        Spec("restoration", Net((128, 128), 64), "squared_error", "adam", 1e-3, 10, 400, "values", num_train=30),
        ({"num_train": 900, "steps": 1200},),
        ({"learning_rate": 2.5e-4}, {"epochs": 1600}),
        (),
        ("wide_gap",),
        ("too_little_data",),
    ),
}
