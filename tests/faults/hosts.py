"""The networks of a situation as models of other frameworks, with the same weights: dense layers only."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.faults.networks import HIDDEN, LAST
from tests.faults.training import Situation

Layers = list[tuple[np.ndarray, np.ndarray]]


def layers_of(variables: Any) -> Layers:
    """Return kernel (inputs, units) and bias of every dense layer."""
    params = variables["params"]
    names = sorted(params, key=lambda name: int(name.rpartition("_")[2]))
    return [(np.asarray(params[name]["kernel"]), np.asarray(params[name]["bias"])) for name in names]


def linen(situation: Situation) -> tuple[Any, list[Any], dict[str, Any]]:
    return situation.spec.net, situation.networks, {}


def nnx(situation: Situation) -> tuple[Any, list[Any], dict[str, Any]]:
    from flax import nnx

    sizes, (hidden, last) = _sizes(situation), _activations(situation)

    class Mlp(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in itertools.pairwise(sizes)])

        def __call__(self, x: Any) -> Any:
            for layer in self.layers[:-1]:
                x = hidden(layer(x))
            return last(self.layers[-1](x))

    def made(layers: Layers) -> Any:
        module = Mlp(nnx.Rngs(0))
        for layer, (kernel, bias) in zip(module.layers, layers, strict=True):
            layer.kernel[...], layer.bias[...] = jnp.asarray(kernel), jnp.asarray(bias)
        return module

    return _filled(situation, made)


def equinox(situation: Situation) -> tuple[Any, list[Any], dict[str, Any]]:
    import equinox as eqx

    sizes, (hidden, last) = _sizes(situation), _activations(situation)

    class Mlp(eqx.Module):
        layers: list

        def __init__(self, key: Any):
            keys = jax.random.split(key, len(sizes) - 1)
            self.layers = [
                eqx.nn.Linear(a, b, key=k) for (a, b), k in zip(itertools.pairwise(sizes), keys, strict=True)
            ]

        def __call__(self, x: Any) -> Any:
            for layer in self.layers[:-1]:
                x = hidden(layer(x))
            return last(self.layers[-1](x))

    def made(layers: Layers) -> Any:
        arrays = [array for kernel, bias in layers for array in (jnp.asarray(kernel.T), jnp.asarray(bias))]
        module = Mlp(jax.random.key(0))
        return eqx.tree_at(lambda m: [a for layer in m.layers for a in (layer.weight, layer.bias)], module, arrays)

    return _filled(situation, made)


def haiku(situation: Situation) -> tuple[Any, list[Any], dict[str, Any]]:
    import haiku as hk

    sizes, (hidden, last) = _sizes(situation), _activations(situation)

    def mlp(x: Any) -> Any:
        for width in sizes[1:-1]:
            x = hidden(hk.Linear(width)(x))
        return last(hk.Linear(sizes[-1])(x))

    def made(layers: Layers) -> Any:
        names = ["linear", *(f"linear_{number}" for number in range(1, len(layers)))]
        return {name: {"w": kernel, "b": bias} for name, (kernel, bias) in zip(names, layers, strict=True)}

    return hk.transform(mlp), [made(layers_of(one)) for one in situation.networks], {}


def keras(situation: Situation) -> tuple[Any, list[Any], dict[str, Any]]:
    import keras

    sizes, net = _sizes(situation), situation.spec.net

    def made(layers: Layers) -> Any:
        dense = [keras.layers.Dense(width, net.activation) for width in sizes[1:-1]]
        module = keras.Sequential([keras.Input((sizes[0],)), *dense, keras.layers.Dense(sizes[-1], net.last)])
        module.set_weights([array for layer in layers for array in layer])
        return module

    return _filled(situation, made)


def torch(situation: Situation) -> tuple[Any, list[Any], dict[str, Any]]:
    from torch import as_tensor, nn, no_grad

    sizes, net = _sizes(situation), situation.spec.net
    kinds = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "softmax": lambda: nn.Softmax(-1)}

    def made(layers: Layers) -> Any:
        parts: list[Any] = []
        for kernel, bias in layers:
            layer = nn.Linear(*kernel.shape)
            with no_grad():
                layer.weight.copy_(as_tensor(kernel.T.copy()))
                layer.bias.copy_(as_tensor(bias.copy()))
            parts += [layer, kinds[net.activation]()]
        parts = parts[:-1] + ([] if net.last == "linear" else [kinds[net.last]()])
        return nn.Sequential(*parts)

    assert len(sizes) > 1  # dense layers
    return _filled(situation, made)


#: Framework -> `host(situation) -> (model, networks, options of diagnose_model)`.
HOSTS: dict[str, Callable[[Situation], tuple[Any, list[Any], dict[str, Any]]]] = {
    "flax": linen,
    "flax.nnx": nnx,
    "equinox": equinox,
    "haiku": haiku,
    "keras": keras,
    "torch": torch,
}


def _sizes(situation: Situation) -> list[int]:
    net = situation.spec.net
    return [situation.data.x_train.shape[1], *net.hidden, net.outputs]


def _activations(situation: Situation) -> tuple[Callable, Callable]:
    return HIDDEN[situation.spec.net.activation], LAST[situation.spec.net.last]


def _filled(situation: Situation, made: Callable[[Layers], Any]) -> tuple[Any, list[Any], dict[str, Any]]:
    networks = [made(layers_of(one)) for one in situation.networks]
    return networks[0], networks, {}
