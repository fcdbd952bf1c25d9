"""Compile the programs of training and measuring for GPUs and TPUs on a machine that has neither.

XLA compiles for a device that is described to it. So a program that a GPU's compiler refuses, a loop that waits for the
host, or a product in less than full precision is seen before a machine is rented. Needs Linux, about 8 GB of memory,
and an environment of its own (2.2 GB), since JAX looks for a GPU as soon as the plugin is installed. All JAX and CUDA
packages go by the version of JAX:

    python -m venv .venv-accelerators
    .venv-accelerators/bin/pip install -e . jax==0.10.2 jaxlib==0.10.2 libtpu==0.0.52
    .venv-accelerators/bin/pip install --no-deps jax-cuda12-plugin==0.10.2 jax-cuda12-pjrt==0.10.2 \
        nvidia-cuda-nvcc-cu12==12.9.86

Then, about 40 minutes on one core for all of it:

    .venv-accelerators/bin/python tests/benchmarks/compile_for_accelerators.py
    .venv-accelerators/bin/python tests/benchmarks/compile_for_accelerators.py --targets h100,a100 --programs train-mlp

`--programs` takes names of `PROGRAMS`, and FILE.py:FUNCTION for a program of your own: a function of a mesh of one
device that returns what `jax.jit(...).lower(...)` returns; `placed` makes its arguments. While it runs, `jax.devices()`
and `jax.default_backend()` answer as on the target.

Every program is compiled in a process of its own, because XLA may abort. A row of the table says:

  result     compiled, aborted (a failed check inside XLA), failed (an exception) or timeout; the reason stands below
             the table. What a GPU's compiler aborts is tried once more with the options CURE; that row says so.
  seconds    of compiling, without tracing.
  launches   kernels, library calls and copies of one call. A loop of known length counts as often as it turns, another
             once. On a TPU: the operations of its one program.
  per step   launches of one turn of the largest innermost loop of unknown length that holds products, by the steps that
             go in it in a loop of known length: one training step of all lanes, one step of a curve, one block of
             Hessian products, one Lanczos step.
  dynamic    loops of unknown length; a GPU waits for the host before each turn.
  temp MB    temporary memory, without arguments and results.
  products   matrix products and convolutions by the precision of their factors: f32; tf32 (GPU) or bf16 (TPU) where the
             program asks for none; 3x before these for `high`.

It does not say whether numbers are right, how long a step takes, or what autotuning on a GPU would choose.
The exit code is 1 unless all compiled at the first try, and GPUs have at most 1.3 times the launches of `LAUNCHES`.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import itertools
import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np
from jax.experimental.topologies import get_topology_desc
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mdtree_jax import lowering
from mdtree_jax.measuring import kernels
from mdtree_jax.measuring.programs import full_precision
from mdtree_jax.models import at_precision, build_model, count_flops
from mdtree_jax.population.assignment import block_of
from mdtree_jax.population.compiled import jit_over_members
from mdtree_jax.population.loop import AXIS, make_run, start_population
from mdtree_jax.recipe.measure_settings import MeasureConfig, resolve
from mdtree_jax.training import Hyperparameters, make_trainer

CURE = {"xla_gpu_enable_triton_gemm": False}
#: Cores, FP32 units of one, GB/s, bytes of L2, GHz, bytes of memory, shared memory of a core, of a block, capability.
GPUS = {
    "h100": (132, 128, 3352, 52428800, 1.98, 84942979072, 233472, 232448, 9),
    "h200": (132, 128, 4800, 52428800, 1.98, 151397597184, 233472, 232448, 9),
    "a100": (108, 64, 2039, 41943040, 1.41, 85100068864, 167936, 166912, 8),
}
GPU_CONFIG = """platform_name: "CUDA" device_description_str: "{name}" dnn_version_info {{ major: 9 minor: 8 }}
gpu_device_info {{ core_count: {} fpus_per_core: {} memory_bandwidth: {}000000000 l2_cache_size: {} clock_rate_ghz: {}
device_memory_size: {} shared_memory_per_core: {} shared_memory_per_block_optin: {} shared_memory_per_block: 49152
cuda_compute_capability {{ major: {} }} threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
registers_per_core_limit: 65536 registers_per_block_limit: 65536 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
block_dim_limit_z: 65535 thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64 }}"""
TPUS = {"v5e": "v5e:2x2"}
#: Bytes of a number, where they are not four.
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s64": 8, "u64": 8, "f64": 8, "token": 0}
#: Launches a step on a GPU of the same network with plain convolutions and nothing else.
LAUNCHES = {"train-resnet8": 120, "train-resnet18": 285, "train-resnet18-narrow": 285}
#: Instructions that nothing is started for.
FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "partition-id", "replica-id"}


class Steps(NamedTuple):
    """A lowered program, how many steps are in a turn of its loops of unknown length, the operations of a step,
    and the bytes of the inputs of the data set, of which a step reads only a batch.
    """

    lowered: Any
    per_turn: int
    flops: float = 0.0
    data_bytes: int = -1


def train(
    mesh: Mesh,
    name: str,
    width: int,
    batch_size: int,
    image_shape: tuple,
    num_train: int,
    lanes: int = 1,
    precision: str = "float32",
) -> Any:
    """Return the training program of a cohort of as many members as lanes."""
    model = at_precision(build_model(name, width, 10, image_shape), precision)
    trainer = make_trainer(model, batch_size=batch_size, num_epochs=150)
    network = jax.eval_shape(model.init, jax.random.key(0))
    networks = jax.tree.map(lambda leaf: np.zeros((lanes, *leaf.shape), leaf.dtype), network)
    rates, counts = np.full(lanes, 0.05, np.float32), np.full(lanes, num_train, np.int32)
    hparams = Hyperparameters(np.zeros((lanes, 2), np.uint32), counts, rates, rates)
    queue = np.arange(lanes, dtype=np.int32)[:, None]
    state = start_population(trainer, networks, hparams, queue, num_train, 1)
    shared = np.empty((num_train, *image_shape), np.float32), np.empty(num_train, np.int32), np.int32(0)
    platform = mesh.devices.flat[0].platform
    steps = np.full(lanes, trainer.steps_per_epoch(num_train))
    block = block_of(steps) if lowering.of(platform).has_known_loops else None
    options = lowering.compiler_options(platform)
    jitted = jax.jit(make_run(trainer, mesh, block=block), donate_argnums=0, compiler_options=options)
    lowered = jitted.lower(*placed(mesh, (state, hparams, queue), AXIS), *placed(mesh, shared))
    return Steps(
        lowered,
        block.length if block else 1,
        3.0 * count_flops(model, image_shape) * batch_size * lanes,
        shared[0].nbytes,
    )


def measure(
    mesh: Mesh, stage: str, name: str, width: int, image_shape: tuple, num_train: int, images: int = 200
) -> Any:
    """Return the program that measures one network or pair; `images` are held at a time, a divisor of 200."""
    model, settings = build_model(name, width, 10, image_shape), resolve(MeasureConfig())
    makers = {
        "hessian": lambda: kernels.make_hessian(model, settings, images, True, True),
        "sharpness": lambda: kernels.make_sharpness(model, settings, images),
        "similarity": lambda: kernels.make_outputs(model, settings, settings.similarity_images),
        "barrier": lambda: kernels.make_barrier(model, settings),
        "curve": lambda: kernels.make_curve_parts(model, settings).advance,
    }
    x, y = np.empty((num_train, *image_shape), np.float32), np.empty(num_train, np.int32)
    data: Any = kernels.Data(x, y, x[: num_train // 5], y[: num_train // 5])
    network, count, key = jax.eval_shape(model.init, jax.random.key(0)), np.int32(0), np.zeros(2, np.uint32)
    item: Any = kernels.NetworkItem(network, count, key)
    if stage in ("barrier", "curve"):
        item = kernels.PairItem(network, network, count, key)
    if stage == "curve":
        item = item, jax.eval_shape(kernels.make_curve_parts(model, settings).start, item, data)
        data = data, np.int32(0), np.int32(0)
    items = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype), item)
    with full_precision():
        lowered = jit_over_members(makers[stage](), mesh).lower(placed(mesh, items, AXIS), placed(mesh, data))
    of_curve = kernels.curve_block(settings) or 1, 3.0 * count_flops(model, image_shape) * settings.curve_batch_size
    return Steps(lowered, *(of_curve if stage == "curve" else (1, 0.0)), x.nbytes)


RESNET18 = {"name": "resnet18", "width": 64, "image_shape": (32, 32, 3), "num_train": 50_000}
DIGITS = {"image_shape": (8, 8, 1), "num_train": 1437}
RESNET8 = {"name": "resnet8", "width": 8, **DIGITS}
STAGES = ("hessian", "curve", "sharpness", "similarity", "barrier")
PROGRAMS = {
    "train-resnet18": functools.partial(train, batch_size=128, **RESNET18),
    "train-resnet18-narrow": functools.partial(train, batch_size=128, **RESNET18 | {"width": 8}),
    "train-resnet8": functools.partial(train, batch_size=64, **RESNET8),
    "train-resnet8-16-lanes": functools.partial(train, batch_size=64, lanes=16, **RESNET8),
    "train-mlp": functools.partial(train, batch_size=64, name="mlp", width=64, **DIGITS),
    "hessian-resnet18": functools.partial(measure, stage="hessian", images=50, **RESNET18),
    "curve-resnet18": functools.partial(measure, stage="curve", **RESNET18),
    **{f"{stage}-resnet8": functools.partial(measure, stage=stage, **RESNET8) for stage in STAGES},
}


def placed(mesh: Mesh, tree: Any, *axes: str) -> Any:
    """Return the shapes of arrays on the mesh: whole on its device, or the first axis split over `axes`."""
    sharding = NamedSharding(mesh, PartitionSpec(*axes))
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)


@functools.cache
def mesh_of(target: str) -> Mesh:
    """Return a mesh of one device of a target, a key of `GPUS` or `TPUS`, that can only be compiled for."""
    if target in GPUS:
        config = GPU_CONFIG.format(*GPUS[target], name=target)
        topology = get_topology_desc(target, platform="cuda", target_config=config, topology="1x1x1")
    else:
        topology = get_topology_desc(TPUS[target], platform="tpu")
    return Mesh(np.array(topology.devices[:1]), (AXIS,))


def check(function: Any, arguments: tuple, target: str, **compiler_options: Any) -> dict[str, Any]:
    """Compile `jax.jit(function)` for arrays like `arguments` and a target in this process; return its row.

    The process must have been started with the environment `ENVIRONMENT`; XLA may abort it.
    """
    return row_of(jax.jit(function).lower(*placed(mesh_of(target), arguments)), target, compiler_options)


def row_of(lowered: Any, target: str, compiler_options: dict[str, Any]) -> dict[str, Any]:
    """Compile what was lowered, and return what there is to say of it."""
    flops, per_turn = getattr(lowered, "flops", 0.0), getattr(lowered, "per_turn", 1)
    data_bytes, lowered = getattr(lowered, "data_bytes", -1), getattr(lowered, "lowered", lowered)
    begin = time.perf_counter()
    compiled = lowered.compile(compiler_options or None)
    found = {"result": "compiled", "seconds": time.perf_counter() - begin}
    found["temp MB"] = compiled.memory_analysis().temp_size_in_bytes / 1e6
    counts = Hlo(compiled.as_text(), "tf32" if target in GPUS else "bf16", data_bytes).row()
    step = {name: counts[name] and round(counts[name] / per_turn) for name in ("per step", "step bytes")}
    return found | counts | step | {"step flops": flops}


class Hlo:
    """The text of an optimized program, counted."""

    def __init__(self, text: str, default: str, data_bytes: int = -1):
        self.bodies: dict[str, list[tuple[str, str]]] = {}
        self.default, self.entry, self.num_dynamic = default, "", 0
        self.products: dict[str, int] = {}
        self.bytes: dict[str, int] = {}
        self.data_bytes = data_bytes
        self.steps: list[np.ndarray] = []
        for line in text.splitlines():
            if start := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
                body = self.bodies.setdefault(start[2], [])
                self.entry = start[2] if start[1] else self.entry
            elif found := re.match(r"\s+(?:ROOT )?%?[\w.\-]+ = (?:\(.*?\)|\S+) ([a-z][\w\-]*)\(", line):
                body.append((found[1], line))
                name, shape = re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ", line).groups()
                self.bytes[name] = sum(
                    BYTES.get(kind, 4) * math.prod(map(int, filter(None, sizes.split(","))))
                    for kind, sizes in re.findall(r"(\w+)\[([\d,]*)\]", shape)
                )

    def row(self) -> dict[str, Any]:
        """Return the counts of the whole program."""
        launches = int(self.count(self.entry)[0][0])
        products = ", ".join(f"{number} {kind}" for kind, number in sorted(self.products.items()))
        step, step_bytes = max(map(tuple, self.steps), default=("", 0))
        found = {"launches": launches, "per step": step, "step bytes": step_bytes, "dynamic": self.num_dynamic}
        return found | {"products": products}

    @functools.cache  # noqa: B019
    def count(self, name: str) -> tuple[np.ndarray, bool, bool]:
        """Return a computation's launches and the bytes that these read and write, whether it has products, and whether
        a loop of unknown length with some.
        """
        total, has_products, has_steps = np.zeros(2, int), False, False
        for opcode, line in self.bodies[name]:
            names = re.findall(r"(?:body|condition|to_apply|calls|\w+_computation)=%?([\w.\-]+)", line)
            names += re.findall(r"%?([\w.\-]+)", "".join(re.findall(r"branch_computations=\{(.*?)\}", line)))
            inside = [self.count(other) for other in names]
            have_products = any(found[1] for found in inside)
            has_products |= have_products or self.is_product(opcode, line)
            has_steps |= any(found[2] for found in inside)
            if opcode == "while":
                turn, turns = sum((found[0] for found in inside), np.zeros(2, int)), self.turns(line)
                total += turn * (turns or 1)
                if turns is None:
                    self.num_dynamic += 1
                    if have_products and not any(found[2] for found in inside):
                        self.steps.append(turn)
                    has_steps |= have_products
            elif opcode in ("call", "conditional", "async-start"):
                total += max((found[0] for found in inside), key=tuple, default=np.array([1, self.moved(line)]))
            elif opcode not in FREE and not opcode.endswith("-done"):
                total += 1, self.moved(line)
        return total, has_products, has_steps

    def moved(self, line: str) -> int:
        """Return the bytes of an instruction's result and operands; a slice of an array counts as the array.

        The data set does not: a batch of it is the result.
        """
        found = [self.bytes.get(name, 0) for name in re.findall(r"%([\w.\-]+)", line.split(", calls=")[0])]
        return sum(number for number in found if number != self.data_bytes)

    def turns(self, line: str) -> int | None:
        """Return how often a loop turns, if that is known: as a GPU's compiler says, or from i < constant."""
        if known := re.search(r'known_trip_count":\{"n":"(\d+)"', line):
            return int(known[1])
        body = [text for _, text in self.bodies[re.search(r"condition=%?([\w.\-]+)", line)[1]]]
        limit = re.search(r"compare\(.*?%?([\w.\-]+)\), direction=LT", body[-1])
        found = [re.search(rf"%?{re.escape(limit[1])} = \S+ constant\((\d+)\)", text) for text in body] if limit else []
        return next((int(match[1]) for match in found if match), None)

    def is_product(self, opcode: str, line: str) -> bool:
        """Say whether an instruction is a product or convolution, and count it by the precision of its factors."""
        library = re.search(r'custom_call_target="\S*(?:gemm|matmul|conv)\S*"', line, re.IGNORECASE)
        if opcode not in ("dot", "convolution") and not library:
            return False
        asked = [word.lower() for word in re.findall(r'operand_precision(?:=\{|":\[")(\w+)', line)]
        kind = {"highest": "f32", "high": f"3x{self.default}"}.get(asked[-1] if asked else "", self.default)
        dtype = re.search(r" = \(?(\w+)\[", line)[1]
        kind = kind if dtype == "f32" else dtype
        self.products[kind] = self.products.get(kind, 0) + 1
        return True


ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONDONTWRITEBYTECODE": "1", "JAX_ENABLE_COMPILATION_CACHE": "false"}
COLUMNS = {"program": 22, "target": 6, "result": 15, "seconds": 7, "launches": 8, "per step": 8, "dynamic": 7}
COLUMNS |= {"temp MB": 8, "products": 0}


