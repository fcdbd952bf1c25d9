"""Costs and errors of the Hessian kernels on this machine.

    python tests/benchmarks/hessian_kernels.py cost --model resnet18 --widths 2 4 8 16
    python tests/benchmarks/hessian_kernels.py cost --model resnet8 --widths 1 4 13 --size 10
    python tests/benchmarks/hessian_kernels.py batches --model resnet18 --widths 2 4 8
    python tests/benchmarks/hessian_kernels.py trace --model resnet8 --widths 4 --size 10
    python tests/benchmarks/hessian_kernels.py stops --model resnet8 --widths 4 --size 10 --keys 100
    python tests/benchmarks/hessian_kernels.py eigen --model resnet8 --widths 4 --size 10

`cost`: a gradient, and Hessian-vector products in blocks, per vector, milliseconds, the best of the turns; float32,
200 images. `batches`: the same for blocks of 16 vectors, one after the other as on a CPU, by how many images are held
at a time. `trace`: root mean square over keys of the relative error after so many products, against the exact trace, or
against a long run where there are too many parameters; on a network after few and after many steps of SGD. `stops`:
where a relative standard error ends them, with which error, and how many of their own standard errors that is. `eigen`:
where the stop rules end, and with which error; Lanczos from a random vector, and from the one that the trace leads to.
Each prints a markdown table.
"""

from __future__ import annotations

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

from mdtree_jax.landscape import hutchinson, hvp, lanczos, power_iteration, xtrace
from mdtree_jax.landscape.hessian.products import over_block
from mdtree_jax.models import build_model, count_parameters
from mdtree_jax.training import cross_entropy

NUM_IMAGES = 200


