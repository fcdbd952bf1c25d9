"""A collection over width, learning rate and weight decay whose gains follow from its metrics."""

import numpy as np
import pandas as pd

WIDTHS, RATES = [1, 2, 3, 4, 6, 8, 11, 16], [0.0125, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8]
DECAYS = [0.0, 1e-5, 1e-4, 1e-3]


def rate_collection(*, batch_size=32, data_fraction=1.0, seed=0, decays=DECAYS):
    """Return the complete lattice as a sweep writes it: batch size and data fraction are there, with one value each."""
    rng = np.random.default_rng(seed)
    index = pd.MultiIndex.from_product([WIDTHS, RATES, decays], names=["width", "learning_rate", "weight_decay"])
    frame = index.to_frame(index=False).assign(batch_size=batch_size, data_fraction=data_fraction, train_epochs=10)
    return with_metrics(frame, rng)


def random_rates(n, seed=0):
    """Return a random search over the same knobs."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"width": np.exp2(rng.uniform(0, 4, n)), "learning_rate": np.exp2(rng.uniform(-6.3, -0.3, n))})
    frame["weight_decay"] = 10 ** rng.uniform(-5, -3, n)
    return with_metrics(frame.assign(batch_size=32, data_fraction=1.0), rng)


def heat_of(frame):
    """Return how much too hot the models are: 0 at a learning rate of 0.1, in e-foldings."""
    return np.log(frame.learning_rate / 0.1)


def with_metrics(frame, rng):
    heat, n = heat_of(frame), len(frame)
    weak = np.log10(frame.weight_decay + 1e-6) + 4
    frame["test_error"] = 30 / frame.width**0.7 + 4 * heat**2 + 0.8 * weak**2 + 0.1 * rng.random(n)
    frame["train_error"] = 2 * np.exp(1.5 * heat)
    frame["train_loss"] = np.exp(heat)
    frame["log_hessian_trace"] = 6 - heat + 0.1 * rng.normal(size=n)
    frame["log_hessian_max_eigenvalue"] = 3 - heat - 0.2 * weak
    frame["mode_connectivity"] = 2 * np.log(frame.width)
    frame["mode_connectivity_peak"] = -30.0 / frame.width
    frame["cka"] = 0.5 + 0.05 * weak
    frame["num_samples"], frame["num_parameters"] = 1000, (10 * frame.width**2).round().astype(int)
    frame["test_loss"] = frame.test_error / 20
    return frame
