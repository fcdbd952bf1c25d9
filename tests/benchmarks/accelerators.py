"""Write what was compiled for accelerators, with a roofline beside it, and the time of the CIFAR grid by the same rule.

    .venv-accelerators/bin/python tests/benchmarks/compile_for_accelerators.py --targets h100,v5e --json rows.json
    python tests/benchmarks/accelerators.py rows.json > tests/benchmarks/results/accelerators.md

A step takes the longest of three times: its operations over the peak of the device for the factors' precision, the
bytes that its kernels read and write over the bandwidth of the memory, and its launches times 3 microseconds (a TPU has
none: its program is one). That is a lower bound: narrow convolutions reach a fraction of a peak. Nothing is timed.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

from mdtree_jax import lowering
from mdtree_jax.models import build_model, count_flops, count_parameters
from mdtree_jax.population.executor import step_bytes
from mdtree_jax.recipe.cohort import Cohort, Recipe

LAUNCH_SECONDS = 3e-6
#: Kernels of a step of ResNet-18 in eager PyTorch, one each: 20 convolutions and 20 BatchNorms forward and backward (60
#: and 40), 17 ReLUs and 8 sums twice (50), 20 counters of BatchNorm, some 30 of pool, head, loss and SGD.
TORCH_LAUNCHES = 200
WIDTHS = (2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128)
BATCHES = (16, 24, 32, 44, 64, 92, 128, 180, 256, 364, 512, 724, 1024)
FRACTIONS, EPOCHS, SEEDS, IMAGES, SHAPE = range(1, 11), 150, 5, 50_000, (32, 32, 3)


class Device(NamedTuple):
    """A device by its data sheet: TFLOP/s without sparsity by precision, GB/s, seconds of a launch."""

    peaks: dict[str, float]
    bandwidth: float
    launch: float = LAUNCH_SECONDS

    def seconds(self, precision: str, flops: float, num_bytes: float, launches: float) -> tuple[float, float, float]:
        """Return the three times of a step."""
        times = flops / (1e12 * self.peaks[precision]), num_bytes / (1e9 * self.bandwidth), launches * self.launch
        return times


_HOPPER = {"float32": 67.0, "tensorfloat32": 495.0, "bfloat16": 989.0}
DEVICES = {
    "h100": Device(_HOPPER, 3352),
    "h200": Device(_HOPPER, 4800),
    "a100": Device({"float32": 19.5, "tensorfloat32": 156.0, "bfloat16": 312.0}, 2039),
    # Full precision takes six passes of the matrix unit.
    "v5e": Device({"float32": 197.0 / 6, "bfloat16": 197.0}, 819, 0.0),
}


def table(header: list[str], rows: list[list[Any]]) -> str:
    """Return a table; the first three columns are words."""
    rule = ["---" if number < 3 else "--:" for number in range(len(header))]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in [header, rule, *rows])


def compiled_table(rows: list[dict[str, Any]]) -> str:
    """Return what was compiled, and the roofline of a step in the precision of the programs, float32."""
    found = []
    for row in rows:
        device, name = DEVICES[row["target"]], {"compiled": "compiles"}.get(row["result"], row["result"])
        step, cells = row.get("per step") or 0, [row["program"], row["target"], name]
        if "launches" not in row:
            found.append([*cells, *[""] * 8])
            continue
        times = device.seconds("float32", row.get("step flops", 0), row.get("step bytes") or 0, step)
        known = [f"{1e6 * seconds:.0f}" if seconds else "" for seconds in times]
        longest = f"{1e6 * max(times):.0f}" if row.get("step flops") else ""
        counts = [f"{row['seconds']:.0f}", step, row["dynamic"], f"{row['temp MB']:.1f}"]
        found.append([*cells, *counts, *known, longest])
    times = ["FLOPs / peak, µs", "bytes / bandwidth, µs", "launches, µs", "a step, µs"]
    header = ["program", "target", "result", "seconds", "launches a step", "loops of unknown length", "temp MB", *times]
    return table(header, found)


@functools.cache
def network(width: int) -> tuple[float, int, int, int]:
    """Return the operations of a step for an image, the bytes of the parameters, and of a step of 16 and 32 images."""
    recipe, model = Recipe("cifar10", "resnet18", 10, SHAPE), build_model("resnet18", width, 10, SHAPE)
    with lowering.as_on("gpu"), lowering.side_by_side(2):
        small, large = (step_bytes(recipe, Cohort(width, batch, EPOCHS, ())) for batch in (16, 32))
    return 3.0 * count_flops(model, SHAPE), 4 * count_parameters(model), small, large


class Grid(NamedTuple):
    """What a step of the grid's ResNet-18 takes: launches, and bytes for every image and unit of width."""

    launches: int
    bytes_per_image: float

    def hours(self, device: Device, precision: str, launches: int = 0) -> float:
        """Return the device-hours of training all networks; with `launches`, those of a step, one by one."""
        total = 0.0
        for width in WIDTHS:
            flops, parameters, small, large = network(width)
            for batch in BATCHES:
                steps = SEEDS * EPOCHS * sum(IMAGES * f // 10 // batch for f in FRACTIONS)
                held = small + (large - small) / 16 * (batch - 16)
                lanes = 1 if launches else lowering.of("gpu").most_lanes(int(held))
                # Parameters: read forward and backward, gradient, momentum and network read and written.
                one = self.bytes_per_image * width * batch + 7 * parameters
                moved = held if lanes > 1 else one
                total += steps * max(
                    device.seconds(precision, flops * batch, moved, (launches or self.launches) / lanes)
                )
        return total / 3600


def grid_of(rows: list[dict[str, Any]], target: str) -> Grid | None:
    """Return what is known of the grid from the narrow ResNet-18 that was compiled for a target."""
    for row in rows:
        if row["program"] == "train-resnet18-narrow" and row["target"] == target and row.get("step bytes"):
            parameters = 4 * count_parameters(build_model("resnet18", 8, 10, SHAPE))
            return Grid(row["per step"], (row["step bytes"] - 7 * parameters) / (8 * 128))
    return None


def grid_table(rows: list[dict[str, Any]]) -> str:
    """Return the device-hours of the CIFAR grid where a step of it was compiled."""
    found = []
    for target, label, compiled_for in (("h100", "H100", "h100"), ("a100", "A100", "a100"), ("v5e", "v5e chip", "v5e")):
        grid = grid_of(rows, compiled_for) or grid_of(rows, "h100")
        if grid is None:
            continue
        known = compiled_for if grid_of(rows, compiled_for) else "h100"
        for precision in DEVICES[target].peaks:
            ours = grid.hours(DEVICES[target], precision)
            theirs = f"{grid.hours(DEVICES[target], precision, TORCH_LAUNCHES):.0f}" if target != "v5e" else ""
            found.append([label, precision, known, f"{ours:.0f}", theirs])
    return table(["device", "precision", "bytes and launches of", "hours", "one by one in PyTorch, hours"], found)


def main() -> int:
    """Print the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="+", help="files that compile_for_accelerators.py --json has written")
    parser.add_argument("--before", nargs="*", default=[], help="such files of programs before a change")
    args = parser.parse_args()
    rows, before = (
        [r for path in paths for r in json.loads(Path(path).read_text())] for paths in (args.rows, args.before)
    )
    page = Path(__file__).with_name("results") / "accelerators.md"
    top = re.split(r"<!-- tables -->", page.read_text())[0] if page.exists() else "# Accelerators\n\n"
    print(f"{top}<!-- tables -->\n\n## Programs\n\n{compiled_table(rows)}\n")
    if before:
        print(f"## Before\n\n{compiled_table(before)}\n")
    print(f"## The CIFAR grid\n\n{grid_table(rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
