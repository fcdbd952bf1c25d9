"""From a `Spec` to a `Situation`: seeds trained in one compiled program, with the history of their errors. JAX."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd

from tests.faults.data import DATA, Split
from tests.faults.networks import LOSSES, Net, unexplained, wrong_class, wrong_label

POINTS = 32
OPTIMIZERS: dict[str, Callable[[float, float], optax.GradientTransformation]] = {
    "adam": lambda rate, decay: optax.adamw(rate, weight_decay=decay),
    "rmsprop": lambda rate, decay: optax.rmsprop(rate, decay=0.9),
    "sgd": lambda rate, decay: optax.chain(optax.add_decayed_weights(decay), optax.sgd(rate)),
    "momentum": lambda rate, decay: optax.chain(optax.add_decayed_weights(decay), optax.sgd(rate, 0.9, nesterov=True)),
    "little_momentum": lambda rate, decay: optax.sgd(rate, 0.11, nesterov=True),
}


@dataclasses.dataclass(frozen=True)
class Spec:
    """Everything a training is made of; a fault is a `dataclasses.replace` of a healthy one.

    `labels`: what was done to the training labels: '', `shuffled`, `next_class`, `next_row`; `order`: '' or `sorted`
    by label and never shuffled. `wants`: what the loss takes: logits, probabilities or values. `input_factor`,
    `input_scaled` change the inputs of both sides.
    """

    data: str
    net: Net
    loss: str
    optimizer: str
    learning_rate: float
    batch_size: int
    epochs: float
    wants: str
    weight_decay: float = 0.0
    num_train: int | None = None
    labels: str = ""
    order: str = ""
    input_factor: float = 1.0
    input_scaled: bool = False
    target_scaled: bool = False
    #: For situations that keep the number of steps when the data changes.
    steps: int | None = None

    def but(self, **changes: Any) -> Spec:
        """Return this with changes; `net_last="relu"` changes the network."""
        net = {key[4:]: changes.pop(key) for key in list(changes) if key.startswith("net_")}
        return dataclasses.replace(self, net=self.net.clone(**net), **changes)


@dataclasses.dataclass(frozen=True)
class Situation:
    """What a user has: `apply` as trained, networks of some seeds, data, loss, settings, history by epoch.

    Attributes:
        networks: variables of each seed; `initial`: the ones they started from.
        errors: test error (%) of each seed on the whole test side.
    """

    spec: Spec
    apply: Callable[[Any, Any], Any]
    init: Callable[[Any], Any]
    networks: list[Any]
    initial: list[Any]
    data: Split
    loss: Callable
    error: Callable
    settings: Mapping[str, Any]
    histories: list[pd.DataFrame]
    errors: list[float]

    @property
    def error_mean(self) -> float:
        return float(np.mean(self.errors))


def prepare(spec: Spec, seed: int) -> Split:
    """Return the data as trained on."""
    x, y, x_test, y_test = DATA[spec.data](seed)
    if spec.num_train:
        x, y = x[: spec.num_train], y[: spec.num_train]
    rng = np.random.default_rng(seed + 50)
    if spec.labels == "shuffled":
        y = y[rng.permutation(len(y))]
    elif spec.labels == "next_class":
        y = ((y + 1) % (y.max() + 1)).astype(y.dtype)
    elif spec.labels == "next_row":
        y = np.roll(y, 1, 0)
    if spec.order == "sorted":
        order = np.argsort(y.reshape(len(y), -1)[:, 0], kind="stable")
        x, y = x[order], y[order]
    if spec.input_scaled:
        mean, deviation = x.mean(0), x.std(0) + 1e-6
        x, x_test = (x - mean) / deviation, (x_test - mean) / deviation
    if spec.target_scaled:
        mean, deviation = y.mean(), y.std()
        y, y_test = (y - mean) / deviation, (y_test - mean) / deviation
    return Split(x * np.float32(spec.input_factor), y, x_test * np.float32(spec.input_factor), y_test)


def _batches(spec: Spec, num: int, seed: int) -> np.ndarray:
    """Return the rows of every step, (steps, batch)."""
    rng, batch = np.random.default_rng(seed), min(spec.batch_size, num)
    per_epoch = num // batch
    steps = spec.steps or max(1, round(per_epoch * spec.epochs))
    order = [np.arange(num) if spec.order else rng.permutation(num) for _ in range(-(-steps // per_epoch))]
    return np.concatenate([o[: per_epoch * batch].reshape(per_epoch, batch) for o in order])[:steps].astype(np.int32)


def error_of(spec: Spec, data: Split) -> Callable:
    if spec.wants == "values":
        return unexplained(float(data.y_train.var(0).mean()))
    return wrong_class if data.y_train.ndim == 1 else wrong_label


def _sides(data: Split) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return inputs and targets by side; the validation set is half of the test set."""
    half = len(data.x_test) // 2
    return {"train": data[:2], "validation": (data.x_test[:half], data.y_test[:half]), "test": data[2:]}