def compile_here(program: str, target: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the row of a program, compiled in this process."""
    if (make := PROGRAMS.get(program)) is None:
        path, function = program.rsplit(":", 1)
        spec = importlib.util.spec_from_file_location(Path(path).stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        make = getattr(module, function)
    mesh = mesh_of(target)
    devices = list(mesh.devices.flat)
    as_target = {"devices": lambda *_: devices, "local_devices": lambda *_: devices}
    as_target |= {"default_backend": lambda: devices[0].platform}
    with mock.patch.multiple(jax, **as_target):
        lowered = make(mesh)
    return row_of(lowered, target, options)


def compile_apart(program: str, target: str, options: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Return the row of a program, compiled in a process that may be aborted."""
    command = [sys.executable, __file__, "--here", json.dumps(options), "--programs", program, "--targets", target]
    path = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, **ENVIRONMENT, **QUIET, "PYTHONPATH": path}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"result": "timeout", "message": f"more than {seconds:.0f} s"}
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    lines = done.stderr.splitlines()
    reasons = [line for line in lines if re.match(r"F\d{4} |[\w.]*(Error|Exception|Interrupt)\b", line)] or lines[-1:]
    return {"result": "aborted" if done.returncode < 0 else "failed", "message": " ".join(reasons[:1])[:400]}


