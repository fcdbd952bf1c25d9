"""From evidence to gains: a committee of ridge regressions per remedy, fitted on networks of many families.

The gain of a remedy in points is modelled as `error x (weights . features)`: features are scale-free
(`mdtree_jax.causes.evidence`), so the weights carry from one family of networks to another. Every family counts the
same: its rows are weighted by 1 over their number and over the square of its mean best gain.

Any kind of evidence can mislead in a family of another sort: norms do where weights are normalized, the landscape
where the loss is another. So the weights are the mean over a regression that sees every kind and others that are each
denied one, which must do without it. A mean of linear models is a linear model that can be printed.

The model works with whatever is known of a network: it is fitted on the features that are there, in milliseconds. Its
intervals come from residuals of families that were left out of the fit, so they hold for families that it has never
seen.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from mdtree_jax.causes.evidence import EVIDENCE, evidence_frame
from mdtree_jax.causes.repaired import as_repaired
from mdtree_jax.registry.remedies import REMEDIES

#: Strength of the ridge, relative to the number of families, for features of unit variance.
RIDGE = 0.3
#: Kinds of evidence that members of the committee are denied, one each; all see the errors and what probes showed.
VOTING = ("history", "norms", "landscape", "pair")
#: Share of the residuals that an interval holds.
INTERVAL = 0.8


class Predicted(NamedTuple):
    """Expected gains, all (rows, remedies), in points of test error.

    Attributes:
        remedies: their names.
        mean: expected gain.
        low, high: interval that holds 80 % of the gains of unseen families.
        chance: probability that the gain is at least a point.
    """

    remedies: tuple[str, ...]
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    chance: np.ndarray


class Ridge(NamedTuple):
    """A fitted regression: standardization of the features, weights with the constant first."""

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray

    def predict(self, features: np.ndarray, error: np.ndarray) -> np.ndarray:
        """Return the gains, (rows,), points, from features (rows, features) and errors (rows,), percent."""
        return error * (self.weights[0] + ((features - self.mean) / self.scale) @ self.weights[1:])


class Moments:
    """All that ridge regressions of one remedy need to know, by family: any of them is solved without the rows.

    Args:
        features: (rows, features), finite.
        error: validation error, (rows,), percent.
        gain: (rows,), points; NaN where it is not known.
        family: (rows,), names.
        kinds: kind of each feature, (features,); those of `VOTING` make a committee.
    """

    def __init__(
        self, features: np.ndarray, error: np.ndarray, gain: np.ndarray, family: np.ndarray, kinds: Sequence[str]
    ):
        self.families, self._kinds = np.unique(family), np.asarray(kinds, dtype=str)
        size = 1 + features.shape[1]
        self._gram, self._moment = np.zeros((len(self.families), size, size)), np.zeros((len(self.families), size))
        self._sums = np.zeros((len(self.families), 3, features.shape[1]))
        for place, one in enumerate(self.families):
            rows = (family == one) & np.isfinite(gain) & np.isfinite(error)
            if not rows.any():
                continue
            x, scale = features[rows], family_scale(gain[rows], error[rows])
            design = np.column_stack([np.ones(len(x)), x]) * error[rows, None] / scale
            self._gram[place] = design.T @ design / len(x)
            self._moment[place] = design.T @ (gain[rows] / scale) / len(x)
            self._sums[place] = np.ones(x.shape[1]), x.mean(axis=0), (x**2).mean(axis=0)

    def solve(self, families: np.ndarray, chosen: np.ndarray, strength: float, within: float = 0.0) -> Ridge:
        """Return the regression on the families (families,) bool and features (features,) bool that are marked.

        It is the mean over the committee. The ridge is `strength` times the mean square of a column, so that it is the
        same for any number of families. `within` in [0, 1) is the share of the differences between families, in
        features and gains alike, that has no part in the fit: they say more of the few families that there are than of
        a new one (quasi-demeaning of panel data).
        """
        mean, scale, gram, moment = self._standardized(families, chosen, within)
        weights, kinds = np.zeros(len(moment)), self._kinds[chosen]
        members = members_of([kind for kind in VOTING if kind in kinds])
        for member in members:
            seen = np.r_[True, ~np.isin(kinds, VOTING) | np.isin(kinds, member)]
            part = gram[np.ix_(seen, seen)]
            level = max(strength * np.trace(part) / len(part), 1e-12)
            part[np.diag_indices(len(part))] += np.r_[1e-6 * level, np.full(len(part) - 1, level)]
            weights[seen] += np.linalg.solve(part, moment[seen]) / len(members)
        return Ridge(mean, scale, weights)

    def _standardized(self, families: np.ndarray, chosen: np.ndarray, within: float) -> tuple[np.ndarray, ...]:
        """Return mean and scale of the features (features,), and Gram matrix and moments of standardized columns."""
        count, first, second = self._sums[families].sum(axis=0)[:, chosen]
        total = np.maximum(count, 1)
        mean = first / total
        scale = np.sqrt(np.maximum(second / total - mean**2, 0))
        scale = np.where(scale > 1e-9, scale, 1.0)
        keep = np.r_[True, chosen]
        turn = np.zeros((len(mean) + 1, len(mean) + 1))
        turn[0, 0], turn[0, 1:] = 1, -mean / scale
        turn[np.arange(1, len(turn)), np.arange(1, len(turn))] = 1 / scale
        grams, moments = self._gram[families][:, keep][:, :, keep], self._moment[families][:, keep]
        size = np.maximum(grams[:, 0, 0], 1e-12)
        between = (grams[:, 0] / size[:, None]).T @ grams[:, 0]
        gram = turn.T @ (grams.sum(axis=0) - within * between) @ turn
        return mean, scale, gram, turn.T @ (moments.sum(axis=0) - within * grams[:, 0].T @ (moments[:, 0] / size))


def members_of(kinds: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the kinds of evidence that each member of the committee sees: all of them, and all but one of several."""
    denied = itertools.combinations(kinds, len(kinds) - 1) if len(kinds) > 1 else ()
    return [tuple(kinds), *denied]


