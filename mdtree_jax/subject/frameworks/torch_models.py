"""PyTorch: any `torch.nn.Module`, run by JAX through torchax. Networks are modules or state dicts. JAX.

BatchNorm is computed here and not by torchax, which does not move its statistics. PyTorch updates a running variance by
the variance with denominator n - 1 while it normalizes with n; so does this.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mdtree_jax.checks import UserError
from mdtree_jax.models.weight_files import as_numpy
from mdtree_jax.subject.frameworks.base import (
    COUNTERS,
    Adapted,
    call_inputs,
    fit_names,
    fixed_key,
    outputs_of,
    reason,
    rows_of,
    shapes_text,
)
from mdtree_jax.subject.frameworks.build import make_init, seed_of
from mdtree_jax.subject.frameworks.torchax_shim import environment, operator_not_found


def adapt(module: Any, x: Any, build: Callable[..., Any] | None = None) -> Adapted:
    """Return a PyTorch module as pure functions; `eval()` and `train()` are set on copies, in float32.

    Images (n, height, width, channels) are turned to PyTorch's (n, channels, height, width) where the module accepts
    only these, and a note says so.
    """
    env = environment()
    moved: dict[str, Any] = {}
    modules = {train: _prepared(module, train, moved) for train in (False, True)}
    call = modules[False].forward
    wanted = {role: _named(modules[False], role) for role in ("params", "state")}

    def run(variables: Any, x: Any, train: bool, key: Any) -> tuple[Any, dict[str, Any]]:
        from torch.func import functional_call  # pyright: ignore[reportMissingImports]

        moved.clear()
        named = {name.replace("/", "."): jnp.asarray(a) for part in variables.values() for name, a in part.items()}
        args, keywords = env.j2t_iso(call_inputs(jax.tree.map(jnp.asarray, x), call))
        with env, env.override_property(prng=key):
            output = outputs_of(functional_call(modules[train], env.j2t_iso(named), args, keywords))
        updated = {name.replace(".", "/"): env.t2j_iso(value) for name, value in moved.items()}
        moved.clear()
        return env.t2j_iso(output), updated

    def checked(*arguments: Any) -> Any:
        try:
            return run(*arguments)
        except operator_not_found() as error:
            raise UserError(
                f"this PyTorch model cannot be run by JAX: {reason(error)} in torchax; write that layer with other "
                "operators, or give the model's measured metrics (metrics=TABLE.csv)"
            ) from error

    turn, notes = _layout(checked, wanted, rows_of(x, 2))

    def apply(variables: Any, x: Any) -> Any:
        return checked(variables, turn(x), False, fixed_key(None))[0]

    def apply_train(variables: Any, x: Any, key: Any = None) -> tuple[Any, Any]:
        outputs, updated = checked(variables, turn(x), True, fixed_key(key))
        return outputs, {"params": variables["params"], "state": {**variables["state"], **updated}}

    def variables(network: Any) -> Any:
        return _variables(network, modules[False], wanted)

    return Adapted(
        apply,
        apply_train,
        variables,
        _init(module, build, variables),
        "torch",
        tuple(wanted["params"] | wanted["state"]),
        notes,
    )


def _prepared(module: Any, train: bool, moved: dict[str, Any]) -> Any:
    """Return a copy in a mode, whose BatchNorm layers write their updated statistics to `moved`."""
    from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportMissingImports]

    prepared = copy.deepcopy(module).cpu().float().train(train)
    for name, layer in prepared.named_modules():
        if isinstance(layer, _BatchNorm):
            layer.forward = functools.partial(_batch_norm, layer, f"{name}." if name else "", moved)
    return prepared


def _batch_norm(layer: Any, prefix: str, moved: dict[str, Any], x: Any) -> Any:
    """Return a batch normalized, in PyTorch's operators without side effects."""
    axes, shape = [0, *range(2, x.dim())], [1, -1, *[1] * (x.dim() - 2)]
    mean, variance = layer.running_mean, layer.running_var
    if layer.training or mean is None:
        batch = x.mean(axes)
        spread = ((x - batch.reshape(shape)) ** 2).mean(axes)
        if layer.training and mean is not None:
            count = x.numel() // x.shape[1]
            # Without a momentum PyTorch averages over all batches since the start; here the first is all there is.
            factor = 1.0 if layer.momentum is None else layer.momentum
            moved[f"{prefix}running_mean"] = (1 - factor) * mean + factor * batch
            unbiased = spread * (count / max(count - 1, 1))
            moved[f"{prefix}running_var"] = (1 - factor) * variance + factor * unbiased
        mean, variance = batch, spread
    x = (x - mean.reshape(shape)) * (variance.reshape(shape) + layer.eps) ** -0.5
    return x if layer.weight is None else x * layer.weight.reshape(shape) + layer.bias.reshape(shape)


