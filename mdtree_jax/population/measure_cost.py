"""What measuring costs, in floating-point operations: before a run for the plan, after it for the table. No JAX.

In forward passes of one image: a gradient costs three, a Hessian-vector product six once the gradient is linearized.
A point between two networks costs one pass over the subset for the BatchNorm statistics, one for its errors, and one
over the test set where that is looked at.
"""

from __future__ import annotations

from typing import NamedTuple

from mdtree_jax.population.measure_settings import MeasureSettings

EXPECTED_TRACE_SHARE = 0.5  # of `trace_products`: most traces reach their relative error before the budget ends


class MeasureCost(NamedTuple):
    """The cost of measuring one network or pair: settings, operations of one image's forward pass, test images."""

    settings: MeasureSettings
    forward_flops: float
    num_test: int

    def flops(self, metric: str, num_samples: float, num_products: float | None = None) -> float:
        """Return the operations of one measurement of a group of metrics.

        Args:
            metric: a group of `METRICS`; of `barrier` one line, aligned or not.
            num_samples: size of the training subset.
            num_products: Hessian-vector products, where they are known.
        """
        s = self.settings
        if metric == "hessian":
            if num_products is None:
                num_products = EXPECTED_TRACE_SHARE * s.trace_products + 0.5 * s.eigenvalue_steps
            passes = (3 + 6 * num_products) * s.hessian_images
        elif metric == "sharpness":
            passes = (3 * s.ball_steps + 2) * s.hessian_images
        elif metric == "similarity":
            passes = s.similarity_images
        elif metric == "barrier":
            passes = s.barrier_points * 2 * num_samples
        else:
            points = s.curve_points * (2 * num_samples + self.num_test)
            passes = 3 * s.curve_steps * s.curve_batch_size + points
        return float(passes * self.forward_flops)