def family_scale(gain: np.ndarray, error: np.ndarray) -> float:
    """Return the unit in which a family's gains are counted, points: every family weighs the same."""
    return float(np.sqrt(np.mean(gain**2)) + 0.1 * np.mean(error) + 0.5)


def filled(features: pd.DataFrame) -> np.ndarray:
    """Return features as an array, (rows, features), missing ones at their neutral value."""
    neutral = np.array([EVIDENCE[str(name)].neutral for name in features])
    values = features.to_numpy(float)
    return np.where(np.isfinite(values), values, neutral)


@dataclass(frozen=True, eq=False)
class GainModel:
    """Networks of many families with their gains, and what follows from them.

    Attributes:
        table: one row per network: `family`, `group` (what is left out together), the features, `error` (validation
            error, percent), `gain_<remedy>`.
        ridge: strength of the ridge.
        within: share of the differences between families that has no part in the fit, see `Moments.solve`.
    """

    table: pd.DataFrame
    ridge: float = RIDGE
    within: float = 0.0

    @classmethod
    def fit(cls, networks: pd.DataFrame, group: str = "source", ridge: float = RIDGE, within: float = 0.0) -> GainModel:
        """Return the model of a table of networks (`mdtree_jax.collection.networks`) with `family` and `group`.

        It is fitted on what the networks gain after the repair that costs nothing (`causes.repaired`).
        """
        networks, repaired = as_repaired(networks)
        stale = np.where(repaired > 0, np.asarray(networks.get("gain_refreshed", np.zeros(len(repaired))), float), 0.0)
        features = evidence_frame(networks)
        gains = {f"gain_{name}": networks[f"gain_{name}"] - stale for name in REMEDIES if f"gain_{name}" in networks}
        about = {"family": networks["family"], "group": networks[group], "error": networks["validation_error"]}
        return cls(pd.DataFrame({**about, **features, **gains}).reset_index(drop=True), ridge, within)

    @property
    def remedies(self) -> tuple[str, ...]:
        """The remedies whose gains are predicted: known in two groups at least."""
        known = {
            name: self.table["group"][self.table[f"gain_{name}"].notna()].nunique() for name in _predicted(self.table)
        }
        return tuple(name for name, groups in known.items() if groups > 1)

    @property
    def features(self) -> tuple[str, ...]:
        """The features of the table."""
        return tuple(name for name in EVIDENCE if name in self.table)

    def predict(self, networks: pd.DataFrame, features: Sequence[str] | None = None) -> Predicted:
        """Return the expected gains of networks from what is known of each.

        Args:
            networks: one row per network, columns as of `GainModel.fit`, repaired; `validation_error` must be known.
            features: those that may be used; None for all.
        """
        allowed = self.features if features is None else tuple(name for name in self.features if name in features)
        found = evidence_frame(networks, allowed).reindex(columns=list(allowed))
        values = found.to_numpy(float)
        error = networks["validation_error"].to_numpy(float)
        out = [np.full((len(networks), len(self.remedies)), np.nan) for _ in range(4)]
        there = np.isfinite(values)
        for pattern in np.unique(there, axis=0):
            rows = np.flatnonzero((there == pattern).all(axis=1))
            names = tuple(name for name, known in zip(allowed, pattern, strict=True) if known)
            for place, remedy in enumerate(self.remedies):
                fitted = self._fitted(remedy, names)
                for array, value in zip(out, fitted(values[rows][:, pattern], error[rows]), strict=True):
                    array[rows, place] = value
        return Predicted(self.remedies, *out)

    def draw(
        self, networks: pd.DataFrame, features: Sequence[str] | None = None, number: int = 400, seed: int = 0
    ) -> np.ndarray:
        """Return gains that the networks may have, (rows, number, remedies), points of test error.

        Every draw is the prediction plus the residuals of one network of a family that was left out, of all remedies
        together: what goes wrong together for unseen families does so in the draws. A residual that is not known is
        drawn from those of other networks.

        Args:
            networks, features: as of `GainModel.predict`.
            number: of draws.
            seed: of the random choice of networks.
        """
        allowed = self.features if features is None else tuple(name for name in self.features if name in features)
        values = evidence_frame(networks, allowed).reindex(columns=list(allowed)).to_numpy(float)
        error = networks["validation_error"].to_numpy(float)
        out, there = np.full((len(error), number, len(self.remedies)), np.nan), np.isfinite(values)
        rng, weight = np.random.default_rng(seed), self._row_weights
        chosen = rng.choice(len(weight), size=number, p=weight)
        level = rng.uniform(size=(number, len(self.remedies)))
        for pattern in np.unique(there, axis=0):
            rows = np.flatnonzero((there == pattern).all(axis=1))
            names = tuple(name for name, known in zip(allowed, pattern, strict=True) if known)
            for place, remedy in enumerate(self.remedies):
                fitted = self._fitted(remedy, names)
                mean = fitted.ridge.predict(values[rows][:, pattern], error[rows])
                residuals = fitted.residuals
                own = fitted.by_row[chosen]
                own = np.where(np.isfinite(own), own, residuals.quantiles(level[:, place]))
                sample = mean[:, None] + residuals.size(error[rows])[:, None] * own
                out[rows, :, place] = np.minimum(sample, error[rows, None])
        return out

    def draw_left_out(self, features: Sequence[str], number: int = 100, seed: int = 0) -> np.ndarray:
        """Return gains that the model's own networks may have, predicted without their groups (rows, number, remedies).

        NaN where a gain was not measured.
        """
        error = self.table["error"].to_numpy(float)
        out = np.full((len(error), number, len(self.remedies)), np.nan)
        rng = np.random.default_rng(seed)
        level = rng.uniform(size=(number, len(self.remedies)))
        chosen = rng.choice(len(error), size=number, p=self._row_weights)
        for place, remedy in enumerate(self.remedies):
            fitted = self._fitted(remedy, tuple(features))
            size = fitted.residuals.size(error)
            own = fitted.by_row[chosen]
            own = np.where(np.isfinite(own), own, fitted.residuals.quantiles(level[:, place]))
            mean = self.table[f"gain_{remedy}"].to_numpy(float) - size * fitted.by_row
            out[:, :, place] = np.minimum(mean[:, None] + size[:, None] * own, error[:, None])
        return out

    def weights(self, remedy: str, features: Sequence[str]) -> pd.Series:
        """Return the weights of a remedy's regression, of standardized features; the constant is named `1`."""
        ridge = self._fitted(remedy, tuple(features)).ridge
        return pd.Series(ridge.weights, ["1", *features], name=remedy)

    @functools.cached_property
    def _row_weights(self) -> np.ndarray:
        """The share of every row, (rows,): families count the same; the sum is 1."""
        family = self.table["family"].to_numpy()
        names, places = np.unique(family, return_inverse=True)
        return 1 / (len(names) * np.bincount(places)[places])

    @functools.cached_property
    def _rows(self) -> np.ndarray:
        return filled(self.table[list(self.features)])

    @functools.cache  # noqa: B019 - of a few remedies, as long as the model lives
    def _moments(self, remedy: str) -> Moments:
        gain = self.table[f"gain_{remedy}"].to_numpy(float)
        kinds = [EVIDENCE[name].group for name in self.features]
        return Moments(self._rows, self.table["error"].to_numpy(float), gain, self.table["family"].to_numpy(str), kinds)

    @functools.cache  # noqa: B019 - of a few patterns, as long as the model lives
    def _fitted(self, remedy: str, names: tuple[str, ...]) -> _Fitted:
        moments, chosen = self._moments(remedy), np.isin(self.features, names)
        features, error = self._rows[:, chosen], self.table["error"].to_numpy(float)
        gain, family = self.table[f"gain_{remedy}"].to_numpy(float), self.table["family"].to_numpy(str)
        group = self.table["group"].to_numpy(str)
        left_out = np.full(len(gain), np.nan)
        for one in np.unique(group):
            rows = group == one
            inside = ~np.isin(moments.families, np.unique(family[rows]))
            if inside.any():
                left_out[rows] = moments.solve(inside, chosen, self.ridge, self.within).predict(
                    features[rows], error[rows]
                )
        left_out[~np.isfinite(gain)] = np.nan
        whole = moments.solve(np.ones(len(moments.families), bool), chosen, self.ridge, self.within)
        residuals = _residuals(left_out, gain, error, family)
        return _Fitted(whole, residuals, (gain - left_out) / residuals.size(error))


