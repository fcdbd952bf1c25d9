"""The network and the trainer of a cohort: what recipe and static knobs make. JAX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from mdtree_jax.models import Model, at_precision, build_knobs, build_model
from mdtree_jax.recipe.cohort import Cohort, Member, Recipe
from mdtree_jax.registry.knobs import KNOBS
from mdtree_jax.registry.objectives import find_objective
from mdtree_jax.training import Hyperparameters, Trainer, make_trainer

_OF_RECIPE = ("early_stop", "early_stop_min_epoch", "early_stop_patience", "early_stop_tolerance")


def model_of(recipe: Recipe, cohort: Cohort, dtype: str = "float32", precision: str | None = None) -> Model:
    """Return the network of a cohort, at the recipe's precision if none is given.

    Raises `UserError` for a knob that the architecture does not take.
    """
    sizes, knobs = (cohort.width, recipe.num_classes, recipe.image_shape), dict(cohort.knobs)
    outputs = find_objective(recipe.objective).output_shape(tuple(recipe.target_shape), recipe.num_classes)
    kinds = {"input_kind": recipe.input_kind, "output_shape": outputs}
    model = build_model(recipe.model, *sizes, dtype, build_knobs(recipe.model, knobs), **kinds)
    return at_precision(model, precision or recipe.precision) if dtype == "float32" else model


def input_of(recipe: Recipe, dtype: str) -> jax.ShapeDtypeStruct:
    """Return the abstract array of one input."""
    return jax.ShapeDtypeStruct(tuple(recipe.image_shape), _type_of(recipe.input_kind, dtype))


def abstract_examples(recipe: Recipe, number: int, dtype: str) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Return the abstract arrays of so many inputs and of their targets."""
    x = jax.ShapeDtypeStruct((number, *recipe.image_shape), _type_of(recipe.input_kind, dtype))
    return x, jax.ShapeDtypeStruct((number, *recipe.target_shape), _type_of(recipe.target_kind, dtype))


def _type_of(kind: str, dtype: str) -> str:
    return dtype if kind == "float" else "int32"


def trainer_of(recipe: Recipe, cohort: Cohort, model: Model) -> Trainer:
    """Return the functions that train a network of a cohort."""
    rule = {name: getattr(recipe, name) for name in _OF_RECIPE}
    knobs = {name: value for name, value in cohort.knobs if KNOBS[name].acts_on != "build"}
    sizes = {"batch_size": cohort.batch_size, "num_epochs": cohort.train_epochs}
    return make_trainer(model, **sizes, objective=recipe.objective, **rule, **knobs)


def hyperparameters_of(
    members: Sequence[Member], keys: Sequence[np.ndarray], batched: tuple[str, ...], dtype: str
) -> Hyperparameters:
    """Return the hyperparameters of some members, stacked; `keys` are their raw keys, `batched` further knobs."""
    return Hyperparameters(
        key=np.stack(keys),
        num_samples=np.array([m.num_samples for m in members], np.int32),
        learning_rate=np.array([m.learning_rate for m in members], dtype),
        weight_decay=np.array([m.weight_decay for m in members], dtype),
        knobs={name: np.array([m.value(name) for m in members], knob_dtype(name, dtype)) for name in batched},
    )


def hyperparameter_shapes(batched: tuple[str, ...], dtype: str) -> Any:
    """Return `Hyperparameters` that hold shapes, of one network; `batched` are the further knobs among them."""
    key, count = jax.ShapeDtypeStruct((2,), "uint32"), jax.ShapeDtypeStruct((), "int32")
    number = jax.ShapeDtypeStruct((), dtype)
    knobs = {name: jax.ShapeDtypeStruct((), knob_dtype(name, dtype)) for name in batched}
    return Hyperparameters._make((key, count, number, number, knobs))


def knob_dtype(name: str, dtype: str) -> Any:
    """Return the type of a batched knob's values in a program whose arithmetic is of `dtype`."""
    return {float: dtype, int: "int32", bool: "bool"}[KNOBS[name].kind]
