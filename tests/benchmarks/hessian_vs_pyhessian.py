"""Hessian trace and top eigenvalue beside PyHessian, at equal accuracy: seconds per model on the same CPU.

    python tests/benchmarks/hessian_vs_pyhessian.py                       # widths 2 4 8 16, some 30 minutes on 2 cores
    python tests/benchmarks/hessian_vs_pyhessian.py --widths 2 --members 4 --probes 20      # a rough look

Needs `pip install 'mdtree-jax[benchmark]'`. ResNet-18 on 32x32 images, snapshots of a short training, the Hessian of
the mean cross-entropy of 200 images in eval mode, float32, the weights of both sides the same.

Equal accuracy. The trace counts as measured when its standard error is the stated share of it: ours stops there by
itself; for PyHessian the number of probes needed follows from the variance of its probe values (its own stop rule ends
by chance), and its time is that number of its products. The eigenvalue counts as measured when the residual
|H v - value v| is the stated share of the value: Lanczos here, power iteration with PyHessian's own products there.
Lanczos is shown from a random vector, and as measurements run it, from the vector that the trace's products lead to.
`both` is the trace and that.
`--check` runs ours again to a quarter of the stated error, as far as the budget goes, and reports the root mean square
of the deviations.

Ours is a population over one CPU device a core, members of a device one after the other, with as many images at a time
as `measuring.measure` chooses (`--batch` sets another number), without compilation, which is reported beside: it
happens once per shape. PyHessian takes one model after the other with the better of one thread and
one a core. The sides take turns; medians. Prints a markdown table.
"""

from __future__ import annotations

import argparse
import functools
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mdtree_jax.landscape import hutchinson, hvp, lanczos, xtrace
from mdtree_jax.lowering import compiler_options
from mdtree_jax.measuring.kernels import Data
from mdtree_jax.measuring.programs import choose
from mdtree_jax.models import build_model, from_torch
from mdtree_jax.population.executor import configure_devices
from mdtree_jax.recipe.measure_settings import MeasureConfig, resolve
from mdtree_jax.training import cross_entropy

NUM_IMAGES = 200


class Theirs(NamedTuple):
    """PyHessian on one model, in seconds; `traces` are its probe values, `steps` the products of its eigenvalue."""

    start: float
    per_product: float
    traces: np.ndarray
    steps: int
    value: float

    def trace_seconds(self, relative_error: float) -> tuple[float, float]:
        """Return the seconds and the number of probes until the standard error is that share of the mean."""
        probes = max(2.0, float(self.traces.var(ddof=1) / (relative_error * self.traces.mean()) ** 2))
        return self.start + probes * self.per_product, probes


def pyhessian_side(network: Any, data: Any, num_probes: int, tolerance: float, max_steps: int) -> Theirs:
    """Measure PyHessian with the better of one thread and one a core."""
    import torch
    from pyhessian import hessian

    found = []
    for threads in sorted({1, len(os.sched_getaffinity(0))}):
        torch.set_num_threads(threads)
        network.zero_grad(set_to_none=True)
        begin = time.perf_counter()
        theirs = hessian(network, torch.nn.CrossEntropyLoss(), data=data, cuda=False)
        start = time.perf_counter() - begin
        theirs.trace(maxIter=1, tol=0)
        begin = time.perf_counter()
        traces = theirs.trace(maxIter=num_probes, tol=0)
        found.append((start, (time.perf_counter() - begin) / num_probes, traces, theirs))
    start, per_product, _, theirs = min(found, key=lambda f: f[1])
    steps, value = power_steps(theirs, tolerance, max_steps)
    return Theirs(start, per_product, np.concatenate([f[2] for f in found]), steps, value)


def power_steps(theirs: Any, tolerance: float, max_steps: int) -> tuple[int, float]:
    """Return the products that power iteration takes to the stated residual, and the eigenvalue."""
    import torch
    from pyhessian.utils import group_product, hessian_vector_product, normalization

    v = normalization([torch.randn(p.shape) for p in theirs.params])
    steps = 0
    while steps < max_steps:
        steps += 1
        product = hessian_vector_product(theirs.gradsH, theirs.params, v)
        value = float(group_product(product, v))
        rest = [h - value * x for h, x in zip(product, v, strict=True)]
        if float(group_product(rest, rest)) ** 0.5 <= tolerance * abs(value):
            break
        v = normalization(product)
    return steps, value


