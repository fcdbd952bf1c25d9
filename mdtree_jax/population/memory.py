"""How much memory the training of a cohort takes, from the traced programs, before anything is compiled. JAX.

The operations of a traced step are gone through in order; an array lives from the operation that makes it to the last
one that reads it, and a loop adds the most that its body holds. Measured against the temporary memory of the compiled
programs (JAX 0.10.2, CPU, `resnet8` of width 1 to 13, `resnet18` of width 2 and 16, batches of 4 to 1024) that is 0.99
to 1.12 times what the compiler takes, but only 0.52 to 0.71 times where a convolution is cut into parts: the compiler
copies what goes into a loop over parts and what comes out. `MARGIN` and `LOOP_MARGIN` cover both.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import Literal

from mdtree_jax import lowering
from mdtree_jax.population.programs import abstract_examples, hyperparameter_shapes, model_of, trainer_of
from mdtree_jax.recipe.cohort import Cohort, Recipe
from mdtree_jax.training import evaluate

MARGIN = 1.15
LOOP_MARGIN = 2.2
STORED_COPIES = 4  # of a network beside its lane: on its device, and in between and at last on the host


class MemoryNeeds(NamedTuple):
    """Bytes: of one network's variables, of a lane that trains and evaluates, of the data set on one device."""

    stored: int
    lane: int
    data: int

    def total(self, num_devices: int, lanes_per_device: int, num_held: int) -> int:
        """Return what a cohort takes with so many devices, lanes on each, and networks in memory at once."""
        lanes = num_devices * lanes_per_device
        return num_devices * self.data + lanes * self.lane + STORED_COPIES * num_held * self.stored


def memory_needs(
    recipe: Recipe, cohort: Cohort, dtype: str = "float32", num_train: int | None = None, num_test: int = 0
) -> MemoryNeeds:
    """Return an upper estimate of the memory of a cohort; `num_train` is the largest subset where it is not given."""
    num_train = num_train or max(member.num_samples for member in cohort.members)
    # A longer training takes no more, so cohorts that differ in it alone are looked at once.
    one_epoch = dataclasses.replace(cohort.shape, train_epochs=1)
    form = lowering.platform(), lowering.convolution()
    return _memory_needs(recipe, one_epoch, cohort.batched, dtype, num_train, max(num_test, 1), form)


@functools.lru_cache(maxsize=256)
def _memory_needs(
    recipe: Recipe,
    cohort: Cohort,
    batched: tuple[str, ...],
    dtype: str,
    num_train: int,
    num_test: int,
    form: tuple[str, str],
) -> MemoryNeeds:
    del form  # in which programs are traced here
    model = model_of(recipe, cohort, dtype)
    trainer = trainer_of(recipe, cohort, model)
    images, labels = abstract_examples(recipe, num_train, dtype)
    hparams = hyperparameter_shapes(batched, dtype)
    variables = jax.eval_shape(model.init, jax.random.key(0))
    state = jax.eval_shape(lambda v, h: trainer.start(v, h, num_train), variables, hparams)

    def test(variables: Any, x: jax.Array, y: jax.Array, count: jax.Array) -> Any:
        return evaluate(model, variables, x, y, count, recipe.eval_batch_size, recipe.objective)

    training = _margined(jax.make_jaxpr(trainer.step)(state, hparams, images, labels).jaxpr)
    epoch = _margined(jax.make_jaxpr(trainer.begin_epoch)(state, hparams).jaxpr)
    evaluation = _margined(jax.make_jaxpr(test)(variables, images, labels, hparams.num_samples).jaxpr)
    if num_test <= recipe.eval_batch_size:  # a loop of one turn is no loop: it may run beside the one on training data
        evaluation *= 2
    held = sum(_bytes(leaf) for leaf in jax.tree.leaves(state))
    data = sum(_bytes(array) for array in abstract_examples(recipe, num_train + num_test, dtype))
    stored = sum(_bytes(leaf) for leaf in jax.tree.leaves(variables))
    # Twice the state: what a step or an epoch's end reads, and what it makes of it.
    return MemoryNeeds(stored, 2 * held + int(max(training, epoch, evaluation)) + 2**16, data)


def _margined(jaxpr: Any) -> float:
    return peak_bytes(jaxpr) * margin(jaxpr)


def margin(jaxpr: Any) -> float:
    """Return how many times its traced bytes a training step, or what goes through such a network, may take."""
    return LOOP_MARGIN if _has_scan(jaxpr) else MARGIN


def _has_scan(jaxpr: Any) -> bool:
    return any(e.primitive.name == "scan" or any(map(_has_scan, _inner(e))) for e in jaxpr.eqns)


def peak_bytes(jaxpr: Any) -> int:
    """Return the most bytes that the arrays made inside a traced program take at one time, each with its own memory.

    >>> import jax, jax.numpy as jnp
    >>> peak_bytes(jax.make_jaxpr(lambda x: jnp.sin(x) + jnp.cos(x))(jnp.zeros(1000, jnp.float32)).jaxpr)
    12000
    """
    last_use: dict[Any, int] = {}
    for index, equation in enumerate(jaxpr.eqns):
        for variable in (*equation.invars, *equation.outvars):
            if not isinstance(variable, Literal):
                last_use[variable] = index
    for variable in jaxpr.outvars:
        if not isinstance(variable, Literal):
            last_use[variable] = len(jaxpr.eqns)
    made = {variable for equation in jaxpr.eqns for variable in equation.outvars}
    live = peak = 0
    for index, equation in enumerate(jaxpr.eqns):
        live += sum(_bytes(variable.aval) for variable in equation.outvars)
        peak = max(peak, live + max(map(peak_bytes, _inner(equation)), default=0))
        ended = {v for v in (*equation.invars, *equation.outvars) if not isinstance(v, Literal)}
        live -= sum(_bytes(v.aval) for v in ended if v in made and last_use[v] == index)
    return peak


def _inner(equation: Any) -> list[Any]:
    """Return the traced programs inside an operation: bodies of loops, branches, calls."""
    values = [v for value in equation.params.values() for v in (value if isinstance(value, tuple) else (value,))]
    inner = [getattr(value, "jaxpr", value) for value in values]
    return [program for program in inner if hasattr(program, "eqns")]


def _bytes(array: Any) -> int:
    try:
        return math.prod(array.shape) * np.dtype(array.dtype).itemsize
    except TypeError:  # a random key
        return 16 * math.prod(array.shape)
