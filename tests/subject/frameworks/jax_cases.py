"""Cases of Flax Linen, Flax NNX, Equinox, Haiku and plain functions."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mdtree_jax.subject.frameworks import adapt
from tests.subject.frameworks.cases import CLASSES, Case, images, jax_derivatives, sequences, tokens, vectors


class LinenMlp(nn.Module):
    outputs: int = CLASSES

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.tanh(nn.BatchNorm(use_running_average=not train, momentum=0.5)(nn.Dense(7)(x)))
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.6)(nn.Dense(6)(x)))
        return nn.Dense(self.outputs)(nn.Dropout(0.3, deterministic=not train)(x))


class LinenConvolutions(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        def norm(x):
            return nn.BatchNorm(use_running_average=not train, momentum=0.5)(x)

        def block(x, width):
            y = nn.relu(norm(nn.Conv(width, (3, 3), use_bias=False)(x)))
            return nn.relu(x + norm(nn.Conv(width, (3, 3), use_bias=False)(y)))

        x = block(block(nn.Conv(4, (3, 3))(x), 4), 4)
        return nn.Dense(CLASSES)(x.mean((1, 2)))


class LinenTransformer(nn.Module):
    vocabulary: int = 17

    @nn.compact
    def __call__(self, x, deterministic=True):
        x = nn.Embed(self.vocabulary, 8)(x) + self.param("position", nn.initializers.normal(0.1), (x.shape[1], 8))
        y = nn.SelfAttention(2, deterministic=deterministic)(nn.LayerNorm()(x), nn.make_causal_mask(x[..., 0]))
        x = x + nn.Dropout(0.1, deterministic=deterministic)(y)
        return nn.Dense(self.vocabulary)(x + nn.Dense(8)(nn.gelu(nn.Dense(16)(nn.LayerNorm()(x)))))


def linen(architecture: str, module: Any, x: Any, objective: str = "cross_entropy") -> Case:
    def moved(seed: int) -> Any:
        variables = module.init(jax.random.key(seed), x)
        return trained(variables, x + 1) if "batch_stats" in variables else variables

    def mode(train: bool) -> dict[str, bool]:
        return {"deterministic": not train} if isinstance(module, LinenTransformer) else {"train": train}

    def outputs(variables: Any, x: Any) -> Any:
        return module.apply(variables, x, **mode(False))

    def trained(variables: Any, x: Any) -> Any:
        rngs = {"dropout": jax.random.key(0)}
        _, new = module.apply(variables, x, **mode(True), mutable=["batch_stats"], rngs=rngs)
        return {**variables, **new}

    network = moved(0)
    adapted = adapt(module, x)
    derivatives = jax_derivatives(
        lambda v: (v["params"], v),
        lambda params, rest, x: outputs({**rest, "params": params}, x),
        lambda params, rest: named(adapted.variables({**rest, "params": params})["params"]),
    )
    step = trained if "batch_stats" in network else None
    return Case("linen", architecture, objective, x, module, network, moved(1), outputs, step, derivatives)


def named(tree: Any) -> dict[str, Any]:
    """Return the arrays of an adapter's parameters by name."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