def chosen_batch(width: int, images: np.ndarray) -> int:
    """Return the images at a time that a measurement takes on a machine of much memory."""
    like = jax.ShapeDtypeStruct(images.shape, images.dtype), jax.ShapeDtypeStruct(images.shape[:1], np.int32)
    settings = resolve(MeasureConfig(metrics=["hessian"], hessian_images=NUM_IMAGES))
    model = build_model("resnet18", width, 10, images.shape[1:])
    return choose(model, Data(*like, *like), settings, 2**37, jax.default_backend()).hessian_batch_size


def our_side(
    networks: list[Any], images: np.ndarray, labels: np.ndarray, kernel: Callable, batch_size: int, starts: Any = ()
) -> tuple[Callable[[int], Any], float]:
    """Return `run(seed) -> results of all members`, compiled, and the seconds that the compilation took.

    `starts` holds a further argument of the kernel for each member, stacked, if there is one.
    """
    converted = [from_torch("resnet18", network.state_dict()) for network in networks]
    model = build_model("resnet18", converted[0].width, converted[0].num_classes, images.shape[1:])
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *[c.variables for c in converted])

    def one(member: tuple[Any, jax.Array, Any], data: tuple[jax.Array, jax.Array]) -> Any:
        variables, key, start = member

        def loss(params: Any, data: tuple[jax.Array, jax.Array]) -> jax.Array:
            logits, _, _ = model.apply(variables | {"params": params}, data[0], False)
            return cross_entropy(logits, data[1]).mean()

        params = variables["params"]
        return kernel(hvp(loss, params, data, batch_size=batch_size), key, params, *start)

    mesh = Mesh(np.array(jax.devices()), ("members",))
    split, whole = PartitionSpec("members"), PartitionSpec()
    mapped = jax.shard_map(
        lambda members, data: lax.map(lambda member: one(member, data), members),
        mesh=mesh,
        in_specs=(split, whole),
        out_specs=split,
        check_vma=False,
    )
    stacked = jax.device_put(stacked, NamedSharding(mesh, split))
    data = jax.device_put((images, labels.astype(np.int32)), NamedSharding(mesh, whole))

    def keys(seed: int) -> jax.Array:
        return jax.device_put(jax.random.split(jax.random.key(seed), len(networks)), NamedSharding(mesh, split))

    begin = time.perf_counter()
    lowered = jax.jit(mapped).lower((stacked, keys(0), starts), data)
    compiled = lowered.compile(compiler_options(jax.default_backend()))
    seconds = time.perf_counter() - begin
    return lambda seed: jax.block_until_ready(compiled((stacked, keys(seed), starts), data)), seconds


def timed(run: Callable[[int], Any], seed: int, num_members: int) -> tuple[float, Any]:
    begin = time.perf_counter()
    result = run(seed)
    return (time.perf_counter() - begin) / num_members, result


def measure(width: int, options: argparse.Namespace) -> None:
    """Print the rows of one width."""
    import torch

    from tests.torch_resnet import make_images, trained_snapshots

    networks = trained_snapshots(width, options.members)
    images, labels = make_images(2, NUM_IMAGES)
    data = torch.tensor(images), torch.tensor(labels)
    channels_last = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    trace = {"xtrace": functools.partial(xtrace, leading=True), "hutchinson": hutchinson}[options.trace]
    on_accelerator = jax.default_backend() != "cpu"  # as measuring.measure chooses
    cases: list[tuple[str, float, Callable]] = [
        ("trace", error, trace(options.max_products, relative_error=error, block=options.block, batched=on_accelerator))
        for error in options.errors
    ]
    cases.append(("eigenvalue", options.residual, lanczos(relative_tolerance=options.residual)))
    batch = options.batch or chosen_batch(width, channels_last)
    sides = [our_side(networks, channels_last, labels, kernel, batch) for _, _, kernel in cases]
    if options.trace == "xtrace":
        starts = (sides[0][0](0).leading,)
        cases.append(("eigenvalue after the trace", options.residual, cases[-1][2]))
        sides.append(our_side(networks, channels_last, labels, cases[-1][2], batch, starts))

    theirs: list[Theirs] = []
    ours: list[list[tuple[float, Any]]] = [[] for _ in cases]
    for turn in range(options.turns):
        for found, (run, _) in zip(ours, sides, strict=True):
            found.append(timed(run, turn, options.members))
        share = networks[turn :: options.turns]
        theirs += [pyhessian_side(n, data, options.probes, options.residual, options.max_steps) for n in share]
    rows = []
    for (what, accuracy, _), found, (_, compilation) in zip(cases, ours, sides, strict=True):
        if what == "trace":
            seconds, products = zip(*[t.trace_seconds(accuracy) for t in theirs], strict=True)
        else:
            products = [t.steps for t in theirs]
            seconds = [t.start + t.steps * t.per_product for t in theirs]
        own, peer = float(np.median([f[0] for f in found])), float(np.median(seconds))
        estimates = [f[1] for f in found]
        spent = np.mean([e.num_products for e in estimates])
        converged = np.mean([e.converged for e in estimates])
        each = 1e3 * np.median([t.per_product for t in theirs])
        rows.append((own, spent, peer, float(np.median(products))))
        print(
            f"| w{width} | {batch} | {what} | {100 * accuracy:g} % | {own:.2f} | {spent:.0f} | {converged:.2f} "
            f"| {peer:.2f} | {np.median(products):.0f} | {each:.0f} | {peer / own:.1f} | {compilation:.0f} |",
            flush=True,
        )
    own, spent, peer, products = np.sum([rows[0], rows[-1]], axis=0)
    print(
        f"| w{width} | {batch} | both | | {own:.2f} | {spent:.0f} | | {peer:.2f} | {products:.0f} | "
        f"| {peer / own:.1f} | |",
        flush=True,
    )
    compare(theirs, ours, networks, options)
    if options.check:
        check(cases, ours, networks, channels_last, labels, trace, batch, options)


