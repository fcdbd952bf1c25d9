"""Networks behind `Model(init, apply)`; Flax lives here only.

A module with an architecture is imported here by its name, which registers it.
"""

from mdtree_jax.models import mlp as mlp
from mdtree_jax.models import resnet as resnet
from mdtree_jax.models.base import (
    Model,
    build_model,
    count_activations,
    count_flops,
    count_parameters,
    model_names,
    register,
)
from mdtree_jax.models.convert import TORCH_MODELS, ConvertedWeights, from_torch, load_torch_file
from mdtree_jax.models.permutations import has_permutations, permutation_spec

__all__ = [
    "TORCH_MODELS",
    "ConvertedWeights",
    "Model",
    "build_model",
    "count_activations",
    "count_flops",
    "count_parameters",
    "from_torch",
    "has_permutations",
    "load_torch_file",
    "model_names",
    "permutation_spec",
    "register",
]