def _points(spec: Spec, num_steps: int) -> tuple[int, int]:
    """Return how many points the history has, and the steps between them."""
    points = int(min(POINTS, max(spec.epochs, 1), num_steps))
    return points, num_steps // points


def _make_run(spec: Spec, loss: Callable, error: Callable) -> Callable:
    """Return the training of one network, which gives its variables and the columns of its history, (points,)."""

    def batch_loss(params, state, x, y):
        outputs, changed = spec.net.apply({"params": params, **state}, x, True, mutable=list(state))
        return loss(outputs, y).mean(), changed

    def step(x, y, optimizer, carry, rows):
        variables, moments = carry
        params, state = variables["params"], {k: v for k, v in variables.items() if k != "params"}
        gradient, state = jax.grad(batch_loss, has_aux=True)(params, state, x[rows], y[rows])
        updates, moments = optimizer.update(gradient, moments, params)
        return ({"params": optax.apply_updates(params, updates), **state}, moments), None

    def look(variables, sides):
        found = {}
        for side, (x, y) in sides.items():
            outputs = spec.net.apply(variables, x)
            found[f"{side}_loss"] = loss(outputs, y).mean()
            found[f"{side}_error"] = 100 * error(outputs, y).mean()
        return found

    def run(variables, rows, sides, rate, decay):
        # Rates and data are arguments, so that one program serves all of them.
        optimizer = OPTIMIZERS[spec.optimizer](rate, decay)
        carry = (variables, optimizer.init(variables["params"]))

        def segment(carry, rows):
            carry, _ = jax.lax.scan(functools.partial(step, *sides["train"], optimizer), carry, rows)
            return carry, look(carry[0], sides)

        carry, found = jax.lax.scan(segment, carry, rows)
        return carry[0], found

    return run


def _history(spec: Spec, num_train: int, num_steps: int, columns: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Return the history of a network: `columns` (points,) with its epochs and steps."""
    points, each = _points(spec, num_steps)
    ends = np.linspace(0, num_steps, points + 1).round().astype(int)[1:]
    epochs = ends / (num_train // min(spec.batch_size, num_train))
    return pd.DataFrame({"epoch": epochs, "step": each * np.arange(1, points + 1), **columns})


@functools.cache
def train(spec: Spec, seeds: tuple[int, ...] = (0, 1), data_seed: int = 0) -> Situation:
    """Train one network a seed."""
    data = prepare(spec, data_seed)
    loss, error = LOSSES[spec.loss], error_of(spec, data)

    def init(key):
        return spec.net.init(key, jnp.asarray(data.x_train[:2]))

    def apply(variables, x):
        return spec.net.apply(variables, x)

    batches = np.stack([_batches(spec, len(data.x_train), seed) for seed in seeds])
    num_steps = batches.shape[1]
    points, each = _points(spec, num_steps)
    used = batches[:, : each * points].reshape(len(seeds), points, each, -1)
    initial = jax.tree.map(lambda *leaves: np.stack(leaves), *(init(jax.random.key(seed)) for seed in seeds))
    run = jax.jit(jax.vmap(_make_run(spec, loss, error), (0, 0, None, None, None)))
    rates = np.float32(spec.learning_rate), np.float32(spec.weight_decay)
    trained, found = jax.device_get(run(initial, used, _sides(data), *rates))
    nth = lambda tree: [jax.tree.map(lambda a, i=i: a[i], tree) for i in range(len(seeds))]  # noqa: E731
    histories = [_history(spec, len(data.x_train), num_steps, columns) for columns in nth(found)]
    settings = ("optimizer", "learning_rate", "batch_size", "epochs", "weight_decay")
    return Situation(
        spec,
        apply,
        init,
        nth(trained),
        nth(initial),
        data,
        loss,
        error,
        {name: getattr(spec, name) for name in settings} | {"steps": num_steps},
        [h.drop(columns=["test_loss", "test_error"]) for h in histories],
        [float(h["test_error"].iloc[-1]) for h in histories],
    )


def errors_of(specs: Sequence[Spec], seeds: tuple[int, ...] = (0, 1, 2)) -> list[float]:
    """Return the mean test error of each."""
    return [train(spec, seeds).error_mean for spec in specs]
