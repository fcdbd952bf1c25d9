"""What measuring costs, in floating-point operations: before a run for the plan, after it for the table. No JAX.

In forward passes of one image: a gradient costs three, a Hessian-vector product six once the gradient is linearized.
A point between two networks costs one pass over the subset for the BatchNorm statistics, one for its errors, and one
over the test set where that is looked at. Not counted: where images go in batches, each block of eight products of a
trace and each product for an eigenvalue linearizes them again, three more passes each, some 10 % of the whole.
"""

from __future__ import annotations

from typing import NamedTuple

from mdtree_jax.recipe.cohort import Cohort
from mdtree_jax.recipe.measure_settings import MeasureSettings, chosen_pairs
from mdtree_jax.registry.kernels import KERNELS, Work, stages


class MeasureCost(NamedTuple):
    """The cost of measuring one network or pair.

    Attributes:
        settings: of measuring.
        forward_flops: operations of one image's forward pass.
        num_test: test images.
        batch_size, train_epochs: of the training; 0 epochs where it is not known.
        num_validation: images of the validation set.
    """

    settings: MeasureSettings
    forward_flops: float
    num_test: int
    batch_size: int = 1
    train_epochs: int = 0
    num_validation: int = 0

    @property
    def curve_flops(self) -> float:
        """Operations to train one curve."""
        return 3.0 * self.settings.curve_steps * self.settings.curve_batch_size * self.forward_flops

    def curve_steps_of(self, flops: float) -> int:
        """Return how many steps of a curve take that many operations, at least one."""
        return max(1, round(self.settings.curve_steps * flops / self.curve_flops))

    def flops(self, kernel: str, num_samples: float, num_products: float | None = None) -> float:
        """Return the operations of one measurement; arguments as of `passes`."""
        return self.passes(kernel, num_samples, num_products) * self.forward_flops

    def passes(self, kernel: str, num_samples: float, num_products: float | None = None) -> float:
        """Return one measurement in forward passes of one image.

        Args:
            kernel: the name of a record of `KERNELS`; of `barrier` one line, aligned or not.
            num_samples: size of the training subset.
            num_products: Hessian-vector products, where they are known.
        """
        trained = num_samples // self.batch_size * self.batch_size * self.train_epochs
        if self.settings.evaluation_images is not None:
            num_samples = min(num_samples, self.settings.evaluation_images)
        work = Work(num_samples, self.num_test, num_products, trained, self.num_validation)
        return KERNELS[kernel].forward_passes(self.settings, work)

    def cohort_passes(self, cohort: Cohort) -> float:
        """Return the forward passes to measure all networks and pairs of a cohort, if none diverged."""
        s, total = self.settings, 0.0
        counts: dict[int, list[int]] = {}
        for member in cohort.members:
            counts.setdefault(member.index, []).append(member.num_samples)
        for networks in counts.values():
            num_pairs = len(chosen_pairs([True] * len(networks), s.pairs))
            for kernel in stages(s.metrics):
                number = num_pairs if kernel.is_of_pairs else len(networks)
                total += number * self.passes(kernel.name, networks[0])
        return total
