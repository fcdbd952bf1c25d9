"""How the connectivity of the trained Bézier curve depends on steps, learning rate, batch, points, seeds and pairs.

    python -m tests.benchmarks.curve_accuracy --store runs/curves.json

Trains small resnet8 networks on the digits (3 seeds of every width x batch x data fraction), connects pairs of them
with curves of many settings and prints Markdown tables. Every curve is stored as soon as it is measured; a second
call goes on where the first was stopped. The curves of 19 000 steps, which the others are compared with, come with
--long and take as long as all others together. The cost of a curve is counted in gradients of one image:
batch x steps + points x (2 n_train + n_test) / 3.
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
import numpy as np
from scipy.stats import spearmanr

from mdtree_jax.data.dataset import load_dataset
from mdtree_jax.landscape import curve_training, linear_barrier, recompute_batch_stats
from mdtree_jax.lowering import compiler_options
from mdtree_jax.models import build_model
from mdtree_jax.population.train import train_cohort
from mdtree_jax.recipe.cohort import Cohort, Member, Recipe
from mdtree_jax.training import cross_entropy, evaluate

WIDTHS, BATCHES, FRACTIONS, NUM_SEEDS = (2, 4, 8), (16, 96), (0.3, 1.0), 3
RECIPE = Recipe("digits", "resnet8", 10, (10, 10, 1))
BUDGET = 50 * 1760
NUM_TRAIN_AVERAGE, NUM_TEST = 1760, 5120
#: Settings are measured in this order over all networks: (steps, learning rate, batch, pair, curve seed, start).
SETTINGS = [(steps, rate, 128, 0, 0, "linear") for steps in (100, 400) for rate in (0.01, 0.03, 0.1)]
SETTINGS += [(1600, 0.01, 128, 0, 0, "linear")]
#: Over networks of the whole data only.
BEST = (1600, 0.1, 32)
DETAIL = [(1600, rate, 32, 0, 0, "linear") for rate in (0.03, 0.1, 0.3)]
DETAIL += [(*BEST, 0, seed, "linear") for seed in (1, 2)] + [(*BEST, pair, 0, "linear") for pair in (1, 2)]
DETAIL += [(steps, 0.1, 32, 0, 0, "linear") for steps in (400, 800, 3200)] + [(*BEST, 0, 0, "published")]
DETAIL += [(steps, 0.1, 128, 0, 0, "linear") for steps in (800, 1600)] + [(400, 0.3, 128, 0, 0, "linear")]
DETAIL += [(steps, rate, 128, 0, 0, "linear") for steps in (200, 800) for rate in (0.01, 0.03)]
DETAIL += [(3200, 0.01, 128, 0, 0, "linear")] + [(3200, rate, 16, 0, 0, "linear") for rate in (0.03, 0.1)]
LONG = [(19_000, 0.01, 128, 0, 0, init) for init in ("linear", "published")]
REFERENCE = LONG[0]
MANY_POINTS = [(*BEST, 0, 0, "linear")]


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


def cost(setting: tuple, num_points: int = 9) -> float:
    """Return the cost of a curve over that of training one network of the grid, both of average data."""
    steps, _, batch, *_ = setting
    return (steps * batch + num_points * (2 * NUM_TRAIN_AVERAGE + NUM_TEST) / 3) / BUDGET


def print_networks(rows: dict, keys: list, found: dict) -> None:
    """Print every network's ends, straight line and peak at every setting of its pair 0."""
    settings = [s for s in SETTINGS + DETAIL + LONG if s[3] == s[4] == 0 and s[5] == "linear"]
    settings = [
        s for s in sorted(settings, key=lambda s: (s[2], s[1], s[0])) if any(repr((k, s)) in rows for k in keys)
    ]
    print("\nPeak (-%) by network and setting (steps, rate, batch); line: largest error on the straight line.\n")
    names = [f"{steps} {rate:g} {batch}" for steps, rate, batch, *_ in settings]
    print("| width, batch, data | train error % | line | " + " | ".join(names) + " |")
    print("|---|--:|--:|" + "--:|" * len(names))
    for key in keys:
        line = rows.get(repr((key, SETTINGS[0])), {}).get("line", [np.nan])
        cells = [f"{rows[name]['peak']:.2f}" if (name := repr((key, s))) in rows else "" for s in settings]
        print(f"| {key} | {found[key]['train_error'].mean():.2f} | {max(line):.1f} | {' | '.join(cells)} |")


