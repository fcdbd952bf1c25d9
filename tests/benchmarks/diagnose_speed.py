"""How long `diagnose_metrics` takes for a table of 1000 models, the first time (the reference is read) and after.

MDTREE_JAX_DATA=FOLDER python tests/benchmarks/diagnose_speed.py    # the folder with the published collections
"""

from __future__ import annotations

import statistics
import time

from mdtree_jax import diagnose_metrics, load_collection


def main() -> None:
    """Measure and print."""
    models = load_collection("published/F_noise").head(1000).drop(columns=["test_error"])
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        diagnose_metrics(models, units="percent")
        seconds.append(time.perf_counter() - start)
    print(f"1000 models: {seconds[0]:.2f} s the first time, then {statistics.median(seconds[1:]):.2f} s")


if __name__ == "__main__":
    main()
