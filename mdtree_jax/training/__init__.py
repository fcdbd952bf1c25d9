"""Training one network as pure functions: loss, optimizer, schedule, knobs, early-stop rule, `make_trainer`. JAX."""

from mdtree_jax.training.early_stop import EarlyStop
from mdtree_jax.training.loss import (
    ObjectiveFunctions,
    ObjectiveLike,
    chance_error,
    cross_entropy,
    error_count,
    objective_functions,
    weighted_cross_entropy,
)
from mdtree_jax.training.optimizer import make_optimizer
from mdtree_jax.training.train import Hyperparameters, Trainer, TrainState, evaluate, make_trainer, train_single

__all__ = [
    "EarlyStop",
    "Hyperparameters",
    "ObjectiveFunctions",
    "ObjectiveLike",
    "TrainState",
    "Trainer",
    "chance_error",
    "cross_entropy",
    "error_count",
    "evaluate",
    "make_optimizer",
    "make_trainer",
    "objective_functions",
    "train_single",
    "weighted_cross_entropy",
]
