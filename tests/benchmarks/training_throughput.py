"""Training throughput side by side: population training, one network at a time, and a plain PyTorch loop.

    python tests/benchmarks/training_throughput.py                 # all sizes, some 10 minutes on 2 cores
    python tests/benchmarks/training_throughput.py --only digits   # or resnet18
    python tests/benchmarks/training_throughput.py --only resnet8_fine:6:16 resnet18:8:64   # network:width:batch
    python tests/benchmarks/training_throughput.py --estimate table.md   # the whole digits grid, from printed tables

PyTorch is not a dependency; its column needs `pip install torch==2.13.0`, else it stays empty. Every side may use all
cores: ours has one device a core, XLA its threads, PyTorch the better of one thread and one a core, since its threads
wait for each other busily and collapse beside other load. The sides take turns and the best of
several turns counts, since other load on the machine only ever slows down. Throughput is model x samples per second
of training steps, without compilation and evaluation. Prints a markdown table.
"""

from __future__ import annotations

import argparse
import functools
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mdtree_jax.models import build_model, count_flops
from mdtree_jax.population import train as population_train
from mdtree_jax.population.executor import choose_executor, configure_devices
from mdtree_jax.recipe.cohort import Cohort, Member, Recipe
from mdtree_jax.training import Hyperparameters, make_trainer

DIGITS = [("resnet8_fine", w, b) for w in (6, 12, 28) for b in (4, 16, 72, 288)]
RESNET18 = [("resnet18", w, b) for w in (2, 8, 16) for b in (16, 64, 256)]
SHAPES = {"resnet8": (10, 10, 1), "resnet8_fine": (10, 10, 1), "resnet18": (32, 32, 3)}
NUM_TRAIN = {"resnet8": 3200, "resnet8_fine": 3200, "resnet18": 512}
BUDGET = 6 * 2**30


class Side(NamedTuple):
    """`run(seconds)` trains for about that long and returns model x samples per second."""

    run: Callable[[float], float]


def make_data(name: str) -> SimpleNamespace:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(NUM_TRAIN[name], *SHAPES[name])).astype(np.float32)
    y = rng.integers(0, 10, len(x)).astype(np.int32)
    return SimpleNamespace(x_train=x, y_train=y, x_test=x[:64], y_test=y[:64])


def population(name: str, width: int, batch_size: int) -> tuple[Side, str]:
    """Thirty-two members of the whole training set: the steady state of a cohort."""
    data, recipe = make_data(name), Recipe("random", name, 10, SHAPES[name], early_stop=False)
    members = tuple(Member(0, seed, len(data.x_train), 1.0, 0.05, 5e-4) for seed in range(32))
    cohort = Cohort(width, batch_size, 10**6, members)
    choice = choose_executor(recipe, cohort, BUDGET)
    run = population_train._CohortRun(recipe, cohort, data, choice, "float32", 0)
    run.start_pass()
    return Side(functools.partial(timed_blocks, run, batch_size, choice)), f"{choice.kind} {choice.lanes_per_device}"


def timed_blocks(run: population_train._CohortRun, batch_size: int, choice, seconds: float) -> float:
    def block(num_steps: int) -> float:
        start = time.perf_counter()
        run.state = jax.block_until_ready(run.call(num_steps))
        return time.perf_counter() - start

    num_steps = max(2, int(2 * seconds / block(2)))
    return num_steps * batch_size * choice.lanes_per_device * choice.num_devices / block(num_steps)


def one_at_a_time(name: str, width: int, batch_size: int) -> Side:
    """The same network, its step jitted and called from Python, on one device with all of XLA's threads."""
    data = make_data(name)
    trainer = make_trainer(build_model(name, width, 10, SHAPES[name]), batch_size=batch_size, num_epochs=10**6)
    x, y = (jax.device_put(a, jax.devices()[0]) for a in (data.x_train, data.y_train))
    key = jax.random.key_data(jax.random.key(0))
    hparams = Hyperparameters(key, jnp.int32(len(x)), jnp.float32(0.05), jnp.float32(5e-4))
    model = build_model(name, width, 10, SHAPES[name])
    step = jax.jit(trainer.step, donate_argnums=0)
    state = trainer.start(model.init(jax.random.key(0)), hparams, len(x))
    state = trainer.begin_epoch(jax.tree.map(jnp.array, state), hparams)
    holder = [jax.tree.map(jnp.copy, state._replace(kept={}))]
    rewind = functools.partial(jnp.zeros, (), jnp.int32)

    def run(seconds: float) -> float:
        state, count, start = holder[0], 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            state = step(state._replace(step=rewind()), hparams, x, y)
            count += 1
            if count % 8 == 0:
                jax.block_until_ready(state)
        jax.block_until_ready(state)
        holder[0] = state
        return count * batch_size / (time.perf_counter() - start)

    run(0.01)
    return Side(run)


