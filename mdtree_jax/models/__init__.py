"""Networks with the interface `Model(init, apply)`; the only room that uses Flax.

May import `registry` and the base modules. Start with `base` (`build_model`: from a name to a network, and how a
builder is called); the entries are in `mdtree_jax.registry.architectures`.
"""

from mdtree_jax.models import cnn as cnn
from mdtree_jax.models import mlp as mlp
from mdtree_jax.models import resnet as resnet
from mdtree_jax.models import transformer as transformer
from mdtree_jax.models.base import (
    Model,
    abstract_inputs,
    build_knobs,
    build_model,
    builder_settings,
    check_widths,
    count_activations,
    count_flops,
    count_parameters,
    find_builder,
    model_names,
    register,
    variables_hash,
)
from mdtree_jax.models.convert import TORCH_MODELS, ConvertedWeights, from_torch, load_torch_file
from mdtree_jax.models.permutations import has_permutations, permutation_spec
from mdtree_jax.models.precision import at_precision

__all__ = [
    "TORCH_MODELS",
    "ConvertedWeights",
    "Model",
    "abstract_inputs",
    "at_precision",
    "build_knobs",
    "build_model",
    "builder_settings",
    "check_widths",
    "count_activations",
    "count_flops",
    "count_parameters",
    "find_builder",
    "from_torch",
    "has_permutations",
    "load_torch_file",
    "model_names",
    "permutation_spec",
    "register",
    "variables_hash",
]
