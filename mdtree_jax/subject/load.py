"""A subject from files: checkpoints of our architectures, of PyTorch, of any Flax model, and of a run folder. JAX.

| checkpoint | how its architecture is known |
|---|---|
| `.safetensors`, `.pt`, `.pth` | PyTorch, `model=resnet18` or `resnet8`; its width is read off the weights |
| folder of Orbax | `model=` one of ours with `model_width=`, or `model=package.module:function` |

Nothing that a file holds is executed; a function named by `model=` is the user's own code, and is called.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mdtree_jax.checks import UserError, nearest
from mdtree_jax.models import TORCH_MODELS, Model, build_model, from_torch, load_torch_file, model_names
from mdtree_jax.models.convert import ConvertedWeights
from mdtree_jax.store.checkpoint import load_variables
from mdtree_jax.subject.network import Subject, leaf_name, wrap, wrap_model

TORCH_SUFFIXES = (".safetensors", ".pt", ".pth")


def load_subject(
    model: str,
    checkpoints: Sequence[str],
    image_shape: tuple[int, ...],
    num_classes: int,
    width: int | None = None,
    may_lack_classes: bool = False,
) -> Subject:
    """Return the subject of checkpoints.

    Args:
        model: an architecture of ours, or `package.module:function`; see `call_builder`.
        checkpoints: a path for each network.
        image_shape: of one image of the data.
        num_classes: of the data.
        width: of an architecture of ours; None for PyTorch's weights and for a user's function.
        may_lack_classes: whether a network may have more logits than the data have classes.

    Raises:
        UserError: an unknown model, a checkpoint that is missing, damaged or of other shapes (they are named).
    """
    check_named(model, checkpoints)
    if ":" in model:
        return _from_function(model, checkpoints, image_shape)
    return _from_architecture(model, checkpoints, image_shape, num_classes, width, may_lack_classes)


def check_named(model: str, checkpoints: Sequence[str]) -> None:
    """Check what can be said of a model's name and its checkpoints before any data are loaded.

    Raises `UserError` for an unknown model, PyTorch's weights of one that is not converted or that are of another
    network than its name says, a path that is not there.
    """
    if not checkpoints:
        raise UserError("checkpoints=[] names no network; give one or more paths")
    torch = [path for path in checkpoints if Path(path).suffix in TORCH_SUFFIXES]
    if torch and (":" in model or model in set(model_names()) - set(TORCH_MODELS)):
        raise UserError(
            f"'{torch[0]}' holds PyTorch's weights, which are converted for model=resnet18 and model=resnet8 only; "
            "of another network give its measured metrics, as metrics=TABLE.csv"
        )
    if ":" not in model and model not in model_names():
        listed = ", ".join(model_names())
        raise UserError(
            f"unknown model '{model}'{nearest(model, model_names())}; there are: {listed}; a model of your own is "
            "package.module:function, and of one that JAX cannot run give the measured metrics, as metrics=TABLE.csv"
        )
    for place, path in enumerate(checkpoints):
        if os.path.exists(os.path.expanduser(path)):  # also false for a name that is too long
            continue
        for end in range(place + 2, len(checkpoints) + 1):
            if os.path.exists(os.path.expanduser(whole := ",".join(checkpoints[place:end]))):
                raise UserError(
                    f"the checkpoint '{path}' does not exist, but '{whole}' does: a path with a comma needs quotes "
                    f"within the quotes: 'checkpoints=[\"{whole}\"]'"
                )
        raise UserError(f"the checkpoint '{path}' does not exist")
    for path in torch:
        convert_file(model, path)


def _from_architecture(
    name: str,
    checkpoints: Sequence[str],
    image_shape: tuple[int, ...],
    num_classes: int,
    width: int | None,
    may_lack_classes: bool,
) -> Subject:
    networks, widths = [], {}
    for path in checkpoints:
        if Path(path).suffix in TORCH_SUFFIXES:
            converted = convert_file(name, path)
            widths[path] = converted.width
            networks.append(converted.variables)
        else:
            networks.append(load_variables(Path(path).expanduser()))
    if width is None and not widths:
        raise UserError(f"model_width is not given; Orbax checkpoints of {name} need it, as model_width=16")
    width = width if width is not None else next(iter(widths.values()))
    if may_lack_classes:
        num_classes = max(num_classes, *map(_num_logits, networks))
    for path, found in widths.items():
        if found != width:
            raise UserError(f"'{path}' holds a {name} of width {found}, wanted is width {width}")
    if len(image_shape) != 3:
        raise UserError(f"images have shape {image_shape}; {name} takes (height, width, channels)")
    model = build_model(name, width, num_classes, image_shape)
    wanted = jax.eval_shape(model.init, jax.random.key(0))
    for path, network in zip(checkpoints, networks, strict=True):
        _check_shapes(path, network, wanted, f"{name} of width {width} for images {image_shape}")

    return wrap_model(model, networks, name)


def convert_file(name: str, path: str) -> ConvertedWeights:
    """Return a file of PyTorch's weights as our variables; the `UserError` of `from_torch` names the file."""
    weights = load_torch_file(path)
    try:
        return from_torch(name, weights)
    except UserError as error:
        raise UserError(f"'{path}': {error}") from None


