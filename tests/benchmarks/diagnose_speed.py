"""How long `diagnose_metrics` takes for a table of 1000 models, the first time (the reference is read) and after.

Of three tables: as published; with a standard error of every metric, 5 % of its size, which is integrated over;
with a tenth of the cells of three metrics empty, at random, so that eight joint models are fitted.

MDTREE_JAX_DATA=FOLDER python tests/benchmarks/diagnose_speed.py    # the folder with the published collections
"""

from __future__ import annotations

import statistics
import time

import numpy as np

from mdtree_jax import diagnose_metrics, load_collection
from mdtree_jax.causes import joint
from mdtree_jax.diagnosis.reference import get_reference


def main() -> None:
    """Measure and print."""
    models = load_collection("published/F_noise").head(1000).drop(columns=["test_error"])
    metrics = [name for name in joint.COLUMNS if name in models]
    with_errors = models.assign(**{f"{name}_se": 0.05 * models[name].abs() for name in metrics})
    rng, holes = np.random.default_rng(0), models.copy()
    for name in ("cka", "mode_connectivity", "train_loss"):
        holes.loc[rng.random(len(holes)) < 0.1, name] = np.nan
    for what, table in (("as published", models), ("with standard errors", with_errors), ("with gaps", holes)):
        reference, seconds = get_reference("published_F"), []
        reference.cache.clear()
        for _ in range(6):
            start = time.perf_counter()
            diagnose_metrics(table, units="percent")
            seconds.append(time.perf_counter() - start)
        print(f"1000 models {what}: {seconds[0]:.2f} s the first time, then {statistics.median(seconds[1:]):.2f} s")


if __name__ == "__main__":
    main()