class NnxMlp(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(6, 7, rngs=rngs)
        self.norms = nnx.List([nnx.BatchNorm(n, momentum=m, rngs=rngs) for n, m in ((7, 0.5), (6, 0.6))])
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.second = nnx.Linear(7, 6, rngs=rngs)
        self.head = nnx.Linear(6, CLASSES, rngs=rngs)

    def __call__(self, x):
        x = nnx.tanh(self.norms[0](self.first(x)))
        return self.head(self.dropout(nnx.relu(self.norms[1](self.second(x)))))


class NnxConvolutions(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Conv(2, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=0.5, rngs=rngs)
        self.head = nnx.Linear(4, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.norm(self.stem(x))).mean((1, 2)))


class NnxAttention(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(17, 8, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.head = nnx.Linear(8, 17, rngs=rngs)

    def __call__(self, x):
        x = self.embed(x)
        return self.head(x + self.attention(self.norm(x)))


def nnx_case(architecture: str, kind: Any, x: Any, objective: str = "cross_entropy") -> Case:
    def build(rngs: Any) -> Any:
        return kind(rngs)

    def moved(seed: int) -> Any:
        model = build(nnx.Rngs(seed))
        model.train()
        if jnp.issubdtype(x.dtype, jnp.floating):
            model(x + 1)
        return model

    def outputs(model: Any, x: Any) -> Any:
        copy = nnx.clone(model)
        copy.eval()
        return copy(x)

    def trained(model: Any, x: Any) -> Any:
        copy = nnx.clone(model)
        copy.train()
        copy(x)
        return copy

    network = moved(0)
    adapted = adapt(network, x)
    evaluating = nnx.clone(network)
    evaluating.eval()

    def split(model: Any) -> Any:
        return {n: jnp.asarray(a) for n, a in adapted.variables(model)["params"].items()}, model

    def call(params: Any, model: Any, x: Any) -> Any:
        graph, state = nnx.split(evaluating)
        flat = dict(nnx.to_flat_state(state))
        new = {
            p: v.replace(params["/".join(map(str, p))]) if "/".join(map(str, p)) in params else v
            for p, v in flat.items()
        }
        return nnx.merge(graph, nnx.from_flat_state(new), copy=True)(x)

    derivatives = jax_derivatives(split, call, lambda params, rest: params)
    has_state = bool(adapted.variables(network)["state"])
    step = trained if has_state else None
    return Case("nnx", architecture, objective, x, network, network, moved(1), outputs, step, derivatives, build)


def function_case() -> Case:
    x = vectors()

    def apply(params: Any, x: Any) -> Any:
        return jnp.tanh(x @ params["w1"]) @ params["w2"]

    def make(seed: int) -> Any:
        rng = np.random.default_rng(seed)
        return {"w1": rng.standard_normal((6, 5)).astype("f"), "w2": rng.standard_normal((5, 2)).astype("f")}

    derivatives = jax_derivatives(lambda p: (p, None), lambda p, rest, x: apply(p, x), lambda p, rest: p)
    return Case("functions", "mlp", "regression", x, apply, make(0), make(1), apply, None, derivatives)


def equinox_cases() -> list[Case]:
    import equinox as eqx

    class Mlp(eqx.Module):
        first: eqx.nn.Linear
        norms: list
        dropout: eqx.nn.Dropout
        second: eqx.nn.Linear
        head: eqx.nn.Linear

        def __init__(self, key, mode):
            keys = jax.random.split(key, 3)
            self.first = eqx.nn.Linear(6, 7, key=keys[0])
            self.norms = [eqx.nn.BatchNorm(n, "batch", momentum=m, mode=mode) for n, m in ((7, 0.5), (6, 0.6))]
            self.dropout = eqx.nn.Dropout(0.3)
            self.second = eqx.nn.Linear(7, 6, key=keys[1])
            self.head = eqx.nn.Linear(6, CLASSES, key=keys[2])

        def __call__(self, x, state, key=None):
            x, state = self.norms[0](self.first(x), state)
            x, state = self.norms[1](self.second(jnp.tanh(x)), state)
            return self.head(self.dropout(jax.nn.relu(x), key=key)), state

    class Convolutions(eqx.Module):
        stem: eqx.nn.Conv2d
        norm: eqx.nn.GroupNorm
        head: eqx.nn.Linear

        def __init__(self, key):
            a, b = jax.random.split(key)
            self.stem = eqx.nn.Conv2d(2, 4, 3, key=a)
            self.norm, self.head = eqx.nn.GroupNorm(2, 4), eqx.nn.Linear(4, CLASSES, key=b)

        def __call__(self, x):
            return self.head(jax.nn.relu(self.norm(self.stem(x))).mean((1, 2)))

    def stateful(mode: str) -> Case:
        x = vectors()

        def build(key: Any) -> Any:
            return eqx.nn.make_with_state(Mlp)(key, mode)

        def forward(model: Any, state: Any, x: Any, train: bool) -> Any:
            keys = jax.random.split(jax.random.key(0), len(x)) if train else None
            model = eqx.nn.inference_mode(model, value=not train)
            axes = (0, None, 0 if train else None)
            return jax.vmap(model, axis_name="batch", in_axes=axes, out_axes=(0, None))(x, state, keys)

        def trained(network: Any, x: Any) -> Any:
            return network[0], forward(*network, x, True)[1]

        def moved(seed: int) -> Any:
            network = build(jax.random.key(seed))
            for shift in (1, 2):
                network = trained(network, x + shift)
            return network

        def outputs(network: Any, x: Any) -> Any:
            return forward(*network, x, False)[0]

        network = moved(0)
        adapted = adapt(network, x)
        derivatives = jax_derivatives(
            lambda n: (eqx.filter(n[0], eqx.is_inexact_array), n),
            lambda p, n, x: outputs((eqx.combine(p, n[0]), n[1]), x),
            lambda p, n: adapted.variables((eqx.combine(p, n[0]), n[1]))["params"],
        )
        name, objective = f"mlp, BatchNorm '{mode}'", "cross_entropy"
        return Case("equinox", name, objective, x, network, network, moved(1), outputs, trained, derivatives, build)

    x = images(first=True)
    model, other = (Convolutions(jax.random.key(seed)) for seed in (0, 1))
    plain = jax_derivatives(
        lambda m: (eqx.filter(m, eqx.is_inexact_array), m),
        lambda p, m, x: jax.vmap(eqx.combine(p, m))(x),
        lambda p, m: adapt(model, x).variables(eqx.combine(p, m))["params"],
    )
    whole = Case(
        "equinox", "convolutions, GroupNorm", "cross_entropy", x, model, model, other,
        lambda m, x: jax.vmap(m)(x), None, plain, lambda key: Convolutions(key),
    )  # fmt: skip
    return [stateful("batch"), stateful("ema"), whole]


def haiku_cases() -> list[Case]:
    import haiku as hk

    def mlp(x, is_training):
        x = jnp.tanh(hk.BatchNorm(True, True, 0.5)(hk.Linear(7)(x), is_training))
        x = jax.nn.relu(hk.BatchNorm(True, True, 0.6)(hk.Linear(6)(x), is_training))
        x = hk.dropout(hk.next_rng_key(), 0.3, x) if is_training else x
        return hk.Linear(CLASSES)(x)

    def convolutions(x, is_training):
        x = jax.nn.relu(hk.BatchNorm(True, True, 0.5)(hk.Conv2D(4, 3)(x), is_training))
        return hk.Linear(CLASSES)(x.mean((1, 2)))

    def recurrent(x):
        core = hk.LSTM(5)
        outputs, _ = hk.dynamic_unroll(core, x, core.initial_state(x.shape[0]), time_major=False)
        return hk.Linear(2)(outputs[:, -1])

    def case(name: str, function: Any, x: Any, objective: str, has_state: bool) -> Case:
        model = hk.transform_with_state(function) if has_state else hk.transform(function)
        mode = (True,) if has_state else ()

        def outputs(network: Any, x: Any) -> Any:
            if has_state:
                return model.apply(*network, None, x, False)[0]
            return model.apply(network, None, x)

        def trained(network: Any, x: Any) -> Any:
            return network[0], model.apply(*network, jax.random.key(0), x, True)[1]

        def moved(seed: int) -> Any:
            network = model.init(jax.random.key(seed), x, *mode)
            for shift in (1, 2) if has_state else ():
                network = trained(network, x + shift)
            return network

        adapted = adapt(model, x)
        join = (lambda p, n: (p, n[1])) if has_state else (lambda p, n: p)
        derivatives = jax_derivatives(
            lambda n: (n[0] if has_state else n, n),
            lambda p, n, x: outputs(join(p, n), x),
            lambda p, n: named(adapted.variables(join(p, n))["params"]),
        )
        step = trained if has_state else None
        return Case("haiku", name, objective, x, model, moved(0), moved(1), outputs, step, derivatives)

    return [
        case("mlp", mlp, vectors(), "cross_entropy", True),
        case("convolutions", convolutions, images(), "cross_entropy", True),
        case("LSTM", recurrent, sequences(), "regression", False),
    ]


def flax_cases() -> list[Case]:
    return [
        linen("mlp", LinenMlp(), vectors()),
        linen("mlp", LinenMlp(2), vectors(), "regression"),
        linen("residual convolutions", LinenConvolutions(), images()),
        linen("transformer", LinenTransformer(), tokens(), "lm"),
        nnx_case("mlp", NnxMlp, vectors()),
        nnx_case("convolutions", NnxConvolutions, images()),
        nnx_case("attention", NnxAttention, tokens(), "lm"),
        function_case(),
    ]
