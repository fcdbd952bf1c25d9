"""A configuration of a run folder as a subject: its networks from the checkpoints, its data from the manifest. JAX.

A manifest may name functions of the user's own, `package.module:function`; they are imported and called.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from mdtree_jax.checks import UserError
from mdtree_jax.data import load_dataset
from mdtree_jax.models import build_knobs, build_model
from mdtree_jax.registry.architectures import ARCHITECTURES
from mdtree_jax.registry.datasets import DATASETS
from mdtree_jax.registry.knobs import KNOBS
from mdtree_jax.registry.objectives import DEFAULT_OBJECTIVE, find_objective
from mdtree_jax.registry.resolve import is_own
from mdtree_jax.registry.table import Table
from mdtree_jax.store.checkpoint import load_network
from mdtree_jax.store.manifest import check_table, data_hash, read_manifest
from mdtree_jax.store.tables import CONFIGURATION_COLUMNS, OK, has_value
from mdtree_jax.subject.network import Examples, Subject, examples, wrap_model


def load_configuration(
    folder: Path, row: pd.Series, data_dir: str | None = None, data_file: str | None = None
) -> tuple[Subject, Examples]:
    """Return the finite networks of one configuration of a run folder, and the data that they were trained on.

    Args:
        folder: made by `sweep` with `keep=all`.
        row: of its `collection.parquet`.
        data_dir, data_file: where the data set is, as for `sweep`.

    Raises:
        UserError: no manifest, no checkpoint, no finite network, data that differ from those that were trained on, a
            model or data set of a plugin that is not imported.
    """
    manifest = read_manifest(folder / "manifest.json")
    if manifest is None:
        raise UserError(f"{folder} has no manifest.json, so what its networks were trained on is not known")
    config = manifest["config"]
    _check_registered(folder, manifest)
    noise = {name: config[name] for name in ("label_noise_fraction", "label_noise_seed")}
    objective = config.get("objective", DEFAULT_OBJECTIVE)
    what = {"objective": objective, "validation_fraction": config.get("validation_fraction", 0.0)}
    data = load_dataset(config["dataset"], data_dir=data_dir, data_file=data_file, **noise, **what)
    if data_hash(*data.arrays) != config["data_hash"]:
        raise UserError(f"the data set '{config['dataset']}' here is not the one that {folder} was trained on")
    # What names both a setting and a column is a knob.
    wanted = {name: row[name] for name in {**dict.fromkeys(CONFIGURATION_COLUMNS), **config} if name in row.index}
    networks = [load_network(folder, seed=seed, **wanted)[0] for seed in _finite_seeds(folder, wanted)]
    shape = data.shape
    used = {name: KNOBS[name].kind(value) for name, value in wanted.items() if name in KNOBS}
    sizes = int(row["width"]), shape.num_classes, shape.image_shape
    outputs = find_objective(objective).output_shape(shape.target_shape, shape.num_outputs)
    kinds = {"input_kind": shape.input_kind, "output_shape": outputs}
    model = build_model(config["model"], *sizes, config["dtype"], build_knobs(config["model"], used), **kinds)
    count = int(row["num_samples"])
    used = examples(data.x_train[:count], data.y_train[:count], data.x_test, data.y_test, config["dtype"], objective)
    return wrap_model(model, networks, config["model"])._replace(objective=objective), used


def _check_registered(folder: Path, manifest: dict[str, Any]) -> None:
    """Raise `UserError` for a model, data set or knob that only the run's plugins register, with what to add."""
    plugins = sorted({name for session in manifest["sessions"] for name in session.get("plugins", [])})
    if not plugins:
        return
    config = manifest["config"]
    named: list[tuple[Table[Any], str]] = [(ARCHITECTURES, config["model"]), (DATASETS, config["dataset"])]
    named += [(KNOBS, name) for name, value in config.items() if isinstance(value, list)]  # the axes
    for table, name in named:
        if name not in table and not is_own(name):
            raise UserError(
                f"the {table.kind} '{name}' of {folder} is registered by a plugin; add plugins=[{','.join(plugins)}]"
            )


def _finite_seeds(folder: Path, wanted: dict[str, float]) -> list[int]:
    check_table(folder / "members.parquet")
    try:
        members = pd.read_parquet(folder / "members.parquet")
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} has no readable members.parquet, the table of its networks ({error})") from error
    fits = members["status"] == OK
    for name, value in wanted.items():
        fits &= has_value(members[name], value)
    if not fits.any():
        raise UserError(f"all networks of this configuration of {folder} diverged; none is left to diagnose")
    return sorted(int(seed) for seed in members.loc[fits, "seed"])
