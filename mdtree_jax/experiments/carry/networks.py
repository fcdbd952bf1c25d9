"""Networks of many families as arrays, and what is true of them: gains, shares, hard cases. NumPy and pandas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from mdtree_jax.causes.evidence import evidence_frame
from mdtree_jax.causes.gain_answers import lead, weighed
from mdtree_jax.causes.gain_model import filled
from mdtree_jax.causes.repaired import as_repaired
from mdtree_jax.collection.networks import SHARES
from mdtree_jax.registry.remedies import COMPARISONS, REMEDIES

#: Median of the square of a standard normal.
MEDIAN_OF_SQUARE = 0.455
HOTTER, COLDER = ("rate_up", "batch_down"), ("rate_down", "batch_up")


@dataclass(frozen=True)
class Networks:
    """Networks of many families, as arrays; rows are networks.

    Attributes:
        table: `family`, `source`, `architecture`, `optimizer`, `configuration`, `seed` and the measured columns.
        features: (rows, features), missing ones at their neutral value.
        names: of the features.
        gain: (rows, remedies), points, mean over seeds; NaN where the grid does not show it.
        own, other: the same from the row's own seed and from the others.
        error: validation error, percent; of repaired networks (`causes.repaired`), as the features are.
        repaired, stale: points that the repair gains, on the validation and the test examples, (rows,).
        race: share -> (rows, remedies), validation error of the racers.

    The best gain (`best_gain`) of a row is chosen on one half of the seeds and read on the other.
    """

    table: pd.DataFrame
    features: np.ndarray
    names: tuple[str, ...]
    remedies: tuple[str, ...]
    gain: np.ndarray
    own: np.ndarray
    other: np.ndarray
    error: np.ndarray
    repaired: np.ndarray
    stale: np.ndarray
    race: dict[int, np.ndarray]

    def __getitem__(self, rows: np.ndarray) -> Networks:
        arrays = {
            name: getattr(self, name)[rows]
            for name in ("features", "gain", "own", "other", "error", "repaired", "stale")
        }
        race = {share: values[rows] for share, values in self.race.items()}
        return replace(self, table=self.table[rows].reset_index(drop=True), race=race, **arrays)


def as_networks(table: pd.DataFrame) -> Networks:
    """Return a table of networks (`collection.networks.with_gains`, several below each other) as arrays."""
    remedies = tuple(name for name in REMEDIES if f"gain_{name}" in table)
    after, repaired = as_repaired(table)
    features = evidence_frame(after)

    def columns(pattern: str) -> np.ndarray:
        missing = np.full(len(table), np.nan)
        return np.stack([np.asarray(table.get(pattern.format(name), missing), float) for name in remedies], axis=1)

    race = {share: columns(f"{{}}_short{share}") for share in SHARES}
    return Networks(
        table=table.reset_index(drop=True),
        features=filled(features),
        names=tuple(map(str, features)),
        remedies=remedies,
        gain=columns("gain_{}"),
        own=columns("gain_{}_own"),
        other=columns("gain_{}_other"),
        error=after["validation_error"].to_numpy(float),
        repaired=repaired,
        stale=np.where(repaired > 0, np.asarray(table.get("gain_refreshed", repaired), float), 0.0),
        race=race,
    )


def gain_of(networks: Networks, choice: np.ndarray) -> np.ndarray:
    """Return the measured gain of the chosen remedy, (rows,), points; 0 for none."""
    gain = networks.gain[np.arange(len(choice)), np.maximum(choice, 0)]
    return np.where(choice < 0, 0.0, np.nan_to_num(gain))


def best_gain(networks: Networks) -> np.ndarray:
    """Return the gain of the best remedy, chosen on one half of the seeds and read on the other, both ways, (rows,)."""
    out = []
    for chosen_on, read_on in ((networks.own, networks.other), (networks.other, networks.own)):
        both = np.isfinite(chosen_on) & np.isfinite(read_on)
        best = np.where(both, chosen_on, -np.inf).argmax(axis=1)
        rows = np.arange(len(best))
        gained = np.where(both[rows, best] & (chosen_on[rows, best] > 0), read_on[rows, best], 0.0)
        out.append(gained)
    return np.mean(out, axis=0)


def shares(networks: Networks, gained: np.ndarray, best: np.ndarray | None = None) -> pd.Series:
    """Return the share of the best gain (`best_gain`) by family."""
    best = best_gain(networks) if best is None else best
    family, names = pd.factorize(networks.table["family"])
    return pd.Series(np.bincount(family, gained) / np.bincount(family, best), names, name="share")


def temperature(networks: Networks, values: np.ndarray) -> np.ndarray:
    """Return how much more hotter gains than colder, (rows,), of values (rows, remedies); NaN where unknown."""
    return -lead(values, networks.remedies, COMPARISONS["optimizer"])


def _of_group(networks: Networks, values: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Return the largest value of a group of remedies, (rows,), -inf where none is known."""
    places = [networks.remedies.index(name) for name in names if name in networks.remedies]
    return np.where(np.isfinite(values[:, places]), values[:, places], -np.inf).max(axis=1, initial=-np.inf)


def hard_rows(networks: Networks, spread: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which rows are hard cases of the optimizer question, and whether hotter is right, both (rows,) bool.

    The better direction gains 1 to 15 points, and is ahead of the other, and of no change, by two standard errors.

    Args:
        spread: standard error of a gain, (rows,), points.
    """
    hotter, colder = (_of_group(networks, networks.gain, names) for names in (HOTTER, COLDER))
    best, ahead = np.maximum(hotter, colder), np.abs(hotter - colder)
    hard = np.isfinite(ahead) & (best >= 1) & (best <= 15) & (np.minimum(best, ahead) >= 2 * spread)
    return hard, hotter > colder


def standard_errors(networks: Networks, num_test: int = 3000) -> np.ndarray:
    """Return the standard error of the difference of hotter and colder, (rows,), points.

    Of the seeds it is pooled over a family, by the median of the squared differences, which single trainings that
    diverged do not carry along. That of the test examples, of which there are about `num_test`, is added: networks
    that are compared see the same, so it is that of the share on which one of them errs.
    """
    own, other = (temperature(networks, gains) for gains in (networks.own, networks.other))
    examples = 100 * np.clip(networks.error, 0.5, 100) / num_test
    out = np.zeros(len(own))
    for family in pd.unique(networks.table["family"]):
        rows = (networks.table["family"] == family).to_numpy()
        difference = (own - other)[rows]
        known = np.isfinite(difference)
        out[rows] = np.median(difference[known] ** 2) / MEDIAN_OF_SQUARE / 4 if known.any() else np.nan
    return np.sqrt(out + examples)


def causes(networks: Networks) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the number of the cause that each remedy addresses, (remedies,), and the names of the causes."""
    names = tuple(dict.fromkeys(REMEDIES[name].cause for name in networks.remedies))
    return np.array([names.index(REMEDIES[name].cause) for name in networks.remedies]), names


def cause_of(networks: Networks, values: np.ndarray, free_first: bool = False) -> np.ndarray:
    """Return the cause whose remedy has the largest value, (rows,); `free_first`: a free one wins with 2/3 of it."""
    known = np.where(np.isfinite(networks.gain), values, np.nan)
    scores = weighed(known, networks.remedies) if free_first else np.nan_to_num(known, nan=-np.inf)
    return causes(networks)[0][scores.argmax(axis=1)]
