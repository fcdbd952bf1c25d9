"""The arrays that kernels are applied to: networks and pairs of a cohort, with their keys, stacked. On the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from mdtree_jax import landscape
from mdtree_jax.measuring.kernels import NetworkItem, PairItem, measure_key
from mdtree_jax.measuring.trained import TrainedItem
from mdtree_jax.models import Model, permutation_spec
from mdtree_jax.population.programs import hyperparameters_of
from mdtree_jax.population.train import jit_init, member_key
from mdtree_jax.recipe.cohort import Cohort
from mdtree_jax.registry.kernels import Kernel


def arrays_of(data: Any) -> list[Any]:
    """Return inputs and targets of the training set, the test set and, where there is one, the validation set."""
    sides = [data.x_train, data.y_train, data.x_test, data.y_test]
    sides += [data.x_validation, data.y_validation] if len(getattr(data, "y_validation", ())) else []
    return sides


class Arrays:
    """The trained networks of a cohort, and what is made of them for a kernel.

    Args:
        architecture: its name, for the permutations of hidden units.
        cohort: whose members they are.
        variables: of all members, stacked along the first axis.
        seed: of measuring; with a network's seed and the size of its subset it makes the keys.
        model: the network, for its initial variables.
        dtype: of the hyperparameters.
        grid_seed: of training, as of `train_cohort`.
    """

    def __init__(
        self,
        architecture: str,
        cohort: Cohort,
        variables: Any,
        seed: int,
        model: Model,
        dtype: str = "float32",
        grid_seed: int = 0,
    ):
        self.architecture, self.variables, self.seed = architecture, variables, seed
        self.cohort, self.model, self.dtype, self.grid_seed = cohort, model, dtype, grid_seed
        self.seeds = [member.seed for member in cohort.members]
        self.counts = np.array([member.num_samples for member in cohort.members], np.int32)

    def of(self, kernel: Kernel, items: Sequence[Any]) -> NetworkItem | TrainedItem | PairItem:
        """Return the arrays of rows of the cohort, or of pairs of rows, for a kernel."""
        if "training_settings" in kernel.needs and not kernel.is_of_pairs:
            return self._trained(items)
        if "permutations" in kernel.needs:
            return self._aligned_pairs(items)
        if kernel.is_of_pairs:
            return self._pairs(items)
        return self._compared(items) if kernel.compares else self._alone(items)

    def network(self, row: int) -> Any:
        """Return the variables of one member."""
        return jax.tree.map(lambda leaf: leaf[row], self.variables)

    def networks(self, rows: Sequence[int]) -> Any:
        """Return the variables of some members, stacked."""
        return jax.tree.map(lambda leaf: leaf[np.asarray(rows)], self.variables)

    def _alone(self, rows: Sequence[int]) -> NetworkItem:
        counts = self.counts[np.asarray(rows, int)]
        keys = [measure_key(self.seed, 0, self.seeds[row], n) for row, n in zip(rows, counts, strict=True)]
        return NetworkItem(self.networks(rows), counts, np.stack(keys))

    def _trained(self, rows: Sequence[int]) -> TrainedItem:
        members = [self.cohort.members[row] for row in rows]
        keys = [member_key(self.grid_seed, member.seed, member.num_samples) for member in members]
        initial = [jax.device_get(jit_init(self.model)(key)) for key in keys]
        return TrainedItem(
            *self._alone(rows),
            jax.tree.map(lambda *leaves: np.stack(leaves), *initial),
            hyperparameters_of(members, keys, self.cohort.batched, self.dtype),
            np.full(len(rows), self.cohort.train_epochs, np.int32),
        )

    def _compared(self, rows: Sequence[int]) -> NetworkItem:
        counts = self.counts[np.asarray(rows, int)]
        keys = [measure_key(self.seed, 1, n) for n in counts]  # the same images for all seeds
        return NetworkItem(self.networks(rows), counts, np.stack(keys))

    def _pairs(self, pairs: Sequence[tuple[int, int]]) -> PairItem:
        first, second = (list(rows) for rows in zip(*pairs, strict=True))
        counts = self.counts[np.asarray(first, int)]
        seeds = [(self.seeds[a], self.seeds[b]) for a, b in pairs]
        keys = [measure_key(self.seed, 2, *two, n) for two, n in zip(seeds, counts, strict=True)]
        return PairItem(self.networks(first), self.networks(second), counts, np.stack(keys))

    def _aligned_pairs(self, pairs: Sequence[tuple[int, int]]) -> PairItem:
        items, aligned = self._pairs(pairs), []
        for first, second in pairs:
            reference, network = self.network(first), self.network(second)
            aligned.append(landscape.align(permutation_spec(self.architecture, network), reference, network))
        return items._replace(second=jax.tree.map(lambda *leaves: np.stack(leaves), *aligned))