def _predicted(table: pd.DataFrame) -> list[str]:
    return [name for name, remedy in REMEDIES.items() if f"gain_{name}" in table and not remedy.probe]


class _Residuals(NamedTuple):
    """Residuals of families that were left out, over the size that is expected of them; weights sum to 1."""

    ordered: np.ndarray
    cumulated: np.ndarray
    constant: float
    slope: float

    def size(self, error: np.ndarray) -> np.ndarray:
        return self.constant + self.slope * error

    def quantile(self, share: float) -> float:
        return float(self.quantiles(np.array(share)))

    def quantiles(self, shares: np.ndarray) -> np.ndarray:
        return np.interp(shares, self.cumulated, self.ordered)

    def above(self, value: np.ndarray) -> np.ndarray:
        """Return the share of residuals above a value."""
        return 1 - np.interp(value, self.ordered, self.cumulated, left=0.0, right=1.0)


def _residuals(left_out: np.ndarray, gain: np.ndarray, error: np.ndarray, family: np.ndarray) -> _Residuals:
    good = np.isfinite(left_out)
    residual, error, family = (gain - left_out)[good], error[good], family[good]
    share = np.zeros(len(residual))
    for one in np.unique(family):
        rows = family == one
        share[rows] = 1 / rows.sum()
    share /= max(share.sum(), 1e-12)
    # Size of a residual: a constant and a share of the error, by least squares of its absolute value.
    design = np.column_stack([np.ones(len(error)), error]) * np.sqrt(share)[:, None]
    solution = np.linalg.lstsq(design, np.abs(residual) * np.sqrt(share), rcond=None)[0]
    constant, slope = max(float(solution[0]), 0.25), max(float(solution[1]), 0.005)
    standard = residual / (constant + slope * error)
    order = np.argsort(standard, kind="stable")
    cumulated = np.cumsum(share[order]) - 0.5 * share[order]
    return _Residuals(standard[order], cumulated, constant, slope)


class _Fitted(NamedTuple):
    """A regression and the residuals of families that it has not seen; `by_row` of every row, (rows,), NaN unknown."""

    ridge: Ridge
    residuals: _Residuals
    by_row: np.ndarray

    def __call__(self, features: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, ...]:
        mean, size = self.ridge.predict(features, error), self.residuals.size(error)
        low, high = (self.residuals.quantile(q) for q in ((1 - INTERVAL) / 2, (1 + INTERVAL) / 2))
        chance = self.residuals.above((1.0 - mean) / size)
        # No gain is larger than the error that there is.
        return *(np.minimum(mean + place * size, error) for place in (0.0, low, high)), chance
