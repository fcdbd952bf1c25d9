"""Where the time of a ResNet-18 step goes: per convolution, the slices, the product, and PyTorch's convolution.

    python tests/benchmarks/convolution_profile.py --width 8 --batch 64

One core on either side, forward and backward of one 3x3 convolution of each stage; milliseconds, best of the turns.
"product" is the matrix products alone on slices that are there already; what ours takes beyond it is moving the
slices through memory. Prints a markdown table.
"""

from __future__ import annotations

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

from mdtree_jax.models.layers import contract_first, convolve3x3


def best_ms(call, turns: int = 9) -> float:
    """Return the shortest time of a call in milliseconds; the first calls warm up."""
    times = []
    for _ in range(turns + 2):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times[2:])


def gradient_time(function, *arguments) -> float:
    """Return the time of value and gradient of a function's sum with respect to all arguments."""
    step = jax.jit(
        jax.value_and_grad(lambda *a: function(*a).sum(), argnums=tuple(range(len(arguments)))),
        compiler_options={"xla_cpu_multi_thread_eigen": False},
    )
    return best_ms(lambda: jax.block_until_ready(step(*arguments)))


def pytorch_time(channels: int, size: int, batch: int) -> float:
    """Return the time of PyTorch's convolution on one thread, nan without PyTorch."""
    try:
        import torch
    except ImportError:
        return float("nan")
    torch.set_num_threads(1)
    convolution = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    x = torch.randn(batch, channels, size, size, requires_grad=True)
    return best_ms(lambda: convolution(x).sum().backward())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    print(
        "| channels | image | ours, ms | product alone, ms | PyTorch, ms | ours / PyTorch |\n|---|---|--:|--:|--:|--:|"
    )
    for stage in range(4):
        channels, size = options.width * 2**stage, 32 // 2**stage
        pixels = size * size * options.batch
        x, kernel, slices = (
            jnp.asarray(rng.normal(size=shape), jnp.float32)
            for shape in ((channels, size, size, options.batch), (3, 3, channels, channels), (9 * channels, pixels))
        )
        ours = gradient_time(convolve3x3, x, kernel)
        product = gradient_time(contract_first, kernel.reshape(-1, channels), slices)
        torch = pytorch_time(channels, size, options.batch)
        print(f"| {channels} | {size} | {ours:.1f} | {product:.1f} | {torch:.1f} | {ours / torch:.1f} |", flush=True)


if __name__ == "__main__":
    main()