def pytorch(name: str, width: int, batch_size: int) -> Side | None:
    """A plain loop over steps, as most training scripts have it."""
    try:
        import torch
    except ImportError:
        return None
    import torch.nn.functional as F

    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from tests.torch_resnet import make_torch_resnet

    network = make_torch_resnet(name, width, channels=SHAPES[name][2])
    data = make_data(name)
    # Copied in the order of PyTorch: on a permuted view of one channel its backward pass writes past its buffers.
    x, y = torch.tensor(data.x_train.transpose(0, 3, 1, 2).copy()), torch.tensor(data.y_train).long()
    optimizer = torch.optim.SGD(network.parameters(), 0.05, 0.9, weight_decay=5e-4)

    def run(seconds: float) -> float:
        count, order, start = 0, torch.randperm(len(x)), time.perf_counter()
        while time.perf_counter() - start < seconds:
            first = (count * batch_size) % (len(x) - batch_size + 1)
            rows = order[first : first + batch_size]
            loss = F.cross_entropy(network(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            count += 1
        return count * batch_size / (time.perf_counter() - start)

    def best(seconds: float) -> float:
        found = []
        for threads in sorted({1, len(os.sched_getaffinity(0))}):
            torch.set_num_threads(threads)
            found.append(run(seconds))
        return max(found)

    best(0.05)
    return Side(best)


def peak_flops(seconds: float = 0.5) -> float:
    """Return the floating-point operations per second of 1024 x 1024 products, one on every device at once."""
    size, count = 1024, 8
    repeat = jax.jit(lambda a: lax.fori_loop(0, count, lambda _, b: a @ b * 1e-3, a))
    arrays = [jax.device_put(jnp.ones((size, size)), device) for device in jax.devices()]
    best, end = np.inf, time.perf_counter() + 4 * seconds
    jax.block_until_ready([repeat(a) for a in arrays])
    while time.perf_counter() < end:
        start = time.perf_counter()
        jax.block_until_ready([repeat(a) for a in arrays])
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 * count * len(arrays) / best


def whole_grid(lines: list[str]) -> str:
    """Return what the whole `digits` grid takes, from the rows of a printed table: hours of ours and of PyTorch.

    Seconds per sample are interpolated between the measured sizes in the logarithms of width and batch size.
    """
    from scipy.interpolate import RegularGridInterpolator

    from mdtree_jax.cli import compose

    found = {}
    for line in lines:
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if cells[0].startswith("resnet8_fine w"):
            found[int(cells[0].removeprefix("resnet8_fine w")), int(cells[1])] = float(cells[3]), float(cells[5])
    widths, batches = (sorted({key[i] for key in found}) for i in (0, 1))
    grid = compose("sweep", ["+grid=digits"]).grid
    hours = []
    for side in (0, 1):
        seconds = [[-np.log(found[w, b][side]) for b in batches] for w in widths]
        at = RegularGridInterpolator((np.log(widths), np.log(batches)), seconds)
        total = 0.0
        for w in grid.width:
            for b in grid.batch_size:
                steps = sum(int(3200 * fraction) // b for fraction in grid.data_fraction)
                samples = steps * b * grid.num_seeds * grid.train_epochs[0]
                total += samples * float(np.exp(at([[np.log(w), np.log(b)]])[0]))
        hours.append(total / 3600)
    ours, torch = hours
    return f"whole digits grid, without compilation: {ours:.1f} h, PyTorch {torch:.1f} h, {torch / ours:.1f} times"


def parse_sizes(word: str) -> list[tuple[str, int, int]]:
    if word in ("digits", "resnet18"):
        return {"digits": DIGITS, "resnet18": RESNET18}[word]
    name, width, batch_size = word.split(":")
    return [(name, int(width), int(batch_size))]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", default=["digits", "resnet18"], help="digits, resnet18 or sizes")
    parser.add_argument("--seconds", type=float, default=0.7, help="of one turn of one side")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--estimate", help="a file that holds printed tables: print what the whole digits grid takes")
    options = parser.parse_args()
    if options.estimate:
        print(whole_grid(Path(options.estimate).read_text().splitlines()))
        return
    configure_devices()
    peak = peak_flops()
    devices = jax.devices()
    print(
        f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, {len(devices)} x {devices[0].device_kind}, "
        f"jax {jax.__version__}, matrix-product peak {peak / 1e9:.0f} GFLOP/s, {time.strftime('%Y-%m-%d')}\n"
    )
    print("| network | batch | executor | population | one at a time | PyTorch | / one | / PyTorch | % of peak |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, width, batch_size in [size for word in options.only for size in parse_sizes(word)]:
        ours, label = population(name, width, batch_size)
        sides = [ours, one_at_a_time(name, width, batch_size), pytorch(name, width, batch_size)]
        turns = [[side.run(options.seconds) if side else np.nan for side in sides] for _ in range(options.turns)]
        a, b, c = np.max(turns, axis=0)
        flops = 3 * count_flops(build_model(name, width, 10, SHAPES[name]), SHAPES[name])
        print(
            f"| {name} w{width} | {batch_size} | {label} | {a:.0f} | {b:.0f} | {c:.0f} | {a / b:.1f} | {a / c:.1f} "
            f"| {100 * a * flops / peak:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