def compare(theirs: list[Theirs], ours: list[list[tuple[float, Any]]], networks: list, options: Any) -> None:
    """Print how far the two sides are apart, so that nobody times two different things."""
    members = [m for turn in range(options.turns) for m in range(len(networks))[turn :: options.turns]]
    trace, eigen = ours[0][-1][1], ours[-1][-1][1]
    apart = [
        (float(trace.mean[m]) - t.traces.mean())
        / np.hypot(float(trace.standard_error[m]), t.traces.std(ddof=1) / len(t.traces) ** 0.5)
        for m, t in zip(members, theirs, strict=True)
    ]
    values = [abs(float(eigen.values[m, 0]) / t.value - 1) for m, t in zip(members, theirs, strict=True)]
    print(
        f"<!-- traces apart, in joint standard errors: rms {np.sqrt(np.mean(np.square(apart))):.2f}; "
        f"eigenvalues: at most {100 * max(values):.2f} % -->",
        flush=True,
    )


def check(
    cases: list,
    ours: list,
    networks: list,
    images: np.ndarray,
    labels: np.ndarray,
    trace: Callable,
    batch: int,
    options: Any,
) -> None:
    """Print the true error of our traces, against a run to a quarter of the smallest stated error."""
    error = min(options.errors) / 4
    kernel = trace(options.max_products, relative_error=error, block=options.block)
    run, _ = our_side(networks, images, labels, kernel, batch)
    reference = np.asarray(run(999).mean)
    for (what, accuracy, _), found in zip(cases, ours, strict=True):
        if what == "trace":
            deviations = [np.asarray(f[1].mean) / reference - 1 for f in found]
            true = np.sqrt(np.mean(np.square(deviations)))
            print(f"<!-- trace to {100 * accuracy:g} %: true error {100 * true:.1f} % -->", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--widths", nargs="*", type=int, default=[2, 4, 8, 16])
    parser.add_argument("--members", type=int, default=8, help="networks of a width; a multiple of the cores")
    parser.add_argument("--errors", nargs="*", type=float, default=[0.05, 0.02], help="standard error / trace")
    parser.add_argument("--residual", type=float, default=1e-2, help="|H v - value v| / |value|")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--probes", type=int, default=40, help="of PyHessian, per number of threads")
    parser.add_argument("--max-steps", type=int, default=200, help="of PyHessian's power iteration")
    parser.add_argument("--trace", choices=["xtrace", "hutchinson"], default="xtrace")
    parser.add_argument("--max-products", type=int, default=400)
    parser.add_argument("--block", type=int, default=8)
    parser.add_argument("--batch", type=int, help="images at a time of ours; as a measurement chooses, if not given")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    warnings.filterwarnings("ignore", message="Using backward")
    configure_devices()
    import torch

    print(
        f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, {len(jax.devices())} devices, jax "
        f"{jax.__version__}, torch {torch.__version__}, {options.trace} in blocks of {options.block}, "
        f"{options.members} members, {NUM_IMAGES} images, {time.strftime('%Y-%m-%d')}\n"
    )
    head = [
        "width",
        "images",
        "measure",
        "accuracy",
        "ours s",
        "products",
        "converged",
        "PyHessian s",
        "products",
        "ms each",
    ]
    head += ["PyHessian / ours", "compilation s"]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for width in options.widths:
        measure(width, options)


if __name__ == "__main__":
    main()