def images(size: int, channels: int, num: int, seed: int = 0):
    """Return images of 10 classes with a pattern each and noise, and their labels."""
    rng = np.random.default_rng(seed)
    patterns = np.random.default_rng(1).normal(size=(10, size // 2, size // 2, channels)).repeat(2, 1).repeat(2, 2)
    y = rng.integers(0, 10, num)
    x = 0.5 * patterns[y] + rng.normal(size=(num, size, size, channels))
    return jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.int32)


def network(options, width: int):
    """Return the model, its variables and the data."""
    channels = 3 if options.size == 32 else 1
    shape = (options.size, options.size, channels)
    model = build_model(options.model, width, 10, shape)
    return model, model.init(jax.random.key(0)), images(options.size, channels, NUM_IMAGES)


def make_loss(model, batch_stats):
    """Return the mean cross-entropy in eval mode, `loss(params, (x, y))`."""

    def loss(params, data):
        logits = model.apply({"params": params, "batch_stats": batch_stats}, data[0], False)[0]
        return cross_entropy(logits, data[1]).mean()

    return loss


def train(model, variables, data, steps: int, learning_rate: float = 0.05):
    """Return the variables after steps of SGD with momentum on batches of 50."""

    @jax.jit
    def step(variables, momentum, key):
        rows = jax.random.choice(key, NUM_IMAGES, (50,), replace=False)

        def loss(params):
            logits, _, stats = model.apply({**variables, "params": params}, data[0][rows], True)
            return cross_entropy(logits, data[1][rows]).mean(), stats

        (_, stats), gradient = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        momentum = jax.tree.map(lambda m, g: 0.9 * m + g, momentum, gradient)
        params = jax.tree.map(lambda p, m: p - learning_rate * m, variables["params"], momentum)
        return {"params": params, "batch_stats": stats}, momentum

    momentum = jax.tree.map(jnp.zeros_like, variables["params"])
    for index in range(steps):
        variables, momentum = step(variables, momentum, jax.random.key(index))
    return variables


def best_ms(call, seconds: float = 2.0) -> float:
    """Return the shortest time of a call in milliseconds; the first warms up."""
    jax.block_until_ready(call())
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def compiler_options(options) -> dict:
    """Return the options of the compiler: one thread per program unless asked otherwise."""
    return {"xla_cpu_multi_thread_eigen": bool(options.threads)} if jax.default_backend() == "cpu" else {}


def cost(options) -> None:
    """Print the cost of products in blocks, as they run in a kernel: repeated in a loop, linearized once."""
    flags = compiler_options(options)
    header = " | ".join(f"block {b}" for b in options.blocks)
    print(f"| model | width | gradient, ms | {header} | best / gradient |")
    print("|---|--:|--:|" + "--:|" * (len(options.blocks) + 1))
    for width in options.widths:
        model, variables, data = network(options, width)
        loss = make_loss(model, variables["batch_stats"])
        params = variables["params"]
        gradient = jax.jit(jax.grad(loss), compiler_options=flags)
        base = best_ms(lambda gradient=gradient, params=params, data=data: gradient(params, data), options.seconds)
        times = [product_time(loss, params, data, block, flags, options) for block in options.blocks]
        cells = " | ".join(f"{t:.1f}" for t in times)
        print(f"| {options.model} | {width} | {base:.1f} | {cells} | {min(times) / base:.2f} |", flush=True)


def product_time(loss, params, data, block: int, flags: dict, options) -> float:
    """Return milliseconds per product when blocks follow one another in a loop after one linearization."""

    def run(params, data, vectors, count):
        product = hvp(loss, params, data)

        def body(_, vectors):
            return jax.tree.map(lambda h: 0.1 * h, jax.vmap(product)(vectors))

        return jax.lax.fori_loop(0, count, body, vectors)

    run = jax.jit(run, compiler_options=flags)
    vectors = jax.tree.map(lambda p: jax.random.normal(jax.random.key(1), (block, *p.shape)), params)
    few, many = max(1, 4 // block), max(2, 12 // block)
    times = [best_ms(lambda n=n: run(params, data, vectors, n), options.seconds) for n in (few, many)]
    return (times[1] - times[0]) / ((many - few) * block)


def batches(options) -> None:
    """Print the cost of a product in a block of 16, by the number of images that are held at a time."""
    flags, block = compiler_options(options), 16
    print("| model | width | " + " | ".join(f"{size} images" for size in options.batches) + " |")
    print("|---|--:|" + "--:|" * len(options.batches))
    for width in options.widths:
        model, variables, data = network(options, width)
        loss, params = make_loss(model, variables["batch_stats"]), variables["params"]
        vectors = jax.tree.map(lambda p: jax.random.normal(jax.random.key(1), (block, *p.shape)), params)
        cells = []
        for size in options.batches:

            def run(params, data, vectors, loss=loss, size=size):
                return over_block(hvp(loss, params, data, batch_size=size), vectors, False)

            run = jax.jit(run, compiler_options=flags)
            milliseconds = best_ms(lambda run=run, v=vectors, p=params, d=data: run(p, d, v), options.seconds)
            cells.append(f"{milliseconds / block:.1f}")
        print(f"| {options.model} | {width} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Parse and measure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["cost", "batches", "trace", "stops", "eigen"])
    parser.add_argument("--model", default="resnet8")
    parser.add_argument("--widths", type=int, nargs="+", default=[4])
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--blocks", type=int, nargs="+", default=[1, 4, 8, 16, 32])
    parser.add_argument("--batches", type=int, nargs="+", default=[200, 100, 50, 20, 10])
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 300], help="of SGD before measuring")
    parser.add_argument("--keys", type=int, default=20)
    parser.add_argument("--threads", action="store_true", help="let one program use all cores")
    parser.add_argument("--seconds", type=float, default=2.0, help="per timing")
    options = parser.parse_args()
    {"cost": cost, "batches": batches, "trace": trace, "stops": stops, "eigen": eigen}[options.what](options)


def trained(options):
    """Yield width, steps, loss, parameters, data and number of parameters of the networks that are asked for."""
    for width in options.widths:
        for steps in options.steps:
            model, variables, data = network(options, width)
            variables = train(model, variables, data, steps)
            loss = make_loss(model, variables["batch_stats"])
            yield width, steps, loss, variables["params"], data, count_parameters(model)


def trace(options) -> None:
    """Print the error of the trace against the number of products."""
    budgets = (10, 20, 30, 50, 100)
    print("| model | width | steps | trace | method | " + " | ".join(f"{b}" for b in budgets) + " | error / s.e. |")
    print("|---|--:|--:|--:|---|" + "--:|" * (len(budgets) + 1))
    for width, steps, loss, params, data, size in trained(options):
        exact = reference_trace(loss, params, data, size)
        for name, kernel in (("Hutchinson", hutchinson), ("XTrace", xtrace)):
            errors, ratio = [], 0.0
            for budget in budgets:
                estimate = kernel(budget, block=5)
                found = run_keys(estimate, loss, params, data, options)
                errors.append(np.sqrt(np.mean((found.mean / exact - 1) ** 2)))
                ratio = np.sqrt(np.mean(((found.mean - exact) / found.standard_error) ** 2))
            cells = " | ".join(f"{100 * e:.1f} %" for e in errors)
            print(
                f"| {options.model} | {width} | {steps} | {exact:.4g} | {name} | {cells} | {ratio:.2f} |",
                flush=True,
            )


def stops(options) -> None:
    """Print the error of the trace where a stated error stops it, of the keys for which it does within 400 products."""
    print("| model | width | steps | method | stated error | stopped | products | error there | error / s.e. |")
    print("|---|--:|--:|---|--:|--:|--:|--:|--:|")
    for width, steps, loss, params, data, size in trained(options):
        exact = reference_trace(loss, params, data, size)
        for name, kernel in (("Hutchinson", hutchinson), ("XTrace", xtrace)):
            for stated in (0.1, 0.05, 0.02):
                estimate = kernel(400, relative_error=stated)
                found = run_keys(estimate, loss, params, data, options)
                stopped = found.converged
                ratio = ((found.mean - exact) / found.standard_error)[stopped]
                error = np.sqrt(np.mean((found.mean[stopped] / exact - 1) ** 2)) if stopped.any() else np.nan
                print(
                    f"| {options.model} | {width} | {steps} | {name} | {100 * stated:g} % | "
                    f"{100 * stopped.mean():.0f} % | {found.num_products.mean():.0f} | {100 * error:.1f} % | "
                    f"{np.sqrt(np.mean(ratio**2)) if stopped.any() else np.nan:.2f} |",
                    flush=True,
                )


def run_keys(estimate, loss, params, data, options):
    """Return the results of a kernel for all keys, stacked."""
    run = jax.jit(
        lambda key: estimate(hvp(loss, params, data), key, params), compiler_options=compiler_options(options)
    )
    return jax.tree.map(lambda *a: np.stack(a), *[run(jax.random.key(100 + i)) for i in range(options.keys)])


def reference_trace(loss, params, data, dim: int) -> float:
    """Return the exact trace up to 6000 parameters, else that of 600 products."""
    kernel = xtrace(dim if dim <= 6000 else 600, block=25)
    result = jax.jit(lambda: kernel(hvp(loss, params, data), jax.random.key(7), params))()
    print(f"<!-- reference {float(result.mean):.6g} +- {float(result.standard_error):.2g} -->", flush=True)
    return float(result.mean)


def after_trace(product, key, params):
    """Return what Lanczos finds from the vector that a trace to 5 % leads to; products are its own."""
    start = xtrace(100, relative_error=0.05, leading=True)(product, jax.random.fold_in(key, 1), params).leading
    return lanczos(1, 100)(product, key, params, start=start)


def eigen(options) -> None:
    """Print where the stop rules end, and with which error."""
    print("| model | width | steps | eigenvalue | method | products | error |")
    print("|---|--:|--:|--:|---|--:|--:|")
    for width, steps, loss, params, data, _ in trained(options):
        exact = float(
            run_keys(
                lanczos(1, 150, 1e-5), loss, params, data, argparse.Namespace(**vars(options) | {"keys": 1})
            ).values[0, 0]
        )
        for name, kernel in (
            ("power iteration", power_iteration(100)),
            ("Lanczos", lanczos(1, 100)),
            ("Lanczos after the trace", after_trace),
        ):
            found = run_keys(kernel, loss, params, data, options)
            error = np.abs(found.values[:, 0] / exact - 1)
            print(
                f"| {options.model} | {width} | {steps} | {exact:.4g} | {name} | "
                f"{found.num_products.mean():.1f} (to {found.num_products.max()}) | "
                f"{error.mean():.1e} (to {error.max():.1e}) |",
                flush=True,
            )


if __name__ == "__main__":
    main()
