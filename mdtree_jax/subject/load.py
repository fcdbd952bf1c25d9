"""A subject from files: checkpoints of our architectures, and of a model of any framework. JAX.

| model | checkpoints |
|---|---|
| `resnet18`, `resnet8` | PyTorch's weights of these (converted, the width read off them), or our own |
| another of our architectures | our own, in any format of `checkpoints.FORMATS`, with `model_width=` |
| `package.module:function` | of the model that it returns, in any format |

No code in a file is executed; a function named by `model=` is the user's own code, and is called.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from mdtree_jax.checks import UserError, nearest
from mdtree_jax.data import call_loader, load_dataset
from mdtree_jax.data.source import RawDataset
from mdtree_jax.diagnosis.facts import Fact
from mdtree_jax.models import TORCH_MODELS, build_model, builder_settings, from_torch, model_names
from mdtree_jax.models.convert import ConvertedWeights
from mdtree_jax.registry.objectives import find_objective
from mdtree_jax.registry.resolve import call_with, is_own, required_arguments, resolve, takes
from mdtree_jax.subject.adapted import subject_of
from mdtree_jax.subject.checkpoints import TORCH_SUFFIXES, load_checkpoint
from mdtree_jax.subject.data import as_sides, take
from mdtree_jax.subject.frameworks import FRAMEWORKS, framework_of
from mdtree_jax.subject.frameworks.base import fit_tree, named_as, named_leaves, with_params
from mdtree_jax.subject.frozen import freeze
from mdtree_jax.subject.held_out import examples_of
from mdtree_jax.subject.network import Examples, Subject, examples, wrap_model


class Named(Protocol):
    """What a command names: the settings of the same names of `diagnose` and `measure`."""

    model: str | None
    model_width: int | None
    checkpoints: list[str]
    step: int | None
    weights: str | None
    frozen: list[str]
    dataset: str | None
    data_dir: str | None
    data_file: str | None
    objective: str


class Loaded(NamedTuple):
    """What a command names: networks, data, facts on how these were read, and variables that training started from."""

    subject: Subject
    data: Examples
    facts: list[Fact]
    initial: tuple[Any, ...] | None


def load_both(named: Named, initial: Sequence[str] = ()) -> Loaded:
    """Return the networks and the data that a command names.

    Args:
        named: settings of the command.
        initial: checkpoints of the networks before their training, in the same order; empty if there are none.

    Raises:
        UserError: as `load_subject`, and data that there are not or that do not fit.
    """
    assert named.model is not None  # checked by the command
    assert named.dataset is not None
    check_named(named.model, named.checkpoints)
    if initial:
        check_named(named.model, initial)
    files = {"data_dir": named.data_dir, "data_file": named.data_file, "objective": named.objective}
    made = call_loader(named.dataset, **files)
    if is_own(named.dataset) and not _is_of_plain_arrays(made):
        sides = made if as_sides(made, "dataset") is not None else {"train": made}
        data, facts = examples_of(sides, objective=named.objective)
        shape = jax.tree.map(lambda a: a.shape[1:], data.x_train)
        num_classes, known = _num_outputs(data.y_train, named.objective), False
    else:
        loaded = load_dataset(named.dataset, **files, made=made)
        sides = loaded.x_train, loaded.y_train, loaded.x_test, loaded.y_test
        data, facts = examples(*sides, objective=named.objective), []
        shape, num_classes, known = loaded.shape.image_shape, loaded.num_classes, loaded.classes_are_known

    def load(checkpoints: Sequence[str]) -> Subject:
        # How many classes there are is not always known of a user's own data: the largest label need not be there.
        subject = load_subject(
            named.model or "",
            checkpoints,
            shape,
            num_classes,
            named.model_width,
            may_lack_classes=not known,
            x=take(data.x_train, slice(2)),
            step=named.step,
            weights=named.weights,
        )
        return freeze(subject._replace(objective=named.objective), named.frozen)

    return Loaded(load(named.checkpoints), data, facts, load(initial).variables if initial else None)


def _num_outputs(targets: np.ndarray, objective: str) -> int:
    """Return how many outputs targets ask for at least: classes that there are, or numbers."""
    if find_objective(objective).has_classes and targets.dtype.kind in "iu":
        return max(2, int(targets.max()) + 1)
    return 1 if targets.ndim < 2 else targets.shape[1]


def _is_of_plain_arrays(made: Any) -> bool:
    """Return whether a loader returned two sides as a sweep takes them: images, tables or sequences."""
    arrays = made._asdict() if hasattr(made, "_asdict") else made
    if not isinstance(arrays, Mapping) or not {"x_train", "y_train", "x_test", "y_test"} <= set(arrays):
        return isinstance(made, RawDataset)
    sides = [arrays[name] for name in ("x_train", "x_test")]
    if any(isinstance(x, (Mapping, tuple)) for x in sides):
        return False
    return all(np.ndim(x) in (2, 3, 4) for x in sides)


def load_subject(
    model: str,
    checkpoints: Sequence[str],
    image_shape: tuple[int, ...],
    num_classes: int,
    width: int | None = None,
    may_lack_classes: bool = False,
    *,
    x: Any = None,
    step: int | None = None,
    weights: str | None = None,
) -> Subject:
    """Return the subject of checkpoints.

    Args:
        model: an architecture, or `package.module:function`; see `call_builder`.
        checkpoints: a path for each network.
        image_shape: of one image of the data.
        num_classes: of the data.
        width: of an architecture, or for a user's function that takes one; None for PyTorch's weights.
        may_lack_classes: whether a network may have more logits than the data have classes.
        x: some inputs, on which a user's model is tried; images of `image_shape` if they are not given.
        step, weights: which network a checkpoint with several is read as; see `load_checkpoint`.

    Raises:
        UserError: an unknown model, a checkpoint that is missing, damaged or of other shapes (they are named).
    """
    check_named(model, checkpoints)
    options = {"step": step, "weights": weights}
    if is_own(model):
        x = np.zeros((2, *image_shape), np.float32) if x is None else x
        return _from_function(model, checkpoints, x, builder_settings(width, num_classes, image_shape), options)
    return _from_architecture(model, checkpoints, image_shape, num_classes, width, may_lack_classes, options)


def check_named(model: str, checkpoints: Sequence[str]) -> None:
    """Check what can be said of a model's name and its checkpoints before any data are loaded.

    Raises `UserError` for an unknown model, PyTorch's weights of one that is not converted or that are of another
    network than its name says, a path that is not there.
    """
    if not checkpoints:
        raise UserError("checkpoints=[] is empty; give one or more paths")
    torch = [path for path in checkpoints if path.endswith(TORCH_SUFFIXES) and not is_own(model)]
    if torch and model in set(model_names()) - set(TORCH_MODELS):
        raise UserError(
            f"'{torch[0]}' holds PyTorch weights, which can be converted only for model=resnet18 and model=resnet8; "
            "of another network give the PyTorch module, as model=package.module:function"
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
    options: Mapping[str, Any],
) -> Subject:
    networks, widths, notes = [], {}, {}
    for path in checkpoints:
        if path.endswith(TORCH_SUFFIXES):
            converted = convert_file(name, path, **options)
            widths[path] = converted.width
            networks.append(converted.variables)
        else:
            loaded = load_checkpoint(path, **options)
            notes |= dict.fromkeys(loaded.notes)
            networks.append(loaded.network)
    if width is None and not widths:
        raise UserError(f"checkpoints of {name} need model_width=, for example model_width=16")
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
    fitted = []
    for path, network in zip(checkpoints, networks, strict=True):
        network, renamed = named_as(network, named_leaves(wanted))
        notes |= dict.fromkeys(renamed)
        try:
            fitted.append(fit_tree(with_params(network), wanted))
        except UserError as error:
            what = f"{name} of width {width} for images {image_shape}"
            raise UserError(f"the checkpoint '{path}' is not of {what}: {error}") from None
    return wrap_model(model, fitted, name)._replace(notes=tuple(notes))


def convert_file(name: str, path: str, **options: Any) -> ConvertedWeights:
    """Return a file of PyTorch's weights as our variables; the `UserError` of `from_torch` names the file."""
    weights = load_checkpoint(path, **options).network
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
    spec: str, checkpoints: Sequence[str], x: Any, settings: dict[str, Any], options: Mapping[str, Any]
) -> Subject:
    made = call_builder(spec, settings)
    if framework_of(made) is None:
        listed = ", ".join(framework.title for framework in FRAMEWORKS)
        raise UserError(
            f"'{spec}' returns a {type(made).__name__}; expected a model of {listed}, a function apply(variables, x) "
            "or the two functions (apply, apply_train)"
        )

    @functools.wraps(resolve(spec, "model"))  # so that it can be seen which sources of random numbers it takes
    def build(**sources: Any) -> Any:
        return call_builder(spec, settings, **sources)

    try:
        return subject_of(made, [os.path.expanduser(path) for path in checkpoints], x, build=build, **options)
    except UserError as error:
        raise UserError(f"model={spec}: {error}") from error


def call_builder(spec: str, settings: dict[str, Any], **sources: Any) -> Any:
    """Return what the function `package.module:function` returns.

    It is called with those of `settings` that it requires, and with `width` if that is known. Its defaults are kept:
    they describe the network in the checkpoint, while the settings describe the data.

    Args:
        spec: the function.
        settings: by name.
        sources: where its random numbers come from, for a fresh network: `key`, `rngs`, `seed`.

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
    known |= _first_sources(needed) | sources
    return call_with(function, known, f"model={spec}")


def _first_sources(needed: Sequence[str]) -> dict[str, Any]:
    """Return the sources of random numbers that a builder requires, for a network whose weights are replaced."""
    first: dict[str, Any] = {"seed": 0}
    if {"key", "rng"} & set(needed):
        first |= dict.fromkeys(("key", "rng"), jax.random.key(0))
    if "rngs" in needed:
        from flax import nnx

        first["rngs"] = nnx.Rngs(0)
    return {name: value for name, value in first.items() if name in needed}