def print_settings(rows: dict, keys: list) -> None:
    """Print for every setting of pair 0 the cost and the distance to the longest curve measured."""
    settings = [s for s in SETTINGS + DETAIL if s[3] == s[4] == 0]
    print("\n| steps | rate | batch | start | cost, trainings | networks | mean peak | mean connectivity |"
          " mean peak − reference | rank correlation |\n|--:|--:|--:|---|--:|--:|--:|--:|--:|--:|")  # fmt: skip
    for setting in sorted(settings, key=lambda s: (s[5], s[2], s[1], s[0])):
        mine = {key: rows[name] for key in keys if (name := repr((key, setting))) in rows}
        both = [key for key in mine if repr((key, REFERENCE)) in rows]
        if not both:
            continue
        peaks, reference = ([r["peak"] for r in side] for side in
                            ([mine[k] for k in both], [rows[repr((k, REFERENCE))] for k in both]))  # fmt: skip
        gap = np.mean(np.subtract(peaks, reference))
        rank = spearmanr(peaks, reference).statistic if len(both) > 2 else np.nan
        mc = np.mean([mine[k]["mc"] for k in both])
        steps, rate, batch, _, _, init = setting
        print(f"| {steps} | {rate:g} | {batch} | {init} | {cost(setting):.2f} | {len(both)} | {np.mean(peaks):.2f} | "
              f"{mc:.2f} | {gap:+.2f} | {rank:.3f} |")  # fmt: skip


def print_spread(rows: dict, keys: list) -> None:
    """Print the standard deviation of the peak over curve seeds and over pairs, and the effect of the points."""
    print("\n| width, batch, data | peaks of 3 curve seeds | s.d. | peaks of 3 pairs | s.d. |")
    print("|---|---|--:|---|--:|")
    for key in keys:
        seeds = [rows[n]["peak"] for seed in range(3) if (n := repr((key, (*BEST, 0, seed, "linear")))) in rows]
        pairs = [rows[n]["peak"] for pair in range(3) if (n := repr((key, (*BEST, pair, 0, "linear")))) in rows]
        if len(seeds) == len(pairs) == 3:
            texts = [" ".join(f"{peak:.2f}" for peak in side) for side in (seeds, pairs)]
            print(f"| {key} | {texts[0]} | {np.std(seeds, ddof=1):.2f} | {texts[1]} | {np.std(pairs, ddof=1):.2f} |")
    print("\n| width, batch, data | connectivity at 5, 9, 17, 33 points | peak at t=.25 .5 .75 | at all 33 |")
    print("|---|---|--:|--:|")
    for key in keys:
        row = rows.get("33 " + repr((key, MANY_POINTS[0])))
        if row:
            error = np.array(row["error"])
            mean = (error[0] + error[-1]) / 2
            found = [mean - part[np.argmax(np.abs(part - mean))] for part in (error[::n] for n in (8, 4, 2, 1))]
            print(f"| {key} | {', '.join(f'{c:.2f}' for c in found)} | {row['peak']:.2f} | {-error.max():.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--widths", type=int, nargs="*", default=WIDTHS)
    options = parser.parse_args()
    options.store.parent.mkdir(parents=True, exist_ok=True)
    found = networks(options.store.with_suffix(".pkl"))
    keys = [key for key in found if key[0] in options.widths]
    whole = [key for key in keys if key[2] == 1.0]
    run(options.store, SETTINGS, keys, found)
    run(options.store, DETAIL, whole, found)
    run(options.store, MANY_POINTS, whole, found, "33 ", 33)
    if options.long:
        run(options.store, LONG, [key for key in whole if key[0] < 8], found)
    rows = json.loads(options.store.read_text())
    print_networks(rows, keys, found)
    print_settings(rows, keys)
    print_spread(rows, whole)


if __name__ == "__main__":
    main()
