"""Cases of PyTorch, in plain layers; of torchvision and of Hugging Face, in tiny configurations; and of Keras."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import numpy as np

from tests.subject.frameworks.cases import CLASSES, Case, images, sequences, tokens, vectors


def torch_case(
    architecture: str,
    build: Any,
    x: Any,
    objective: str = "cross_entropy",
    framework: str = "torch",
    pick: Any = lambda outputs: outputs,
) -> Case:
    import torch

    def tensors(x: Any) -> Any:
        if isinstance(x, dict):
            return {name: torch.as_tensor(array).long() for name, array in x.items()}
        x = torch.as_tensor(x)
        return x if x.is_floating_point() else x.long()

    def call(module: Any, x: Any) -> Any:
        x = tensors(x)
        return pick(module(**x) if isinstance(x, dict) else module(x))

    def has_norm(module: Any) -> bool:
        return any(isinstance(layer, torch.nn.modules.batchnorm._BatchNorm) for layer in module.modules())

    def trained(module: Any, x: Any) -> Any:
        module = copy.deepcopy(module).train()
        for layer in module.modules():
            if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
                layer.momentum = 0.5
            elif isinstance(layer, torch.nn.Dropout) or "StochasticDepth" in type(layer).__name__:
                layer.eval()
        with torch.no_grad():
            call(module, x)
        return module

    def moved(seed: int) -> Any:
        torch.manual_seed(seed)
        module = build()
        return trained(module, x + 1) if has_norm(module) else module

    def outputs(module: Any, x: Any) -> Any:
        with torch.no_grad():
            return call(copy.deepcopy(module).eval(), x).numpy()

    def derivatives(module: Any, x: Any, y: Any, direction: dict[str, Any]) -> Any:
        module = copy.deepcopy(module).eval()
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):  # the others have no second derivative
            found = call(module, x)
        y = torch.as_tensor(y)
        if y.is_floating_point():
            loss = ((found - y) ** 2).mean()
        else:
            loss = torch.nn.functional.cross_entropy(found.flatten(0, -2), y.long().flatten())
        names = {name: p for name, p in module.named_parameters() if p.requires_grad}
        gradient = torch.autograd.grad(loss, list(names.values()), create_graph=True, allow_unused=True)
        gradient = [torch.zeros_like(p) if g is None else g for g, p in zip(gradient, names.values(), strict=True)]
        along = [torch.as_tensor(np.asarray(direction[name.replace(".", "/")])) for name in names]
        inner = sum((g * d).sum() for g, d in zip(gradient, along, strict=True))
        product = torch.autograd.grad(inner, list(names.values()), allow_unused=True)
        product = [torch.zeros_like(p) if h is None else h for h, p in zip(product, names.values(), strict=True)]
        keys = [name.replace(".", "/") for name in names]
        return tuple(dict(zip(keys, (a.detach().numpy() for a in side), strict=True)) for side in (gradient, product))

    network = moved(0)
    step = trained if has_norm(network) else None
    return Case(framework, architecture, objective, x, network, network, moved(1), outputs, step, derivatives, build)


def torch_cases() -> list[Case]:
    import torch
    from torch import nn

    class Recurrent(nn.Module):
        def __init__(self, kind: Any) -> None:
            super().__init__()
            self.core, self.head = kind(5, 6, batch_first=True), nn.Linear(6, 2)

        def forward(self, x: Any) -> Any:
            return self.head(self.core(x)[0][:, -1])

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.first = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, bias=False)
            self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(4)])
            self.head = nn.Linear(4, CLASSES)

        def forward(self, x: Any) -> Any:
            x = torch.relu(self.norms[0](self.stem(x)))
            x = torch.relu(x + self.norms[1](self.first(x)))
            return self.head(torch.nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))

    def mlp(outputs: int = CLASSES) -> Any:
        layers = [
            nn.Linear(6, 7),
            nn.BatchNorm1d(7),
            nn.ReLU(),
            nn.Linear(7, 6),
            nn.Dropout(0.3),
            nn.Linear(6, outputs),
        ]
        return nn.Sequential(*layers)

    def groups() -> Any:
        return nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.GELU(), nn.Flatten(), nn.Linear(144, CLASSES))

    def encoder() -> Any:
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        return nn.Sequential(nn.Linear(5, 8), layer, nn.Flatten(), nn.Linear(56, CLASSES))

    return [
        torch_case("mlp", mlp, vectors()),
        torch_case("mlp", lambda: mlp(2), vectors(), "regression"),
        torch_case("residual convolutions", Residual, images(first=True)),
        torch_case("convolutions, GroupNorm", groups, images(first=True)),
        torch_case("LSTM", lambda: Recurrent(nn.LSTM), sequences(), "regression"),
        torch_case("GRU", lambda: Recurrent(nn.GRU), sequences(), "regression"),
        torch_case("transformer encoder", encoder, sequences()),
    ]


#: Definitions of operators, which vanish with their objects.
_KEPT: list[Any] = []


def define_missing_operators() -> Any:
    """Define the operators that torchvision looks for beside a PyTorch that it was not built for."""
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for signature in (
        "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    ):
        library.define(signature)
    return library


def allow_torchvision() -> None:
    """Have torchvision importable, by us or by Transformers, which imports it where it finds it."""
    with contextlib.suppress(RuntimeError):
        _KEPT.append(define_missing_operators())


def torchvision_cases() -> list[Case]:
    allow_torchvision()
    import torch
    import torchvision.models as models

    x, classes = images(4, 32, 3, first=True), {"num_classes": CLASSES}

    def efficient() -> Any:
        # Statistics of two frameworks compare only where no block is dropped at random.
        return models.efficientnet_b0(stochastic_depth_prob=0.0, dropout=0.0, **classes)

    def vision_transformer() -> Any:
        module = models.VisionTransformer(32, 8, 2, 2, 16, 32, **classes)
        torch.nn.init.normal_(module.heads.head.weight)  # it begins with zeros, and every output would be zero
        return module

    return [
        torch_case("ResNet-18", lambda: models.resnet18(**classes), x, framework="torchvision"),
        torch_case("ConvNeXt-tiny", lambda: models.convnext_tiny(**classes), x, framework="torchvision"),
        torch_case("EfficientNet-B0", efficient, x, framework="torchvision"),
        torch_case("ViT", vision_transformer, x, framework="torchvision"),
    ]


def hugging_face_cases() -> list[Case]:
    allow_torchvision()
    import transformers

    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    bert = transformers.BertConfig(vocab_size=17, max_position_embeddings=16, num_labels=CLASSES, **small)
    gpt = transformers.GPT2Config(vocab_size=17, n_positions=16, n_embd=16, n_layer=2, n_head=2, use_cache=False)
    mask = np.ones((8, 10), np.int32)
    mask[:4, 6:] = 0
    inputs = {"input_ids": tokens(), "attention_mask": mask}
    return [
        torch_case(
            "BERT classifier", lambda: transformers.BertForSequenceClassification(bert), inputs, "cross_entropy",
            "hf", lambda found: found.logits,
        ),
        torch_case(
            "GPT-2", lambda: transformers.GPT2LMHeadModel(gpt), {"input_ids": tokens()}, "lm", "hf",
            lambda found: found.logits,
        ),
    ]  # fmt: skip


def keras_cases() -> list[Case]:
    import jax
    import keras

    from mdtree_jax.subject.frameworks import adapt
    from tests.subject.frameworks.cases import jax_loss

    def case(architecture: str, layers: Any, x: Any, objective: str = "cross_entropy") -> Case:
        def build() -> Any:
            inputs = keras.Input(x.shape[1:])
            outputs = inputs
            for layer in layers():
                outputs = layer(outputs)
            return keras.Model(inputs, outputs)

        def moved(seed: int) -> Any:
            keras.utils.set_random_seed(seed)
            return trained(build(), x + 1)

        def trained(model: Any, x: Any) -> Any:
            model(x, training=True)
            return model

        def outputs(model: Any, x: Any) -> Any:
            return np.asarray(model(x, training=False))

        def derivatives(model: Any, x: Any, y: Any, direction: dict[str, Any]) -> Any:
            params = [v.value for v in model.trainable_variables]
            rest = [v.value for v in model.non_trainable_variables]

            def loss(params: Any) -> Any:
                return jax_loss(model.stateless_call(params, rest, x, training=False)[0], y)

            names = adapt(template, x).names[: len(params)]  # those of another model are numbered otherwise
            found = jax.jvp(jax.grad(loss), (params,), ([direction[name] for name in names],))
            return tuple(dict(zip(names, side, strict=True)) for side in found)

        network, template = moved(0), build()
        has_state = any("moving" in v.path for v in network.non_trainable_variables)
        step = trained if has_state else None
        return Case("keras", architecture, objective, x, template, network, moved(1), outputs, step, derivatives, build)

    layer = keras.layers

    def mlp() -> Any:
        norms = [layer.BatchNormalization(momentum=momentum) for momentum in (0.5, 0.6)]
        return [layer.Dense(7), norms[0], layer.ReLU(), layer.Dense(6), norms[1], layer.Dropout(0.3), layer.Dense(3)]

    def convolutions() -> Any:
        norm = layer.BatchNormalization(momentum=0.5)
        return [layer.Conv2D(4, 3), norm, layer.ReLU(), layer.GlobalAveragePooling2D(), layer.Dense(3)]

    return [
        case("mlp", mlp, vectors()),
        case("convolutions", convolutions, images()),
        case("LSTM", lambda: [layer.LSTM(5), layer.Dense(2)], sequences(), "regression"),
    ]
