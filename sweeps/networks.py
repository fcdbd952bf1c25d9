"""The networks of recorded families as one table: evidence, gains and racers, for `sweeps.gains`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mdtree_jax.collection.curve_features import curve_features
from mdtree_jax.collection.moves import varying_knobs
from mdtree_jax.collection.networks import with_gains
from mdtree_jax.data import load_dataset
from mdtree_jax.registry.measurements import MEASUREMENTS
from mdtree_jax.registry.objectives import DEFAULT_OBJECTIVE
from mdtree_jax.store.record import Record, read_record
from mdtree_jax.store.tables import OK
from mdtree_jax.training.loss import chance_error, chance_loss

#: Rows of targets from which the loss of chance is computed.
_CHANCE_ROWS = 4000


def chance_of(record: Record) -> tuple[float, float]:
    """Return error (%) and loss of the best constant prediction of a record's training targets."""
    config = record.about["config"]
    noise = {name: config[name] for name in ("label_noise_fraction", "label_noise_seed")}
    objective = config.get("objective", DEFAULT_OBJECTIVE)
    data = load_dataset(config["dataset"], **noise, objective=objective)
    targets = data.y_train[:_CHANCE_ROWS]
    error = chance_error(objective, targets)
    return (100.0 if error is None else error), chance_loss(objective, targets, data.num_classes)


def family_networks(name: str, folder=None) -> pd.DataFrame:
    """Return one row per finite network of a recorded family, with its evidence and gains."""
    record = read_record(name, folder)
    config = record.about["config"]
    networks = record.networks[record.networks["status"] == OK].reset_index(drop=True)
    error, loss = chance_of(record)
    networks = networks.copy().assign(chance_error=error, chance_loss=loss)
    if record.history is not None:
        curves = curve_features(record.history, chance_loss=loss, chance_error=error)
        networks = networks.merge(curves, "left", on=["configuration", "seed"])
    of_pairs = [
        name for name in record.pairs if name in MEASUREMENTS or name in ("barrier_loss", "aligned_barrier_loss")
    ]
    pairs = record.pairs.groupby("configuration")[of_pairs].mean()
    networks = networks.merge(pairs, "left", left_on="configuration", right_index=True, suffixes=("", "_pair"))
    networks = with_gains(networks, varying_knobs(networks))
    if has_statistics(networks):
        networks["gain_refreshed"] = networks["checkpoint_test_error"] - networks["refreshed_test_error"]
        for end in ("own", "other"):
            networks[f"gain_refreshed_{end}"] = networks["gain_refreshed"]
    return networks.copy().assign(
        family=name, source=config["dataset"], architecture=config["model"], optimizer=config["optimizer"]
    )


def has_statistics(networks: pd.DataFrame) -> bool:
    """Return whether the networks have statistics of BatchNorm, which refreshing changes."""
    return not np.allclose(networks["checkpoint_train_loss"], networks["refreshed_train_loss"], rtol=1e-6)


def all_networks(names: Sequence[str], folder=None) -> pd.DataFrame:
    """Return the networks of several families, one below the other."""
    return pd.concat([family_networks(name, folder) for name in names], ignore_index=True)
