"""What the findings look at: arrays of one network on a sample of its training examples. JAX."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import pandas as pd

from mdtree_jax.subject.preflight.look import Look, make_look, split
from mdtree_jax.subject.preflight.task import Task, chance_of, error_of, rows_of, task_of
from mdtree_jax.subject.preflight.units import Units

#: Examples that are looked at; fewer of large ones, so that they hold at most so many numbers, but at least 64.
EXAMPLES, NUMBERS, FEWEST_EXAMPLES = 512, 4_000_000, 64


@dataclass(frozen=True)
class Evidence:
    """One network and what is known of its training. n examples, k outputs.

    Attributes:
        task: what the outputs and targets are, of `TASKS`.
        wants: what the loss takes: logits, probabilities or values.
        inputs: pytree of NumPy arrays (n, ...), in the order of the training examples.
        targets: (rows,) labels or (rows, k) values, of the sample; `rows` are n, of tokens n × time.
        outputs: (rows, k).
        shifted: number of rows -> targets of the rows that many places further on.
        params: path -> array.
        initial: the parameters that it started from; None if they are not known.
        fresh: parameters of any fresh initialization, as large as those it started from; None if not known.
        gradient: path -> gradient of the mean training loss on the sample; None if the loss is not known.
        units: what the activation functions give out, in their order; None if they cannot be traced.
        possible: outputs of random parameters, finite ones (draws × rows, k).
        loss: `loss(outputs, targets) -> (n,)` as trained, or None.
        raw_targets, output_shape: the targets as they are given, and the shape of the outputs, which the loss takes.
        validation: targets and outputs of held-out examples, as above, or None.
        history: columns epoch, step, train_loss, train_error, validation_loss, validation_error (%), as far as known.
        training: settings by name: batch_size, learning_rate, weight_decay, steps, shuffle …, as far as known.
        try_inputs: error in % of the network on the sample with other inputs; raises where they do not fit.
        moves_statistics: whether training mode changes the running averages; None if that is not known.
    """

    task: Task
    wants: str
    inputs: Any
    targets: np.ndarray
    outputs: np.ndarray
    shifted: Mapping[int, np.ndarray]
    params: Mapping[str, np.ndarray]
    initial: Mapping[str, np.ndarray] | None = None
    fresh: Mapping[str, np.ndarray] | None = None
    gradient: Mapping[str, np.ndarray] | None = None
    units: tuple[Units, ...] | None = None
    possible: np.ndarray | None = None
    loss: Callable[[Any, Any], Any] | None = None
    raw_targets: np.ndarray | None = None
    output_shape: tuple[int, ...] = ()
    validation: tuple[np.ndarray, np.ndarray] | None = None
    history: pd.DataFrame | None = None
    training: Mapping[str, Any] | None = None
    try_inputs: Callable[[Any], float] | None = None
    moves_statistics: bool | None = None

    @property
    def chance(self) -> float:
        """Error of the best constant prediction on the sample, in %."""
        return chance_of(self.task, self.targets)

    @property
    def train_error(self) -> float:
        """Error on the sample, in %; of values 100 × squared error over variance."""
        return error_of(self.task, self.wants, self.outputs, self.targets)

    @property
    def validation_error(self) -> float | None:
        """Error on the held-out examples, in %; else the history's last."""
        if self.validation is not None:
            return error_of(self.task, self.wants, self.validation[1], self.validation[0])
        if self.history is None or "validation_error" not in self.history:
            return None
        known = self.history["validation_error"].dropna()
        return float(known.iloc[-1]) if len(known) else None

    def setting(self, name: str) -> Any:
        """Return a setting of the training, None if it is not known."""
        return (self.training or {}).get(name)


