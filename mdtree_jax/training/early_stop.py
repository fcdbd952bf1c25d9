"""The rule that chooses the epoch whose network is kept. JAX.

Let l_1, l_2, ... be the mean training loss of the epochs. The network kept is that of the first epoch e >= `min_epoch`
after `patience` consecutive changes |l_i - l_(i-1)| <= `tolerance` (the last of them at e), and training ends there;
else of the epoch of lowest loss, the first of equals; else, when no loss was finite, of the last epoch.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class EarlyStop(NamedTuple):
    """What the rule remembers of the epochs so far; scalars.

    Attributes:
        epoch: epochs done.
        last_loss: mean training loss of the last epoch, infinite at the start.
        calm_epochs: consecutive changes within tolerance, up to the last epoch.
        kept_loss: loss of the epoch kept so far, infinite at the start.
        kept_epoch: number of the epoch kept so far, from 1; 0 at the start.
        is_finite: whether all losses were finite.
        is_done: whether training ends here, by the rule, by divergence or because all epochs are done.
    """

    epoch: jax.Array
    last_loss: jax.Array
    calm_epochs: jax.Array
    kept_loss: jax.Array
    kept_epoch: jax.Array
    is_finite: jax.Array
    is_done: jax.Array

    @classmethod
    def start(cls, dtype: jnp.dtype) -> EarlyStop:
        """Return the record before the first epoch."""
        infinite, zero = jnp.array(jnp.inf, dtype), jnp.array(0, jnp.int32)
        return cls(zero, infinite, zero, infinite, zero, jnp.array(True), jnp.array(False))


def update_early_stop(
    record: EarlyStop,
    loss: jax.Array,
    *,
    num_epochs: int,
    enabled: bool = True,
    min_epoch: int = 30,
    patience: int = 5,
    tolerance: float = 1e-4,
) -> tuple[EarlyStop, jax.Array]:
    """Return the record after one more epoch of mean training loss `loss`, and whether to keep its network.

    If not `enabled`, every epoch replaces the one before, so the last one is kept. A loss that is not finite always
    ends the training.
    """
    epoch = record.epoch + 1
    is_finite = record.is_finite & jnp.isfinite(loss)
    is_calm = jnp.abs(loss - record.last_loss) <= tolerance
    calm_epochs = jnp.where(is_calm, record.calm_epochs + 1, 0)
    is_converged = (epoch >= min_epoch) & (calm_epochs >= patience) & enabled
    is_done = is_converged | ~is_finite | (epoch >= num_epochs)
    is_last_resort = is_done & (record.kept_epoch == 0)
    keep = is_converged | (loss < record.kept_loss) | is_last_resort | (not enabled)
    record = EarlyStop(
        epoch=epoch,
        last_loss=loss,
        calm_epochs=calm_epochs,
        kept_loss=jnp.where(keep, loss, record.kept_loss),
        kept_epoch=jnp.where(keep, epoch, record.kept_epoch),
        is_finite=is_finite,
        is_done=is_done,
    )
    return record, keep
