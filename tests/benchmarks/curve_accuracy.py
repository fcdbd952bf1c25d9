"""How the connectivity of the trained Bézier curve depends on steps, learning rate, batch, points, seeds and pairs.

    python -m tests.benchmarks.curve_accuracy --store runs/curves.json

Trains small resnet8 networks on the digits (3 seeds of every width x batch x data fraction), connects pairs of them
with curves of many settings and prints Markdown tables. Every curve is stored as soon as it is measured; a second
call goes on where the first was stopped. About an hour on 2 CPU cores, of which the curves of 19 000 steps (--long)
take a half. The cost of a curve is counted in gradients of one image: batch x steps + points x
(2 n_train + n_test) / 3.
"""

from __future__ import annotations

import argparse
import functools
import json
import pickle
import time
from pathlib import Path

import jax
import jax.numpy as jnp

from mdtree_jax.data.dataset import load_dataset
from mdtree_jax.landscape import curve_training, linear_barrier, recompute_batch_stats
from mdtree_jax.models import build_model
from mdtree_jax.population.cohort import Cohort, Member, Recipe
from mdtree_jax.population.executor import compiler_options
from mdtree_jax.population.train import train_cohort
from mdtree_jax.training import cross_entropy, evaluate

WIDTHS, BATCHES, FRACTIONS, NUM_SEEDS = (2, 4, 8), (16, 96), (0.3, 1.0), 3
RECIPE = Recipe("digits", "resnet8", 10, (10, 10, 1))
BUDGET = 50 * 1760
NUM_TRAIN_AVERAGE = 1760
#: Settings are measured in this order over all networks: (steps, learning rate, batch, pair, curve seed, start).
SETTINGS = [(steps, 0.01, 128, 0, 0, "linear") for steps in (100, 400, 1600)]
SETTINGS += [(steps, rate, 128, 0, 0, "linear") for steps in (100, 400) for rate in (0.03, 0.1)]
SETTINGS += [(400, rate, 128, 0, seed, "linear") for seed in (1, 2) for rate in (0.01, 0.03)]
SETTINGS += [(400, rate, 128, pair, 0, "linear") for pair in (1, 2) for rate in (0.01, 0.03)]
SETTINGS += [(1600, rate, 32, 0, 0, "linear") for rate in (0.01, 0.03)]
SETTINGS += [(steps, rate, 128, 0, 0, "linear") for steps in (200, 800) for rate in (0.01, 0.03, 0.1)]
SETTINGS += [(400, 0.01, 128, 0, 0, "published"), (3200, 0.01, 128, 0, 0, "linear")]
LONG = [(19_000, 0.01, 128, 0, 0, init) for init in ("linear", "published")]


def networks(path: Path) -> dict:
    """Return {(width, batch, fraction): variables with the seeds as first axis}, trained once."""
    if path.exists():
        return pickle.loads(path.read_bytes())
    data, found = load_dataset("digits"), {}
    for width in WIDTHS:
        for batch in BATCHES:
            sizes = [round(fraction * len(data.x_train)) for fraction in FRACTIONS]
            members = [Member(0, s, n, n / 3200, 0.05, 5e-4) for n in sizes for s in range(NUM_SEEDS)]
            start = time.perf_counter()
            trained = train_cohort(RECIPE, Cohort(width, batch, 50, tuple(members)), data)
            seconds = time.perf_counter() - start
            for i, fraction in enumerate(FRACTIONS):
                rows = slice(i * NUM_SEEDS, (i + 1) * NUM_SEEDS)
                found[width, batch, fraction] = {
                    "variables": jax.tree.map(lambda leaf, rows=rows: leaf[rows], trained.variables),
                    "train_error": trained.train_error[rows],
                    "test_error": trained.test_error[rows],
                    "seconds": trained.train_seconds[rows],
                }
            print(f"trained width {width} batch {batch} in {seconds:.0f} s", flush=True)
    path.write_bytes(pickle.dumps(found))
    return found


