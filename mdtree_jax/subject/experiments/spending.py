"""What experiments may cost: a share of one training, or seconds of wall time. No JAX."""

from __future__ import annotations

import math
import re
import time
from numbers import Real

from mdtree_jax.checks import UserError
from mdtree_jax.diagnosis.cost import Training

#: Share of one training that may be spent where it is not said, and the training is known.
DEFAULT_SHARE = 0.1
#: Most that experiments within a time take, in units of one training.
_MOST_IN_TIME = 1.0


class Spending:
    """What may be spent, and what was.

    Args:
        share: most steps, in units of one training; where `seconds` are given, whatever fits into them.
        seconds: of wall time, counted from `start`; None for no limit.
        is_given: whether the user said so.

    Attributes:
        spent: steps, in units of one training.
    """

    def __init__(self, share: float, seconds: float | None = None, is_given: bool = True):
        self.share, self.seconds, self.is_given, self.spent = share, seconds, is_given, 0.0
        self._begin, self._price = time.monotonic(), math.nan

    def start(self) -> None:
        """Count the time from now."""
        self._begin = time.monotonic()

    def done(self, share: float) -> float:
        """Return the share of all that is done: what was spent, of what may be; `share` where nothing may."""
        return min(1.0, self.spent / self.allowed) if self.allowed > 0 else share

    @property
    def trains(self) -> bool:
        """Whether anything may be trained."""
        return self.share > 0

    @property
    def left(self) -> float:
        """What may still be spent, in units of one training; within a time, by the price of the first experiments."""
        left = self.share - self.spent
        if self.seconds is None:
            return left
        time_left = self.seconds - (time.monotonic() - self._begin)
        if math.isnan(self._price) or time_left <= 0:
            return left if time_left > 0 else 0.0
        return min(left, time_left / self._price)

    @property
    def allowed(self) -> float:
        """What may be spent in all, in units of one training; within a time, as far as its price is known."""
        return self.share if self.seconds is None else min(self.share, self.spent + max(self.left, 0.0))

    def learn(self, seconds: float, share: float) -> None:
        """Take the price of a training from what a share of it took."""
        if share > 0:
            self._price = seconds / share

    def spend(self, share: float) -> None:
        """Count steps that were taken."""
        self.spent += share


def spending_of(cost: float | str | None, training: Training) -> Spending:
    """Return what may be spent.

    Args:
        cost: a share of one training, `60s` for a time, or None for a tenth where the training is known, else nothing.
        training: what is known of it.

    Raises:
        UserError: neither a share in [0, 100] nor a time.
    """
    if cost is None:
        lacks = training.learning_rate is None or training.batch_size is None
        lacks = lacks or (training.epochs is None and training.steps is None)
        return Spending(0.0 if lacks else DEFAULT_SHARE, is_given=False)
    wanted = "a share of one training, such as 0.1, or wall time, such as 60s"
    if isinstance(cost, str):
        found = re.fullmatch(r"\s*([0-9.]+)\s*(s|sec|min|m|h)?\s*", cost)
        try:
            number = float(found[1]) if found else math.nan
        except ValueError:
            number = math.nan
        if not found or math.isnan(number):
            raise UserError(f"cost={cost!r} is not valid; give {wanted}")
        if found[2]:
            return Spending(_MOST_IN_TIME, number * {"s": 1, "sec": 1, "h": 3600}.get(found[2], 60))
        cost = number
    if isinstance(cost, bool) or not isinstance(cost, Real):
        raise UserError(f"cost={cost!r} is not valid; give {wanted}")
    if not 0 <= cost <= 100:
        raise UserError(f"cost={cost:g} is out of range; it must be 0 to 100, in units of one training")
    return Spending(float(cost))
