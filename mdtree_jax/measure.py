"""Measure your own networks, and append the metrics to a table, from which a reference can be made.

  python -m mdtree_jax.measure model=mypackage.mymodel:build "checkpoints=[a.ckpt,b.ckpt]" dataset=npz \\
      data_file=my.npz width=64 batch_size=128 data_fraction=1 append_to=mine.csv
  python -m mdtree_jax.reference collection=mine.csv out=mine.json

The model is of Flax, Equinox, Haiku, Keras or PyTorch, or a function apply(variables, x). A row holds how the networks
were trained, as it is given, and what was measured; a row with the same checkpoints replaces the older one.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mdtree_jax.checks import UserError
from mdtree_jax.cli import run
from mdtree_jax.config import MeasureModelConfig


def main(config: MeasureModelConfig) -> None:
    """Measure what the configuration names, and append or print the row."""
    _check(config)
    from mdtree_jax.diagnosis.words.notes import sentence
    from mdtree_jax.report.terminal import make_console, stages
    from mdtree_jax.runs.jax_backend import set_up_devices
    from mdtree_jax.store.rows import append_row, check_appendable
    from mdtree_jax.subject.from_model import measure_row
    from mdtree_jax.subject.limits import Limits
    from mdtree_jax.subject.load import load_both

    if config.append_to:
        check_appendable(Path(config.append_to).expanduser())
    set_up_devices()
    subject, data, facts, _ = load_both(config)
    trained = {
        "width": config.model_width if config.width is None else config.width,
        "batch_size": config.batch_size,
        "data_fraction": config.data_fraction,
        **(config.columns or {}),
    }
    with stages("measuring") as progress:
        row = measure_row(
            subject,
            data,
            trained,
            measure=config.measure,
            max_images=config.max_images,
            limits=Limits(config.memory_gb, config.max_minutes),
            progress=progress,
        )
    row = {"model": config.model, "dataset": config.dataset, "checkpoints": ",".join(config.checkpoints)} | row
    console = make_console()
    for note in (*subject.notes, *map(sentence, facts)):
        console.print(f"note: {note}", highlight=False, soft_wrap=True)
    if config.append_to is None:
        for name, value in row.items():
            console.print(f"{name}: {_shown(value)}", highlight=False, soft_wrap=True)
        return
    count = append_row(Path(config.append_to).expanduser(), row, same=("model", "dataset", "checkpoints"))
    console.print(f"{config.append_to}: {count} rows", highlight=False, soft_wrap=True)


def _check(config: MeasureModelConfig) -> None:
    for name in ("model", "dataset"):
        if getattr(config, name) is None:
            raise UserError(f"{name}= is required; see --help")
    if config.columns is None:
        return
    if not isinstance(config.columns, Mapping):
        raise UserError(f"columns={config.columns!r} is not a mapping; give columns by name: columns={{rate: 0.1}}")
    for name, value in config.columns.items():
        if not isinstance(value, (int, float, str)):
            raise UserError(f"columns.{name}={value!r} is a {type(value).__name__}; expected a number or text")


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(run("measure", __doc__, main))
