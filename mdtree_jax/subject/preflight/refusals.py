"""What cannot be diagnosed at all: refused in one sentence, before anything is measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mdtree_jax import landscape
from mdtree_jax.checks import UserError
from mdtree_jax.subject.preflight.evidence import Evidence
from mdtree_jax.subject.preflight.look import split

#: Examples on which a model is tried.
_TRIED = 64


def check_deterministic(apply: Callable[[Any, Any], Any], variables: Any, inputs: Any) -> None:
    """Raise `UserError` for outputs that change from call to call or with the rest of the batch; see `check_apply`."""
    import jax

    params, state, join = split(variables)
    few = jax.tree.map(lambda a: np.asarray(a)[:_TRIED], inputs)
    landscape.check_apply(jax.jit(lambda params, x: apply(join(params, state), x)), params, few)


def check_targets(evidence: Evidence) -> None:
    """Raise `UserError` for targets that do not fit the outputs, or probabilities where logits are wanted."""
    k = evidence.outputs.shape[1]
    if evidence.task == "classes" and len(evidence.targets) and evidence.targets.max() >= k:
        raise UserError(
            f"the targets hold the label {evidence.targets.max()}, but the model gives {k} outputs, for the labels 0 "
            f"to {k - 1}"
        )
    if evidence.task != "classes" and evidence.targets.shape[1] != k:
        raise UserError(
            f"the targets hold {evidence.targets.shape[1]} numbers for an example and the model gives {k}; they must "
            "be as many"
        )
    # With a loss that is known to take logits, the softmax is a fault that a finding tells.
    is_softmax = k > 1 and evidence.task == "classes" and are_probabilities(evidence.outputs)
    if evidence.wants == "logits" and is_softmax and evidence.loss is None:
        raise UserError(
            "the outputs lie in 0 to 1 and sum to 1 for every example, so they are probabilities, but the objective "
            "takes logits: give an objective with outputs='probabilities', or the model without its last softmax"
        )


def are_probabilities(outputs: np.ndarray) -> bool:
    """Return whether rows lie in [0, 1] and sum to 1, within rounding."""
    return bool(outputs.min() >= 0 and outputs.max() <= 1 + 1e-4 and np.abs(outputs.sum(1) - 1).max() < 1e-3)
