"""Networks behind `Model(init, apply)`; Flax lives here only.

Every module of this folder is imported, so that an architecture registers itself by being there.
"""

import importlib
import pkgutil

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

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

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