@functools.cache
def programs(width: int, batch: int, init: str, num_points: int):
    """Return jitted `start`, `advance` and `finish` (training side only) for a width and a batch of the curve."""
    data = load_dataset("digits")
    x_train, y_train = jnp.asarray(data.x_train), jnp.asarray(data.y_train)
    model = build_model("resnet8", width, 10, (10, 10, 1))

    def training(steps, rate):
        return curve_training(steps, rate, num_points=num_points, init=init)

    def advance(state, num_samples, steps, rate, block):
        def loss(params, step, key):
            rows = jax.random.randint(key, (batch,), 0, num_samples, jnp.int32)
            logits, _, _ = model.apply({"params": params, "batch_stats": batch_stats}, x_train[rows], True)
            return cross_entropy(logits, y_train[rows]).mean()

        return training(steps, rate).advance(state, loss, block)

    batch_stats = model.init(jax.random.key(0))["batch_stats"]

    def finish(state, num_samples):
        return training(100, 0.01).finish(state, functools.partial(evaluate_with_statistics, num_samples))

    def evaluate_with_statistics(num_samples, params):
        variables = {"params": params, "batch_stats": batch_stats}

        def apply_train(variables, x):
            logits, _, stats = model.apply(variables, x, True)
            return logits, {"batch_stats": stats}

        def draw(index):
            return jax.lax.dynamic_slice_in_dim(x_train, index * 128, 128)

        stats = recompute_batch_stats(apply_train, variables, draw, num_samples // 128)
        variables = {"params": params, "batch_stats": stats}
        loss, wrong = evaluate(model, variables, x_train, y_train, num_samples, 512)
        return {"train_loss": loss, "train_error": 100 * wrong.astype(jnp.float32) / num_samples.astype(jnp.float32)}

    def line(end0, end1, num_samples):
        return linear_barrier(9)(end0, end1, functools.partial(evaluate_with_statistics, num_samples))

    jit = functools.partial(jax.jit, compiler_options=compiler_options("cpu"))
    return jit(training(100, 0.01).start), jit(advance), jit(finish), jit(line)


def measure(found: dict, key: tuple, setting: tuple, num_points: int = 9) -> dict:
    """Train and measure one curve."""
    steps, rate, batch, pair, seed, init = setting
    variables, num_samples = found[key]["variables"], jnp.int32(round(key[2] * 3200))
    end0 = jax.tree.map(lambda leaf: leaf[pair], variables["params"])
    end1 = jax.tree.map(lambda leaf: leaf[(pair + 1) % NUM_SEEDS], variables["params"])
    start, advance, finish, line = programs(key[0], batch, init, num_points)
    begin = time.perf_counter()
    state = start(end0, end1, jax.random.key(seed))
    args = num_samples, jnp.int32(steps), jnp.float32(rate), jnp.int32(steps)
    state = jax.block_until_ready(advance(state, *args))
    trained = time.perf_counter()
    result = jax.device_get(finish(state, num_samples))
    done = time.perf_counter()
    row = {"error": result.train_error.tolist(), "loss": result.train_loss.tolist()}
    row |= {"peak": float(result.mode_connectivity_peak), "mc": float(result.mode_connectivity)}
    row |= {"train_seconds": trained - begin, "finish_seconds": done - trained}
    if setting == SETTINGS[0]:
        row["line"] = jax.device_get(line(end0, end1, num_samples)).train_error.tolist()
    return row


def run(store: Path, settings: list, keys: list, found: dict, prefix: str = "", num_points: int = 9) -> dict:
    """Measure what the store lacks; return all of it."""
    rows = json.loads(store.read_text()) if store.exists() else {}
    for setting in settings:
        for key in keys:
            name = prefix + repr((key, setting))
            if name not in rows:
                rows[name] = measure(found, key, setting, num_points)
                store.write_text(json.dumps(rows))
        print(f"measured {prefix}{setting}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--widths", type=int, nargs="*", default=WIDTHS)
    options = parser.parse_args()
    options.store.parent.mkdir(parents=True, exist_ok=True)
    found = networks(options.store.with_suffix(".pkl"))
    keys = [key for key in found if key[0] in options.widths]
    run(options.store, SETTINGS, keys, found)
    run(options.store, [(800, 0.01, 128, 0, 0, "linear")], keys, found, "33 ", 33)
    if options.long:
        run(options.store, LONG, [key for key in keys if key[0] < 8], found)


if __name__ == "__main__":
    main()
