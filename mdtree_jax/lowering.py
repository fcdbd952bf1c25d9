"""How programs are written for each kind of device: one table, a row per platform. JAX.

Convolution, precision of products, networks stepped together, form of the loop over steps, and options of the compiler
are chosen here and nowhere else. What stands beside a choice is why. CPU: measured on two cores
(`tests/benchmarks/training_throughput.py`, `hessian_kernels.py`). GPU and TPU: seen in programs that were compiled for
H100 and v5e (`tests/benchmarks/results/accelerators.md`); nothing was timed on such a device.

A row is looked up while a program is traced, by the platform that JAX computes on or that is asked about (`as_on`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mdtree_jax.checks import UserError


class Lowering(NamedTuple):
    """The choices for a platform.

    Attributes:
        convolution: of one network: `slices`, nine shifted slices and a matrix product, or `native`, XLA's own.
        convolution_of_lanes: of networks side by side, whose kernels differ.
        whole_bytes: neighbours of a batch that `slices` makes at once; a larger batch is cut, …
        part_bytes: … into parts of at most so many. None: a batch is never cut.
        precisions: names of `grid.precision` that the platform has -> what JAX is asked for; None: nothing.
        has_known_loops: whether steps go in loops of a length that the compiler knows, and epochs end for all lanes
            together; else lane by lane, exactly when they end.
        lane_bytes: size of a step (`population.executor.step_bytes`) up to which networks go side by side.
        max_lanes: so many of those; None: as many as are of `lane_bytes` together.
        held_bytes: activations that a Hessian product holds, unless it were for fewer images than `fewest_images`;
            None: what fits.
        fewest_images: see there.
        keeps_data: whether the data set stays on the devices between cohorts.
        required_options: of the compiler, for every program that holds a network.
    """

    convolution: str
    convolution_of_lanes: str
    whole_bytes: int | None
    part_bytes: int
    precisions: Mapping[str, str | None]
    has_known_loops: bool
    lane_bytes: int
    max_lanes: int | None
    held_bytes: int | None
    fewest_images: int
    keeps_data: bool
    required_options: Mapping[str, Any]

    def most_lanes(self, step_bytes: int) -> int:
        """Return how many networks whose step is of this size a device steps together at most."""
        if self.max_lanes is not None:
            return self.max_lanes if step_bytes <= self.lane_bytes else 1
        return max(1, self.lane_bytes // max(step_bytes, 1))


_CPU = Lowering(
    # Native convolutions are up to 36 times slower inside a loop, and 2 to 5 times when batched over kernels.
    convolution="slices",
    convolution_of_lanes="slices",
    # Cutting pays only where the neighbours of a whole batch would spill from the shared cache.
    whole_bytes=2**24,
    part_bytes=2**20,
    # There is one arithmetic; products are never cut.
    precisions={"float32": None},
    # A turn of a loop costs nothing, and a step that is not taken would.
    has_known_loops=False,
    # A step of one network fills a core unless the network is tiny.
    lane_bytes=2**18,
    max_lanes=8,
    # A block of products of ResNet-18 takes 1.4 times as long with all 200 images at once (811 MB at width 8) as with
    # 20 or 50 (hessian_kernels.py batches). The networks of `digits` stay below with all of theirs.
    held_bytes=256 * 2**20,
    fewest_images=20,
    # Its memory is the host's, and is free again after a cohort. Not measured.
    keeps_data=False,
    required_options={},
)

_GPU = Lowering(
    # ResNet-18 of width 64, batch 128, on H100: 23 400 launches a step with slices, which a cache's sizes cut into
    # parts; 285 with native convolutions, and a ninth less memory.
    convolution="native",
    # Side by side they would be grouped convolutions. 16 lanes of ResNet8 take 108 launches a step with slices, whose
    # products are batched: as many as one lane.
    convolution_of_lanes="slices",
    whole_bytes=None,
    part_bytes=0,
    # What XLA does where nothing is asked for is TF32, so that is "default". bfloat16 is asked for by the layers.
    precisions={"float32": "highest", "tensorfloat32": "default", "bfloat16": "default"},
    # Before a turn of a loop of unknown length the device waits for the host. How long was not measured.
    has_known_loops=True,
    # By data sheet and an assumed time of a launch, not timed: in the 120 launches of 3 microseconds that a step of
    # ResNet8 takes, whatever its width, an H100 moves 1.2 GB. As long as all arrays of a step are no more, further
    # networks should cost no time.
    lane_bytes=2**30,
    max_lanes=None,
    held_bytes=None,
    fewest_images=1,
    # CIFAR-10 is 0.7 GB, of 80, and would be copied for every cohort. Not measured.
    keeps_data=True,
    # XLA aborts the process while it tiles such products on cards of capability 8.0 and above (openxla/xla#47381):
    # all programs of ResNet8, ResNet-18 up to width 16. Without them cuBLAS does the products.
    required_options={"xla_gpu_enable_triton_gemm": False},
)

_TPU = _GPU._replace(
    # One pass of the matrix unit has factors of 8 bits of mantissa; "highest" takes six.
    precisions={"float32": "highest", "bfloat16": "default"},
    required_options={},
)

#: Platform -> its row. A platform that is not here is taken for a TPU: an accelerator without options of XLA's GPU.
TABLE: dict[str, Lowering] = {"cpu": _CPU, "gpu": _GPU, "tpu": _TPU}


_PLATFORM: ContextVar[str | None] = ContextVar("platform", default=None)
_NUM_LANES: ContextVar[int] = ContextVar("num_lanes", default=1)
_FACTORS: ContextVar[Any] = ContextVar("factors", default=None)


def of(name: str) -> Lowering:
    """Return the row of a platform, as `device.platform` names it."""
    return TABLE.get({"cuda": "gpu", "rocm": "gpu"}.get(name, name), TABLE["tpu"])


def platform() -> str:
    """Return the platform that is traced for: that of `as_on`, else the one JAX computes on."""
    return _PLATFORM.get() or jax.default_backend()


def here() -> Lowering:
    """Return the row of the platform that is traced for."""
    return of(platform())


@contextlib.contextmanager
def as_on(name: str) -> Iterator[None]:
    """Trace as on another platform, for estimates and tests; nothing that was traced before is traced again."""
    token = _PLATFORM.set(name)
    try:
        yield
    finally:
        _PLATFORM.reset(token)


def _asked_platforms() -> str | None:
    return jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]


def local_devices() -> list[Any]:
    """Return the devices of this process; others compute for themselves.

    Raises:
        UserError: JAX is told to use a platform that is not there.
    """
    try:
        return jax.local_devices()
    except (RuntimeError, AssertionError) as error:  # the second without the plugin of the platform
        asked = _asked_platforms()
        if not asked:
            raise
        raise UserError(
            f"JAX_PLATFORMS={asked} asks for a device that JAX does not find here; unset it, or use JAX_PLATFORMS=cpu"
        ) from error


def compiler_options(platform: str, has_idle_cores: bool = False) -> dict[str, Any]:
    """Return XLA's options for a population program.

    On CPU every device is one core with members of its own: XLA's threads inside a product would only compete, unless
    there are fewer members than cores.
    """
    return {"xla_cpu_multi_thread_eigen": has_idle_cores} if platform == "cpu" else dict(of(platform).required_options)


def jit(function: Callable[..., Any], **options: Any) -> Any:
    """Return `jax.jit(function, **options)` with what the compiler here needs for every program with a network."""
    return jax.jit(function, compiler_options=dict(here().required_options) or None, **options)


@contextlib.contextmanager
def side_by_side(num_lanes: int) -> Iterator[None]:
    """Trace for so many networks stepped together."""
    token = _NUM_LANES.set(num_lanes)
    try:
        yield
    finally:
        _NUM_LANES.reset(token)


def convolution() -> str:
    """Return the form of a 3x3 convolution in what is being traced."""
    row = here()
    return row.convolution_of_lanes if _NUM_LANES.get() > 1 else row.convolution


@contextlib.contextmanager
def precision(name: str) -> Iterator[None]:
    """Trace a network whose products are of this precision; the platform has it (`check_precision`)."""
    asked = here().precisions[name]
    is_cast = name == "bfloat16" and here() is TABLE["gpu"]
    token = _FACTORS.set(jnp.bfloat16 if is_cast else None)
    try:
        with contextlib.nullcontext() if asked is None else jax.default_matmul_precision(asked):
            yield
    finally:
        _FACTORS.reset(token)


def in_factors(product: Callable[..., jax.Array], *factors: jax.Array) -> jax.Array:
    """Return `product(*factors)`, of factors rounded to what the precision being traced says; of their type again.

    On a GPU no option of a convolution makes it take bfloat16, so the layers hand it over.
    """
    kind = _FACTORS.get()
    if kind is None:
        return product(*factors)
    return product(*(factor.astype(kind) for factor in factors)).astype(factors[0].dtype)


def check_precision(name: str, *, is_built_in: bool = True) -> None:
    """Raise `UserError` unless the devices here compute products at this precision.

    `is_built_in`: whether the network is of the package's layers.
    """
    device = local_devices()[0]
    names = {"cpu": "a CPU", "gpu": "this GPU", "tpu": "a TPU"}
    row, what = of(device.platform), names.get(device.platform, "this device")
    able = list(row.precisions)
    if row is TABLE["gpu"] and float(getattr(device, "compute_capability", "9.0")) < 8.0:
        able = ["float32"]  # the units for the others came with Ampere
    if name not in able:
        raise UserError(
            f"grid.precision={name} is not to be had on {what} ({device.device_kind}); use {' or '.join(able)}"
        )
    if name == "bfloat16" and row is TABLE["gpu"] and not is_built_in:
        raise UserError(
            "grid.precision=bfloat16 is for the architectures of the package on a GPU: a network of one's own has to "
            "choose the type of its products itself; use tensorfloat32"
        )