def print_row(row: dict[str, Any]) -> None:
    """Print a row of the table."""
    cells = [(row.get(name, ""), width) for name, width in COLUMNS.items()]
    print(*((f"{v:.1f}" if isinstance(v, float) else str(v)).ljust(width) for v, width in cells), flush=True)


def main() -> int:
    """Compile what was asked for, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", default="h100,v5e", help=f"of {', '.join([*GPUS, *TPUS])}; h100,v5e if absent")
    parser.add_argument("--programs", default=",".join(PROGRAMS), help=f"of {', '.join(PROGRAMS)}, or FILE.py:FUNCTION")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=JSON", help="of XLA, over the project's")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds for one program; 1800 if absent")
    parser.add_argument("--json", help="file for the rows")
    parser.add_argument("--here", help=argparse.SUPPRESS)
    args = parser.parse_args()
    programs, targets = args.programs.split(","), args.targets.split(",")
    if args.here is not None:
        print(json.dumps(compile_here(programs[0], targets[0], json.loads(args.here))))
        return 0
    options = {name: json.loads(value) for name, value in (text.split("=", 1) for text in args.option)}
    rows: list[dict[str, Any]] = []
    print_row({name: name for name in COLUMNS})
    for target, program in itertools.product(targets, programs):
        for cure in ({}, CURE):
            row = compile_apart(program, target, options | cure, args.timeout)
            row["result"] += ", CURE" if cure else ""
            most = 1.3 * LAUNCHES.get(program, math.inf)
            if target in GPUS and (row.get("per step") or 0) > most:
                row["message"] = f"{row['per step']} launches a step, and {most:.0f} are allowed"
            rows.append({"program": program, "target": target, **row})
            print_row(rows[-1])
            if row["result"] != "aborted" or target not in GPUS:
                break
    for row in rows:
        if "message" in row:
            print(f"{row['program']} {row['target']}: {row['message']}")
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1))
    return int(any("message" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main())