def gather(
    apply: Callable[[Any, Any], Any],
    variables: Any,
    inputs: Any,
    targets: np.ndarray,
    *,
    wants: str = "logits",
    loss: Callable[[Any, Any], Any] | None = None,
    apply_train: Callable[[Any, Any], Any] | None = None,
    initial: Any = None,
    fresh: Any = None,
    validation: tuple[Any, np.ndarray] | None = None,
    history: pd.DataFrame | None = None,
    training: Mapping[str, Any] | None = None,
    look: Look | None = None,
) -> Evidence:
    """Look at one network; arguments as of `preflight`. `look`: of `make_look`, one for networks of the same shapes."""
    rows = sample_rows(len(targets), _most(inputs))
    x, y = jax.tree.map(lambda a: np.asarray(a)[rows], inputs), np.asarray(targets)[rows]
    params = split(variables)[0]
    outputs, gradient, units, possible = (look or make_look(apply, loss))(variables, x, y)
    task = task_of(outputs, targets, wants)
    wants = _taken(wants, task, loss, outputs, y)

    def try_inputs(x: Any) -> float:
        return error_of(task, wants, *rows_of(task, np.asarray(apply(variables, x)), y))

    held_out = None
    if validation is not None and len(validation[1]):
        at = sample_rows(len(validation[1]), _most(validation[0]))
        x_held = jax.tree.map(lambda a: np.asarray(a)[at], validation[0])
        said, wanted = rows_of(task, np.asarray(jax.jit(apply)(variables, x_held)), np.asarray(validation[1])[at])
        held_out = (wanted, said)
    shifted = {by: rows_of(task, outputs, np.asarray(targets)[(rows + by) % len(targets)])[1] for by in (-1, 1)}
    flat_outputs, flat_targets = rows_of(task, outputs, y)
    return Evidence(
        task,
        wants,
        x,
        flat_targets,
        flat_outputs,
        shifted,
        named(params),
        None if initial is None else named(split(initial)[0]),
        None if fresh is None else named(split(fresh)[0]),
        None if gradient is None else named(gradient),
        units,
        None if possible is None else np.asarray(possible, np.float64).reshape(-1, flat_outputs.shape[1]),
        loss,
        y,
        outputs.shape,
        held_out,
        history,
        training,
        try_inputs,
        None if apply_train is None else _moves(apply_train, variables, x),
    )


def _taken(wants: str, task: Task, loss: Callable | None, outputs: np.ndarray, y: np.ndarray) -> str:
    """Return what a loss takes of labels: probabilities where it is 0 at the labels themselves, else as it was said."""
    if wants != "logits" or task == "values" or loss is None or outputs.ndim > 2:
        return wants
    _, targets = rows_of(task, outputs, y)
    k = outputs.shape[1] if outputs.ndim > 1 else 1
    perfect = np.eye(k, dtype=np.float32)[targets] if task == "classes" else targets.astype(np.float32)
    worst = np.roll(perfect, 1, 1) if task == "classes" else 1 - perfect
    if len(perfect) != len(outputs) or perfect.size != outputs.size:
        return wants
    at, away = (float(np.mean(np.asarray(loss(o.reshape(outputs.shape), y)))) for o in (perfect, worst))
    return "probabilities" if abs(at) < 1e-3 * abs(away) else wants


def sample_rows(num: int, most: int) -> np.ndarray:
    """Return the rows of a random sample with a fixed seed, in ascending order."""
    return np.sort(np.random.default_rng(0).permutation(num)[:most])


def _most(inputs: Any) -> int:
    """Return how many examples are looked at."""
    numbers = sum(leaf.size // max(len(leaf), 1) for leaf in jax.tree.leaves(inputs))
    return int(np.clip(NUMBERS // max(numbers, 1), FEWEST_EXAMPLES, EXAMPLES))


def named(tree: Any) -> dict[str, np.ndarray]:
    """Return path -> leaf, as NumPy."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _moves(apply_train: Callable, variables: Any, x: Any) -> bool | None:
    _, state, _ = split(variables)
    if not jax.tree.leaves(state):
        return None
    updated = apply_train(variables, x)[1]
    pairs = [(old, updated[name]) for name, old in state.items() if name in updated]
    return any(
        not np.array_equal(a, b)
        for old, new in pairs
        for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True)
    )
