"""How worst-case sharpness, straight barriers and curves depend on the number of ascent steps and of points.

    python -m mdtree_jax.sweep +grid=digits grid.width=[8,14,24] grid.batch_size=[8,48,208] \\
        grid.data_fraction=[0.5,1.0] stages=[train] out=runs/sample
    python -m tests.benchmarks.resolution_accuracy --run runs/sample

Of the first two networks of every configuration of a run folder (kept checkpoints), with the measurements of a sweep.
The ball is searched with up to 40 steps, the straight line looked at in 49 points and the curve of `digits` in 49; what
fewer would have found is read off the same steps and points, beside the finest: root mean square deviation, and rank
correlation over the configurations. Prints markdown tables.
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
from mdtree_jax.measuring.kernels import Data, PairItem, make_curve, make_loss, make_point_evaluation
from mdtree_jax.models import Model, build_model
from mdtree_jax.recipe.measure_settings import MeasureConfig, MeasureSettings, resolve
from mdtree_jax.store.manifest import read_manifest
from mdtree_jax.subject.run_folder import load_configuration

BALL_STEPS = (1, 2, 3, 5, 10, 20, 40)
POINTS = (3, 5, 9, 13, 25, 49)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    options = parser.parse_args()
    config = read_manifest(options.run / "manifest.json")["config"]
    settings = resolve(
        MeasureConfig(curve_steps=1200, curve_batch_size=32, curve_learning_rate=0.1, curve_points=POINTS[-1])
    )
    found: dict[str, list[list[float]]] = {}
    table = pd.read_parquet(options.run / "collection.parquet")
    for _, row in table.iterrows():
        subject, examples = load_configuration(options.run, row)
        variables = [v["batch_stats"] | {"params": v["params"]} for v in subject.variables[:2]]
        data = Data(*(jnp.asarray(a) for a in examples))
        model = build_model(config["model"], int(row["width"]), 10, data.x_train.shape[1:])
        item = PairItem(*variables, jnp.int32(len(data.y_train)), jax.random.key_data(jax.random.key(0)))
        for name, values in measure(model, settings, item, data).items():
            found.setdefault(name, []).append(values)
    steps, points = list(BALL_STEPS), list(POINTS)
    show("ball sharpness, nats (relative)", "ascent steps", steps, found["ball"], relative=True)
    show("barrier, points of training error", "points", points, found["barrier"])
    show("barrier, nats (relative)", "points", points, found["barrier_loss"], relative=True)
    show("mode connectivity, points", "points", points[1:], found["mode_connectivity"])
    show("highest training error on the curve, points", "points", points[1:], found["highest"])


def measure(model: Model, settings: MeasureSettings, item: PairItem, data: Data) -> dict[str, list[float]]:
    """Return every metric at rising fineness."""
    ball = [float(ball_program(model, settings, steps)(item, data)) for steps in BALL_STEPS]
    line = {name: np.asarray(value, float) for name, value in line_program(model, settings)(item, data).items()}
    curve = np.asarray(curve_program(model, settings)(item, data)["curve_train_error"], float)
    ends = (curve[0] + curve[-1]) / 2
    paths = [curve[:: (POINTS[-1] - 1) // (n - 1)] for n in POINTS[1:]]
    return {
        "ball": ball,
        "barrier": [barrier(line["train_error"], n) for n in POINTS],
        "barrier_loss": [barrier(line["train_loss"], n) for n in POINTS],
        "mode_connectivity": [float(ends - path[np.argmax(np.abs(path - ends))]) for path in paths],
        "highest": [float(path.max()) for path in paths],
    }


def barrier(values: np.ndarray, num_points: int) -> float:
    """Return the height above the chord at so many equally spaced points of a path of 49."""
    chord = np.linspace(values[0], values[-1], len(values))
    return float((values - chord)[:: (len(values) - 1) // (num_points - 1)].max())


@functools.cache
def ball_program(model: Model, settings: MeasureSettings, steps: int):
    """Return the compiled search in the ball for the first network."""
    kernel = landscape.ball_sharpness(radius=settings.ball_radius, num_steps=steps, relative=True)

    def run(item: PairItem, data: Data) -> jax.Array:
        loss, rows = make_loss(model, item.first["batch_stats"]), settings.hessian_images
        return kernel(lambda p: loss(p, (data.x_train[:rows], data.y_train[:rows])), item.first["params"]).increase

    return jax.jit(run, compiler_options=compiler_options("cpu"))


@functools.cache
def line_program(model: Model, settings: MeasureSettings):
    """Return the compiled straight line."""
    kernel = landscape.linear_barrier(POINTS[-1])

    def run(item: PairItem, data: Data) -> dict[str, jax.Array]:
        stats = item.first["batch_stats"]
        evaluate = make_point_evaluation(model, settings, item.num_samples, data, stats, False)
        line = kernel(item.first["params"], item.second["params"], evaluate)
        return {"train_error": line.train_error, "train_loss": line.train_loss}

    return jax.jit(run, compiler_options=compiler_options("cpu"))


@functools.cache
def curve_program(model: Model, settings: MeasureSettings):
    """Return the compiled curve."""
    return jax.jit(make_curve(model, settings), compiler_options=compiler_options("cpu"))


def show(name: str, what: str, sizes: list[int], values: list[list[float]], relative: bool = False) -> None:
    """Print deviations from the last column, which is the finest."""
    table = np.array(values)
    scale = np.abs(table[:, -1:]) if relative else 1.0
    print(f"\n| {name}, {what} | r.m.s. deviation from {sizes[-1]} | rank correlation |\n|--:|--:|--:|")
    for place, size in enumerate(sizes):
        apart = np.sqrt(np.mean(((table - table[:, -1:]) / scale)[:, place] ** 2))
        order = spearmanr(table[:, place], table[:, -1]).statistic
        shown = f"{100 * apart:.1f} %" if relative else f"{apart:.2f}"
        print(f"| {size} | {shown} | {order:.3f} |")


if __name__ == "__main__":
    main()
