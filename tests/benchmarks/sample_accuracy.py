"""How sharpness and similarity depend on the number of images, of products, of pairs and of seeds.

    python -m mdtree_jax.sweep +grid=digits grid.width=[16] grid.batch_size=[32] out=runs/one
    python -m tests.benchmarks.sample_accuracy --run runs/one

Of the networks of a run folder (kept checkpoints). Hessian trace (XTrace to 3 %), top eigenvalue (Lanczos to 1 %),
ball sharpness (5 steps), CKA and agreement on n images, against the same on 1600 images (the last two: 6144); traces
from n products against those from 384 with other probes: root mean square deviation and rank correlation over the
configurations. Of pairs and seeds, where the run was measured: the standard error of a configuration's mean, from the
spread in the run's tables, as if no two pairs shared a network.
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
from mdtree_jax.lowering import compiler_options
from mdtree_jax.measuring.kernels import make_loss
from mdtree_jax.models import build_model
from mdtree_jax.store.manifest import read_manifest
from mdtree_jax.subject.run_folder import load_configuration

IMAGES = (25, 50, 100, 200, 400)
MIXED = (48, 96, 192, 384, 768, 1536)
BUDGETS = (16, 32, 48, 96)
PRODUCTS, ERROR, MANY = 64, 0.03, 384


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--widths", type=int, nargs="*", help="of the run; all, if not given")
    options = parser.parse_args()
    config = read_manifest(options.run / "manifest.json")["config"]
    table = pd.read_parquet(options.run / "collection.parquet")
    found: dict[str, dict] = {}
    widths = options.widths or sorted(set(table["width"]))
    for _, row in table[table["width"].isin(widths)].sort_values("width", kind="stable").iterrows():
        subject, data = load_configuration(options.run, row)
        model = build_model(config["model"], int(row["width"]), 10, data.x_train.shape[1:])
        count = len(data.y_train)
        sizes = [n for n in (*IMAGES, 1600) if n <= count]
        key = (row["width"], row["batch_size"], row["data_fraction"])
        measured = [sharpness(model, subject, data, n) for n in sizes]
        for place, name in enumerate(("ln Hessian trace", "ln top eigenvalue", "ln ball sharpness")):
            found.setdefault(name, {})[key] = [np.log(values[place]) for values in measured]
        compared = [similarity(subject, data, n) for n in (*MIXED, 6144)]
        for place, name in enumerate(("CKA", "agreement")):
            found.setdefault(name, {})[key] = [values[place] for values in compared]
        by_probes = [traces(model, subject, data, n) for n in (*BUDGETS, MANY)]
        for place, name in enumerate(("ln trace", "ln scale-invariant trace", "ln trace of the largest layer")):
            found.setdefault(name, {})[key] = [np.log(values[place]) for values in by_probes]
        print(f"<!-- {key}: ln trace {np.round(found['ln Hessian trace'][key], 2)} -->", flush=True)
        if len(found["CKA"]) % 3 == 0:  # the programs of one width are many, and fill what holds compiled code
            jax.clear_caches()
    for name, values in found.items():
        of_probes = name in ("ln trace", "ln scale-invariant trace", "ln trace of the largest layer")
        sizes = MIXED if name in ("CKA", "agreement") else BUDGETS if of_probes else IMAGES
        show(name, "products" if of_probes else "images", sizes, values)
    pairs = options.run / "pairs.parquet"
    if pairs.is_file():
        spread(table, pd.read_parquet(pairs), pd.read_parquet(options.run / "members.parquet"))


@functools.cache
def sharpness_program(model, count: int):
    """Return the compiled trace, top eigenvalue and ball sharpness of a network on `count` images."""

    def run(params, state, batch, key):
        loss = make_loss(model, state)
        product = landscape.hvp(loss, params, batch, batch_size=min(count, 200))
        ball = landscape.ball_sharpness(radius=0.005, num_steps=5, relative=True)
        return (
            landscape.xtrace(PRODUCTS, relative_error=ERROR, batched=False)(product, key, params).mean,
            landscape.lanczos(1, 24, 1e-2)(product, key, params).values[0],
            ball(lambda p: loss(p, batch), params).increase,
        )

    return jax.jit(run, compiler_options=compiler_options("cpu"))


def first_network(subject):
    """Return parameters and running averages of the first network."""
    variables = subject.variables[0]
    return variables["params"], variables["batch_stats"]["batch_stats"]


def sharpness(model, subject, data, count: int) -> list[float]:
    """Return trace, top eigenvalue and ball sharpness of the first network on the first `count` images."""
    params, state = first_network(subject)
    count = count // 200 * 200 if count > 200 else count  # whole batches
    batch = jnp.asarray(data.x_train[:count]), jnp.asarray(data.y_train[:count])
    return [float(value) for value in sharpness_program(model, count)(params, state, batch, jax.random.key(0))]


@functools.cache
def traces_program(model, num_products: int):
    """Return the compiled trace, scale-invariant trace and traces of the layers, from so many products."""

    def run(params, state, batch, key):
        product = landscape.hvp(make_loss(model, state), params, batch)
        weights = landscape.scale_invariant_weights(params)
        found = landscape.xtrace(num_products, batched=False)(product, key, params, weights=weights)
        return found.mean, found.weighted_mean, jnp.stack(jax.tree.leaves(found.leaf_traces))

    return jax.jit(run, compiler_options=compiler_options("cpu"))


def traces(model, subject, data, num_products: int) -> list[float]:
    """Return trace, scale-invariant trace and that of the largest array of the first network, 200 images."""
    params, state = first_network(subject)
    batch = jnp.asarray(data.x_train[:200]), jnp.asarray(data.y_train[:200])
    whole, invariant, layers = traces_program(model, num_products)(params, state, batch, jax.random.key(num_products))
    largest = int(np.argmax([np.size(leaf) for leaf in jax.tree.leaves(params)]))
    return [float(whole), float(invariant), float(layers[largest])]


def similarity(subject, data, count: int) -> list[float]:
    """Return the mean CKA and agreement of the pairs among the networks on `count` mixed-up images."""
    images = landscape.mixup(
        jax.random.key(0), jnp.asarray(data.x_train), len(data.y_train), num_images=count, alpha=16.0
    )
    logits = jnp.stack([jax.jit(subject.model.apply, static_argnums=2)(v, images, False)[0] for v in subject.variables])
    pairs = np.triu_indices(len(logits), 1)
    matrices = landscape.linear_cka(jax.nn.softmax(logits)), landscape.agreement(logits)
    return [float(np.asarray(matrix)[pairs].mean()) for matrix in matrices]


def show(name: str, what: str, sizes, values: dict) -> None:
    """Print deviations from the last entry, which is that of most images or products."""
    print(f"\n| {name}, {what} | r.m.s. deviation from most | rank correlation with most |\n|--:|--:|--:|")
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
