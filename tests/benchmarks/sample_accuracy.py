"""How sharpness and similarity depend on the number of images, of pairs and of seeds that they are measured on.

    python -m mdtree_jax.sweep +grid=digits grid.width=[16] grid.batch_size=[32] out=runs/one
    python -m tests.benchmarks.sample_accuracy --run runs/one

Of the networks of a run folder (kept checkpoints). Hessian trace (XTrace to 3 %) and CKA on n images, against the same
on 1600 images (CKA: 6144): root mean square deviation over the networks, and rank correlation over the
configurations. Of pairs and seeds: the standard error of a configuration's mean, from the spread in the run's tables.
Prints markdown tables.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from mdtree_jax import landscape
from mdtree_jax.models import build_model
from mdtree_jax.population.executor import compiler_options
from mdtree_jax.population.measures import make_loss
from mdtree_jax.store.manifest import read_manifest
from mdtree_jax.subject.run_folder import load_configuration

IMAGES = (25, 50, 100, 200, 400)
MIXED = (48, 96, 192, 384, 768, 1536)
PRODUCTS, ERROR = 64, 0.03


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    options = parser.parse_args()
    config = read_manifest(options.run / "manifest.json")["config"]
    table = pd.read_parquet(options.run / "collection.parquet")
    traces, similarities = {}, {}
    for _, row in table.iterrows():
        subject, data = load_configuration(options.run, row)
        model = build_model(config["model"], int(row["width"]), 10, data.x_train.shape[1:])
        count = len(data.y_train)
        sizes = [n for n in (*IMAGES, 1600) if n <= count]
        key = (row["width"], row["batch_size"], row["data_fraction"])
        traces[key] = [trace(model, subject.variables[0]["params"], subject, data, n) for n in sizes]
        similarities[key] = [cka(model, subject, data, n) for n in (*MIXED, 6144)]
        print(f"<!-- {key}: ln trace {np.round(np.log(traces[key]), 2)} -->", flush=True)
    show("ln Hessian trace", IMAGES, {k: np.log(v) for k, v in traces.items()})
    show("CKA", MIXED, similarities)
    spread(table, pd.read_parquet(options.run / "pairs.parquet"), pd.read_parquet(options.run / "members.parquet"))


@functools.cache
def trace_program(model, count: int):
    """Return the compiled trace of a network on `count` images."""

    def run(params, state, batch, key):
        product = landscape.hvp(make_loss(model, state), params, batch, batch_size=min(count, 200))
        return landscape.xtrace(PRODUCTS, relative_error=ERROR, batched=False)(product, key, params).mean

    return jax.jit(run, compiler_options=compiler_options("cpu"))


def trace(model, params, subject, data, count: int) -> float:
    """Return the Hessian trace of the first network on the first `count` images."""
    state = subject.variables[0]["batch_stats"]["batch_stats"]
    count = count // 200 * 200 if count > 200 else count  # whole batches
    batch = jnp.asarray(data.x_train[:count]), jnp.asarray(data.y_train[:count])
    return float(trace_program(model, count)(params, state, batch, jax.random.key(0)))


def cka(model, subject, data, count: int) -> float:
    """Return the mean CKA of the pairs among the networks on `count` mixed-up images."""
    images = landscape.mixup(
        jax.random.key(0), jnp.asarray(data.x_train), len(data.y_train), num_images=count, alpha=16.0
    )
    logits = jnp.stack([subject.model.apply(v, images, False)[0] for v in subject.variables])
    matrix = np.asarray(landscape.linear_cka(jax.nn.softmax(logits)))
    return float(matrix[np.triu_indices(len(matrix), 1)].mean())


def show(name: str, sizes, values: dict) -> None:
    """Print deviations from the last entry, which is that of most images."""
    print(f"\n| {name}, images | r.m.s. deviation from most | rank correlation with most |\n|--:|--:|--:|")
    for place, size in enumerate(sizes):
        most = max(map(len, values.values()))
        both = [(v[place], v[-1]) for v in values.values() if len(v) == most]
        if len(both) > 3:
            some, every = np.array(both).T
            print(f"| {size} | {np.sqrt(np.mean((some - every) ** 2)):.3f} | {spearmanr(some, every).statistic:.3f} |")


def spread(table: pd.DataFrame, pairs: pd.DataFrame, members: pd.DataFrame) -> None:
    """Print how far the spread between networks and pairs reaches, beside the spread over the configurations."""
    print("\n| metric | s.d. between networks or pairs | s.d. over configurations | s.e. with 1, 2, 3, 5 of them |")
    print("|---|--:|--:|---|")
    members = members.assign(log_hessian_trace=np.log(members["hessian_trace"]))
    for source, names in ((members, ("train_error", "log_hessian_trace")), (pairs, ("cka", "mode_connectivity_peak"))):
        for name in names:
            within = np.sqrt(source.groupby("configuration")[name].var(ddof=1).mean())
            errors = ", ".join(f"{within / n**0.5:.2f}" for n in (1, 2, 3, 5))
            print(f"| {name} | {within:.2f} | {table[name].std():.2f} | {errors} |")


if __name__ == "__main__":
    main()
