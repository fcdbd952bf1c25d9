"""Train networks of a family again with one knob moved that the axes of its grid do not have.

    python -m sweeps.paired shapes_groupnorm tabular_gelu      # or without names: every family

Of the grid of a family `NUMBER` configurations are drawn by a fixed seed, the same for all moves, and trained with each
seed of the grid: the weight decay ten times or a tenth, label smoothing on (0.1) or off, augmentation on or off for
images, and another schedule (cosine instead of a constant rate or steps, a constant rate instead of the others).
Configuration numbers and seeds are those of the grid, so a network starts from the same weights as that of the grid and
sees the same data, and the two form a pair. Every move is a run folder, `runs/paired/NAME-MOVE`; interrupted, the same
command goes on where it was. When all moves of a family are trained, their networks are written to
sweeps/NAME-paired.parquet, one row a network, with the columns of the grid's and `move`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from mdtree_jax.cli import compose
from mdtree_jax.files import records_folder, write_atomically
from mdtree_jax.registry.datasets import DATASETS
from mdtree_jax.registry.objectives import OBJECTIVES
from mdtree_jax.sweep import prepare, train
from sweeps.families import FAMILIES, named

NUMBER, SEED = 30, 20240610
SMOOTHING = 0.1


def moves(grid: Any) -> dict[str, list[str]]:
    """Return the moves of a family's grid, as a composed configuration: name -> settings that make it."""
    (decay,), smoothing = grid.weight_decay, _only(grid.label_smoothing)
    found = {
        "decay_up": [f"grid.weight_decay=[{10 * decay:g}]"],
        "decay_down": [f"grid.weight_decay=[{decay / 10:g}]"],
        "schedule": [f"grid.schedule={'cosine' if grid.schedule in ('constant', 'step') else 'constant'}"],
    }
    if OBJECTIVES[grid.objective].has_classes:
        found["smoothing_off" if smoothing else "smoothing_on"] = [
            f"grid.label_smoothing=[{0.0 if smoothing else SMOOTHING}]"
        ]
    shape = DATASETS[grid.dataset].shape
    if shape is not None and len(shape.image_shape) == 3:
        found["augment_off" if grid.augment else "augment_on"] = [f"grid.augment={str(not grid.augment).lower()}"]
    return found


def _only(value: Any) -> Any:
    return value[0] if isinstance(value, (list, tuple)) else value


def run_move(name: str, move: str, settings: list[str], folder: Path) -> pd.DataFrame:
    """Train the drawn configurations of a family with one move, as far as they are not, and return their rows."""
    from mdtree_jax.report.terminal import make_console
    from mdtree_jax.runs.extend import members_by_key
    from mdtree_jax.runs.jax_backend import set_up_jax
    from mdtree_jax.runs.verify import sample_cohorts
    from mdtree_jax.store.folder import RunFolder

    out = folder / f"{name}-{move}"
    config = compose("sweep", [f"+grid={name}", *settings, "stages=[train]", "keep=metrics_only", f"out={out}"])
    set_up_jax(config)
    prepared = prepare(config)
    cohorts = sample_cohorts(prepared.cohorts, NUMBER, SEED)
    identity = prepared.identity | {"paired": NUMBER, "paired_seed": SEED}
    with RunFolder(out, identity, members_by_key(cohorts)) as run:
        train(config, prepared._replace(cohorts=cohorts), run, make_console())
        return run.members.assign(move=move)


def run_family(name: str, folder: Path, say: Callable[[str], None] = print) -> None:
    """Train all moves of a family and write its table."""
    every = moves(compose("sweep", [f"+grid={name}"]).grid)
    frames, start = [], time.perf_counter()
    for done, (move, settings) in enumerate(every.items(), 1):
        frames.append(run_move(name, move, settings, folder))
        left = (time.perf_counter() - start) / done * (len(every) - done)
        say(f"{name}: {move} is done, {done} of {len(every)} moves; about {left / 60:.0f} min left for this family")
    table = pd.concat(frames, ignore_index=True)
    path = records_folder() / f"{name}-paired.parquet"
    write_atomically(path, lambda aside: table.to_parquet(aside, compression="zstd", index=False))
    say(f"{name}: {len(table)} networks in {path}")


def main() -> None:
    """Train the moves of the families that are named, or of all."""
    for family in named(sys.argv[1:]) or FAMILIES:
        run_family(family.name, Path("runs/paired"))


if __name__ == "__main__":
    main()