def _num_logits(network: Any) -> int:
    """Return the logits of the last layer of one of our architectures, 0 where there is no such layer."""
    try:
        return int(network["params"]["head"]["bias"].shape[0])
    except (KeyError, TypeError, IndexError, AttributeError):
        return 0


def _from_function(spec: str, checkpoints: Sequence[str], image_shape: tuple[int, ...]) -> Subject:
    made = call_builder(spec)
    networks = [load_variables(Path(path).expanduser()) for path in checkpoints]
    if isinstance(made, nn.Module):
        wanted = _flax_shapes(made, image_shape, spec)
        for path, network in zip(checkpoints, networks, strict=True):
            _check_shapes(path, network, wanted, f"the model of {spec} for images {image_shape}")
        apply, apply_train = flax_functions(made)
        return wrap(apply, networks, apply_train)
    if isinstance(made, Model):
        return wrap_model(made, networks)
    functions = made if isinstance(made, tuple) else (made,)
    if not 1 <= len(functions) <= 2 or not all(callable(f) for f in functions):
        raise UserError(
            f"'{spec}' returns a {type(made).__name__}; wanted a Flax Linen module, a function apply(variables, x), or "
            "the two functions (apply, apply_train)"
        )
    return wrap(functions[0], networks, *functions[1:])


def call_builder(spec: str) -> Any:
    """Return what the function `package.module:function` returns, called without arguments.

    The working directory is looked in too. Raises `UserError` if there is no such module or function, or if it fails.
    """
    module_name, _, name = spec.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a user's code may raise anything
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"model={spec}: the module '{module_name}' cannot be imported ({why})") from error
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(os.getcwd())
    function = getattr(module, name, None)
    if not callable(function):
        there = [n for n, value in vars(module).items() if inspect.isfunction(value)]
        raise UserError(f"model={spec}: '{module_name}' has no function '{name}'; there are: {', '.join(there)}")
    try:
        return function()
    except Exception as error:  # a user's code may raise anything
        why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"model={spec}: the function is called without arguments, and fails ({why})") from error


def flax_functions(module: nn.Module) -> tuple[Callable, Callable]:
    """Return `apply` and `apply_train` of a Flax module, called as `module(x, train=...)` if it takes that.

    A module that returns more than logits returns them first. In training mode dropout has one fixed mask, because the
    state and the loss at a point must be functions of the point.
    """
    takes_train = _takes_train(module)

    def call(variables: Any, x: jax.Array, train: bool, **options: Any) -> Any:
        return module.apply(variables, x, **({"train": train} if takes_train else {}), **options)

    def logits(output: Any) -> jax.Array:
        return output[0] if isinstance(output, tuple) else output

    def apply(variables: Any, x: jax.Array) -> jax.Array:
        return logits(call(variables, x, False))

    def apply_train(variables: Any, x: jax.Array) -> tuple[jax.Array, Any]:
        names = [name for name in variables if name != "params"]
        output, updated = call(variables, x, True, mutable=names, rngs={"dropout": jax.random.key(0)})
        return logits(output), updated

    return apply, apply_train


def _takes_train(module: nn.Module) -> bool:
    return "train" in inspect.signature(type(module).__call__).parameters


def _flax_shapes(module: nn.Module, image_shape: tuple[int, ...], spec: str) -> Any:
    options = {"train": False} if _takes_train(module) else {}
    try:
        return jax.eval_shape(lambda x: module.init(jax.random.key(0), x, **options), jnp.zeros((1, *image_shape)))
    except Exception as error:  # a user's code may raise anything
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the model of {spec} does not take images of shape {image_shape}: {reason}") from error


def _check_shapes(path: str, network: Any, wanted: Any, what: str) -> None:
    """Raise `UserError` unless a network has the arrays that its architecture has; the first that differ are named."""
    have, need = (
        {leaf_name(p): tuple(np.shape(leaf)) for p, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (network, wanted)
    )
    missing = [name for name in need if name not in have]
    unknown = [name for name in have if name not in need]
    if missing or unknown:
        faults = [f"lacks {missing[0]}"] if missing else []
        faults += [f"holds {unknown[0]}"] if unknown else []
        raise UserError(f"the checkpoint '{path}' is not of {what}: it {' and '.join(faults)}")
    wrong = [f"{name} {have[name]} instead of {shape}" for name, shape in need.items() if have[name] != shape]
    if wrong:
        raise UserError(f"the checkpoint '{path}' is not of {what}: {', '.join(wrong[:3])}")
