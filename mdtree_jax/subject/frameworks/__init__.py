"""Models of any framework as pure functions: one adapter a framework, one entry of `FRAMEWORKS` for each. JAX.

A framework is recognised by the type of the model and never imported before: who holds its model has imported it.
Start with `adapt`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from mdtree_jax.checks import UserError
from mdtree_jax.models import Model
from mdtree_jax.registry.resolve import takes
from mdtree_jax.subject.frameworks import (
    equinox_models,
    functions,
    haiku_models,
    keras_models,
    linen_models,
    nnx_models,
    torch_models,
)
from mdtree_jax.subject.frameworks.base import Adapted, reason


class Framework(NamedTuple):
    """A framework whose models are measured.

    Attributes:
        name: identifier, of the extra too.
        title: display name.
        types: (module, class) of the base classes of its models; a class of any module within counts.
        adapt: `adapt(model, x[, build]) -> Adapted`, for inputs `x`, a pytree of arrays with some rows.
        extra: what to install, empty if it comes with the package.
        networks: what a network of it is, in words.
    """

    name: str
    title: str
    types: tuple[tuple[str, str], ...]
    adapt: Callable[..., Adapted]
    extra: str
    networks: str


FRAMEWORKS: tuple[Framework, ...] = (
    Framework("linen", "Flax Linen", (("flax.linen", "Module"),), linen_models.adapt, "", "its variables"),
    Framework("nnx", "Flax NNX", (("flax.nnx", "Module"),), nnx_models.adapt, "", "a module, or its state"),
    Framework(
        "equinox", "Equinox", (("equinox", "Module"),), equinox_models.adapt, "equinox", "a module, or (module, state)"
    ),
    Framework(
        "haiku",
        "Haiku",
        (("haiku", "Transformed"), ("haiku", "TransformedWithState")),
        haiku_models.adapt,
        "haiku",
        "params, or (params, state)",
    ),
    Framework("keras", "Keras", (("keras", "Model"),), keras_models.adapt, "keras", "a model, or its weights in order"),
    Framework(
        "torch", "PyTorch", (("torch.nn", "Module"),), torch_models.adapt, "torch", "a module, or its state dict"
    ),
)

#: What is no model of a framework: `apply(variables, x)`, the pair `(apply, apply_train)`, or our `Model`.
FUNCTIONS = Framework("functions", "plain functions", (), functions.adapt, "", "the pytree that they take")


def framework_of(model: Any) -> Framework | None:
    """Return the framework of a model, by its type; None if it is of none.

    >>> framework_of(lambda variables, x: x).name, framework_of(3)
    ('functions', None)
    """
    # Equinox's models with state come as a pair.
    first = model[0] if isinstance(model, tuple) and model and not hasattr(model, "_fields") else model
    kinds = [(kind.__module__, kind.__name__) for kind in type(first).__mro__]
    for framework in FRAMEWORKS:
        for module, name in framework.types:
            if any(kind == name and (f"{where}.").startswith(f"{module}.") for where, kind in kinds):
                return framework
    whole = model if isinstance(model, tuple) and not isinstance(model, Model) else (model,)
    rest = all(callable(one) or one is None for one in whole[1:])
    is_functions = isinstance(model, Model) or (1 <= len(whole) <= 3 and callable(whole[0]) and rest)
    return FUNCTIONS if is_functions and not isinstance(model, type) else None


def adapt(model: Any, x: Any, build: Callable[..., Any] | None = None) -> Adapted:
    """Return a model of any framework as pure functions.

    Args:
        model: a model object of one of `FRAMEWORKS`, a function, or (apply, apply_train).
        x: inputs as the model takes them, a pytree of arrays with at least one row; some are tried.
        build: returns a fresh model, for `Adapted.init` of frameworks whose models hold their weights.

    Raises:
        UserError: a model of no known framework, or one that does not accept the inputs.
    """
    found = framework_of(model)
    if found is None:
        listed = ", ".join(framework.title for framework in FRAMEWORKS)
        kind = f"the class {model.__name__}, not an object of it" if isinstance(model, type) else type(model).__name__
        raise UserError(f"the model is a {kind}; expected one of {listed}, or a function apply(variables, x)")
    options = {"build": build} if build is not None and takes(found.adapt, "build") else {}
    try:
        return found.adapt(model, x, **options)
    except UserError:
        raise
    except Exception as error:  # a user's code may raise anything
        raise UserError(f"the {found.title} model cannot be used: {reason(error)}") from error