def _named(module: Any, role: str) -> dict[str, np.ndarray]:
    """Return parameters that are trained, or the rest: frozen parameters and buffers; counters of batches left out."""
    parameters = dict(module.named_parameters())
    trained = {name for name, tensor in parameters.items() if tensor.requires_grad}
    if role == "params":
        found = {name: parameters[name] for name in parameters if name in trained}
    else:
        found = {name: tensor for name, tensor in parameters.items() if name not in trained}
        found |= {n: t for n, t in module.named_buffers() if not n.endswith(COUNTERS)}
    return {name.replace(".", "/"): as_numpy(tensor) for name, tensor in found.items()}


def _variables(network: Any, module: Any, wanted: dict[str, Any]) -> Any:
    """Return a network's variables: a module's, or those of a state dict; tied names count once."""
    if hasattr(network, "state_dict"):
        network = network.state_dict()
    if not isinstance(network, Mapping):
        raise UserError(f"a network is a {type(network).__name__}; expected a torch.nn.Module or its state dict")
    given = {str(name).replace(".", "/"): value for name, value in network.items() if hasattr(value, "shape")}
    given = {name: as_numpy(value) if hasattr(value, "detach") else value for name, value in given.items()}
    every = wanted["params"] | wanted["state"]
    known = {name.replace(".", "/") for name in module.state_dict()}
    given = {name: value for name, value in given.items() if name in every or name not in known}
    given = {name: value for name, value in given.items() if not name.endswith(COUNTERS)}
    arrays = fit_names(given, every, optional=set(every) - known)
    return {role: {name: arrays[name] for name in names} for role, names in wanted.items()}


def _layout(run: Callable[..., Any], wanted: Any, few: Any) -> tuple[Callable[[Any], Any], tuple[str, ...]]:
    """Return how inputs are turned for the module: not at all, or channels first, and a note on it."""

    def fails(x: Any) -> Exception | None:
        try:
            jax.eval_shape(lambda v, x: run(v, x, False, jax.random.key(0))[0], wanted, x)
        except UserError:
            raise
        except Exception as error:  # a user's code may raise anything
            return error
        return None

    first = fails(few)
    if first is None:
        return lambda x: x, ()
    if getattr(few, "ndim", 0) == 4 and fails(np.moveaxis(few, -1, 1)) is None:
        note = "the model takes images with channels first; those of the data have channels last and were turned"
        return lambda x: jnp.moveaxis(x, -1, 1), (note,)
    raise UserError(f"the model does not accept inputs of shape {shapes_text(few)}: {reason(first)}") from first


def _init(module: Any, build: Callable[..., Any] | None, variables: Callable[[Any], Any]) -> Any:
    """Return `init(key)`: by the builder, by Hugging Face's own initialization, or by every layer's."""
    import torch  # pyright: ignore[reportMissingImports]

    if build is not None:
        return make_init(build, variables, torch.manual_seed)
    own = getattr(module, "_init_weights", None)

    def resets(layer: Any) -> Any:
        return getattr(layer, "reset_parameters", None) or getattr(layer, "_reset_parameters", None)

    holders = [layer for layer in module.modules() if list(layer.parameters(recurse=False))]
    if own is None and not all(resets(layer) for layer in holders):
        return None

    def init(key: Any) -> Any:
        fresh = copy.deepcopy(module)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed_of(key))
            if own is not None:
                fresh.apply(fresh._init_weights)
            else:
                for layer in fresh.modules():
                    if resets(layer):
                        resets(layer)()
        return variables(fresh)

    return init
