"""A subject from files: checkpoints of our architectures, of PyTorch, of any Flax model, and of a run folder. JAX.

| checkpoint | how its architecture is known |
|---|---|
| `.safetensors`, `.pt`, `.pth` | PyTorch, `model=resnet18` or `resnet8`; its width is read off the weights |
| folder of Orbax | `model=` one of ours with `model_width=`, or `model=package.module:function` |

No code in a file is executed; a function named by `model=` is the user's own code, and is called.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mdtree_jax.checks import UserError, nearest
from mdtree_jax.models import (
    TORCH_MODELS,
    Model,
    build_model,
    builder_settings,
    from_torch,
    load_torch_file,
    model_names,
)
from mdtree_jax.models.convert import ConvertedWeights
from mdtree_jax.models.flax_module import call_options, shapes_of, split_output
from mdtree_jax.registry.resolve import call_with, is_own, required_arguments, resolve, takes
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
        model: an architecture, or `package.module:function`; see `call_builder`.
        checkpoints: a path for each network.
        image_shape: of one image of the data.
        num_classes: of the data.
        width: of an architecture, or for a user's function that takes one; None for PyTorch's weights.
        may_lack_classes: whether a network may have more logits than the data have classes.

    Raises:
        UserError: an unknown model, a checkpoint that is missing, damaged or of other shapes (they are named).
    """
    check_named(model, checkpoints)
    if is_own(model):
        return _from_function(model, checkpoints, image_shape, num_classes, width)
    return _from_architecture(model, checkpoints, image_shape, num_classes, width, may_lack_classes)


def check_named(model: str, checkpoints: Sequence[str]) -> None:
    """Check what can be said of a model's name and its checkpoints before any data are loaded.

    Raises `UserError` for an unknown model, PyTorch's weights of one that is not converted or that are of another
    network than its name says, a path that is not there.
    """
    if not checkpoints:
        raise UserError("checkpoints=[] is empty; give one or more paths")
    torch = [path for path in checkpoints if Path(path).suffix in TORCH_SUFFIXES]
    if torch and (is_own(model) or model in set(model_names()) - set(TORCH_MODELS)):
        raise UserError(
            f"'{torch[0]}' holds PyTorch weights, which can be converted only for model=resnet18 and model=resnet8; "
            "of another network give its measured metrics, as metrics=TABLE.csv"
        )
    if not is_own(model) and model not in model_names():
        listed = ", ".join(model_names())
        raise UserError(
            f"unknown model '{model}'{nearest(model, model_names())}; available: {listed}; a model of your own is "
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
        raise UserError(f"Orbax checkpoints of {name} need model_width=, for example model_width=16")
    width = width if width is not None else next(iter(widths.values()))
    if may_lack_classes:
        num_classes = max(num_classes, *map(_num_logits, networks))
    for path, found in widths.items():
        if found != width:
            raise UserError(f"'{path}' holds a {name} of width {found}, but model_width={width}")
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


def _from_function(
    spec: str, checkpoints: Sequence[str], image_shape: tuple[int, ...], num_classes: int, width: int | None
) -> Subject:
    made = call_builder(spec, builder_settings(width, num_classes, image_shape))
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
            f"'{spec}' returns a {type(made).__name__}; expected a Flax Linen module, a function apply(variables, x) "
            "or the two functions (apply, apply_train)"
        )
    return wrap(functions[0], networks, *functions[1:])


def call_builder(spec: str, settings: dict[str, Any]) -> Any:
    """Return what the function `package.module:function` returns.

    It is called with those of `settings` that it requires, and with `width` if that is known. Its defaults are kept:
    they describe the network in the checkpoint, while the settings describe the data.

    Raises:
        UserError: there is no such module or function, or it fails.
    """
    function = resolve(spec, "model")
    needed = required_arguments(function)
    if "width" in needed and "width" not in settings:
        raise UserError(f"the function of model={spec} needs model_width=, for example model_width=16")
    if "width" in settings and not takes(function, "width"):
        raise UserError(f"model_width={settings['width']} is given, but the function of model={spec} takes no width")
    known = {name: value for name, value in settings.items() if name in needed or name == "width"}
    return call_with(function, known, f"model={spec}")


def flax_functions(module: nn.Module) -> tuple[Callable, Callable]:
    """Return `apply` and `apply_train` of a Flax module, called as `module(x, train=...)` if it takes that.

    A module that returns more than logits returns them first. In training mode dropout has one fixed mask, because the
    state and the loss at a point must be functions of the point.
    """

    def call(variables: Any, x: jax.Array, train: bool, **options: Any) -> Any:
        return module.apply(variables, x, **call_options(module, train), **options)

    def apply(variables: Any, x: jax.Array) -> jax.Array:
        return split_output(call(variables, x, False))[0]

    def apply_train(variables: Any, x: jax.Array) -> tuple[jax.Array, Any]:
        names = [name for name in variables if name != "params"]
        output, updated = call(variables, x, True, mutable=names, rngs={"dropout": jax.random.key(0)})
        return split_output(output)[0], updated

    return apply, apply_train


def _flax_shapes(module: nn.Module, image_shape: tuple[int, ...], spec: str) -> Any:
    def init(x: jax.Array) -> Any:
        return module.init(jax.random.key(0), x, **call_options(module, False))

    return shapes_of(
        f"the model of {spec} does not accept images of shape {image_shape}", init, jnp.zeros((1, *image_shape))
    )


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
