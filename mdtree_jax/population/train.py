"""Trains a cohort: one compiled program, members over all devices, in blocks that can be watched and resumed. JAX.

A member's result depends on its own seed and hyperparameters, not on who shares its cohort. Bit for bit that holds for
one executor; with another number of lanes, sums are rounded in another order.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mdtree_jax.checks import StaleState, UserError
from mdtree_jax.models import Model, count_flops
from mdtree_jax.population.assignment import Pass, plan_passes
from mdtree_jax.population.compiled import executables, jit_over_members
from mdtree_jax.population.executor import ExecutorChoice, choose_executor, compiler_options
from mdtree_jax.population.history import History, Recorder, curves, make_recorder
from mdtree_jax.population.loop import AXIS, PopulationState, make_run, start_population
from mdtree_jax.population.programs import hyperparameters_of, input_of, model_of, trainer_of
from mdtree_jax.population.results import VALIDATION, TrainedCohort, metrics_of
from mdtree_jax.recipe.cohort import Cohort, Recipe
from mdtree_jax.registry.objectives import DEFAULT_OBJECTIVE
from mdtree_jax.stopping import is_asked
from mdtree_jax.training import Hyperparameters, ObjectiveLike, Trainer, evaluate, objective_functions
from mdtree_jax.training.arrays import kind_in
from mdtree_jax.training.train import init_key

DEFAULT_BUDGET_BYTES = 4 * 2**30
BLOCK_SECONDS = 5.0
METRICS = ("train_loss", "train_error", "test_loss", "test_error")
_HISTORY = "history_"


def train_cohort(
    recipe: Recipe,
    cohort: Cohort,
    data: Any,
    *,
    executor: ExecutorChoice | None = None,
    dtype: str = "float32",
    grid_seed: int = 0,
    progress: Callable[[float, str], None] | None = None,
    checkpoint: Callable[[dict[str, np.ndarray]], None] | None = None,
    checkpoint_seconds: float = 900.0,
    resume: Mapping[str, np.ndarray] | None = None,
) -> TrainedCohort:
    """Train and evaluate all members of a cohort.

    Args:
        recipe: what the grid has in common.
        cohort: static shape and members.
        data: `x_train` (n, ...), for images (n, height, width, channels), `y_train` (n, ...), `x_test`, `y_test`; a
            member's subset is a prefix. `x_validation` and `y_validation` where there is a validation set.
        executor: from `choose_executor`; chosen here if absent.
        dtype: `float32` or `float64` (with x64 enabled).
        grid_seed: with `member.seed` and `member.num_samples`, all that a member's randomness depends on.
        progress: called after every block with the fraction of steps done and a message.
        checkpoint: called with the whole state, a flat dictionary of NumPy arrays, after `checkpoint_seconds` each, and
            after the block in which a signal asked to stop (`mdtree_jax.stopping`).
        checkpoint_seconds: least time between two checkpoints.
        resume: such a state, of the same cohort and executor; the results are those of an uninterrupted run.

    Raises:
        UserError: no members, an unknown model or optimizer, a batch larger than a subset, a subset larger than the
            training set, images of another shape than the recipe's, too few devices, a state of another cohort.
    """
    recipe = dataclasses.replace(recipe, image_shape=tuple(recipe.image_shape))
    _check(recipe, cohort, data)
    if executor is None:
        num_train, num_test = len(data.x_train), sum(len(array) for array, _ in _arrays(data, dtype)[3::2])
        executor = choose_executor(recipe, cohort, DEFAULT_BUDGET_BYTES, None, dtype, num_train, num_test)
    run = _CohortRun(recipe, cohort, data, executor, dtype, grid_seed)
    if resume is not None:
        run.restore(resume)
    last_checkpoint = time.perf_counter()
    while run.pass_index < len(run.passes):
        run.run_block()
        if progress is not None:
            progress(run.fraction_done(), f"{cohort.key}: {executor.kind}")
        is_due = is_asked() or time.perf_counter() - last_checkpoint >= checkpoint_seconds
        if checkpoint is not None and is_due:
            checkpoint(run.snapshot())
            last_checkpoint = time.perf_counter()
    return run.finish()


def prepare_cohort(
    recipe: Recipe,
    cohort: Cohort,
    data: Any,
    *,
    executor: ExecutorChoice,
    dtype: str = "float32",
    grid_seed: int = 0,
) -> None:
    """Compile the training program of a cohort, for `train_cohort` to find; meant for another thread meanwhile.

    Arguments and errors as of `train_cohort`.
    """
    recipe = dataclasses.replace(recipe, image_shape=tuple(recipe.image_shape))
    _check(recipe, cohort, data)
    _CohortRun(recipe, cohort, data, executor, dtype, grid_seed).compile_ahead()


def _check(recipe: Recipe, cohort: Cohort, data: Any) -> None:
    if not cohort.members:
        raise UserError(f"cohort {cohort.key} has no members")
    num_train, shape = len(data.x_train), tuple(data.x_train.shape[1:])
    if shape != recipe.image_shape:
        raise UserError(f"inputs of shape {shape} do not fit the recipe's image_shape {recipe.image_shape}")
    for member in cohort.members:
        if not cohort.batch_size <= member.num_samples <= num_train:
            raise UserError(
                f"num_samples {member.num_samples} in cohort {cohort.key} must be at least the batch size "
                f"{cohort.batch_size} and at most the training set's {num_train}"
            )


def _arrays(data: Any, dtype: str) -> list[tuple[Any, Any]]:
    """Return inputs and targets of training set, test set and, if there is one, validation set, with their types."""
    arrays = [data.x_train, data.y_train, data.x_test, data.y_test]
    if len(getattr(data, "y_validation", ())):
        arrays += [data.x_validation, data.y_validation]
    return [(array, kind_in(array, dtype)) for array in arrays]


def member_key(grid_seed: int, seed: int, num_samples: int) -> np.ndarray:
    """Return the raw key data, (2,) uint32, of all of a member's randomness."""
    key = jax.random.key(grid_seed, impl="threefry2x32")
    for value in (seed, num_samples):
        key = jax.random.fold_in(key, value)
    return np.asarray(jax.random.key_data(key))


#: A program is known by its functions, and `lru_cache` lets two threads that ask at once make two of each.
_MAKING = threading.Lock()


@functools.lru_cache(maxsize=4)
def _make_trainer(
    recipe: Recipe, cohort: Cohort, dtype: str, objective: ObjectiveLike, has_validation: bool
) -> tuple[Model, Trainer, Recorder | None]:
    del objective  # an objective that was registered again under its name is another program
    model = model_of(recipe, cohort, dtype)
    recorder = make_recorder(recipe, cohort, model, has_validation=has_validation)
    return model, trainer_of(recipe, cohort, model), recorder


@functools.lru_cache(maxsize=4)
def _jit_run(trainer: Trainer, mesh: Mesh, recorder: Recorder | None) -> Any:
    options = compiler_options(mesh.devices.flat[0].platform)
    return jax.jit(make_run(trainer, mesh, recorder), donate_argnums=0, compiler_options=options)


@functools.lru_cache(maxsize=4)
def jit_init(model: Model) -> Any:
    """Return the compiled `init(key) -> variables` of a network before training, from its raw key data."""
    return jax.jit(lambda key: model.init(init_key(key)))


@functools.lru_cache(maxsize=4)
def _jit_evaluate(
    model: Model, mesh: Mesh, batch_size: int, lanes: int, objective: ObjectiveLike = DEFAULT_OBJECTIVE
) -> Any:
    def one(member: tuple[Any, jax.Array], data: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        (variables, count), (x_train, y_train, *held_out) = member, data
        found: list[jax.Array] = []
        for x, y in zip(held_out[::2], held_out[1::2], strict=True):
            found += evaluate(model, variables, x, y, jnp.full_like(count, len(y)), batch_size, objective)
        return *evaluate(model, variables, x_train, y_train, count, batch_size, objective), *found

    return jit_over_members(one, mesh, lanes)


class _CohortRun:
    """The host's side of one cohort: passes, blocks, results so far."""

    def __init__(
        self, recipe: Recipe, cohort: Cohort, data: Any, executor: ExecutorChoice, dtype: str, grid_seed: int
    ) -> None:
        devices = jax.devices()
        if len(devices) < executor.num_devices:
            raise UserError(f"executor for {executor.num_devices} devices, but JAX has {len(devices)}")
        self.recipe, self.cohort, self.executor, self.dtype, self.grid_seed = recipe, cohort, executor, dtype, grid_seed
        self.objective = objective_functions(recipe.objective)
        self.mesh = Mesh(np.array(devices[: executor.num_devices]), (AXIS,))
        self.split, self.whole = (NamedSharding(self.mesh, PartitionSpec(*axes)) for axes in ((AXIS,), ()))
        self.arrays = _arrays(data, dtype)
        with _MAKING:
            has_validation = len(self.arrays) > 4
            made = _make_trainer(recipe, cohort.shape, dtype, self.objective, has_validation)
            self.model, self.trainer, self.recorder = made
            self.jit_run = _jit_run(self.trainer, self.mesh, self.recorder)
            self.jit_init = jit_init(self.model)
        counts = [member.num_samples for member in cohort.members]
        self.steps_per_epoch = np.array([self.trainer.steps_per_epoch(count) for count in counts])
        self.passes = plan_passes(counts, executor.members_per_pass, executor.num_devices, executor.lanes_per_device)
        self.pass_index, self.max_steps = 0, 1
        self.state: PopulationState | None = None
        self.num_compilations, self.compile_seconds = 0, 0.0
        shapes = jax.eval_shape(self.jit_init, np.zeros(2, np.uint32))
        num = len(counts)
        names = (*METRICS, *(VALIDATION if has_validation else ()))
        self.results: dict[str, np.ndarray] = {name: np.zeros(num) for name in names}
        if self.recorder is not None:
            recorded = ("train_loss", *(VALIDATION if self.recorder.evaluate else ()))
            shape = num, len(self.recorder.epochs)
            self.results |= {f"{_HISTORY}{name}": np.zeros(shape) for name in recorded}
        self.results |= {name: np.zeros(num, np.int64) for name in ("stop_epoch", "num_epochs")}
        self.results["is_finite"] = np.zeros(num, bool)
        self.results["seconds"] = np.zeros(())
        self.results["lane_steps"] = np.zeros((), np.int64)
        self.variables = jax.tree.map(lambda leaf: np.zeros((num, *leaf.shape), leaf.dtype), shapes)

    @functools.cached_property
    def data(self) -> list[jax.Array]:
        """Inputs and targets of the training, test and validation set, whole on every device."""
        return [jax.device_put(np.asarray(array, kind), self.whole) for array, kind in self.arrays]

    @property
    def recorded_on(self) -> list[tuple[Any, Any]]:
        """Images and labels on which learning curves are recorded, with their types."""
        return self.arrays[4:] if self.recorder is not None else []

    def hyperparameters(self, group: Pass) -> Hyperparameters:
        """Return the hyperparameters by slot; an empty slot repeats the first member's."""
        members = [self.cohort.members[max(index, 0)] for index in group.members]
        keys = [member_key(self.grid_seed, m.seed, m.num_samples) for m in members]
        return hyperparameters_of(members, keys, self.cohort.batched, self.dtype)

    def first_state(self, networks: Sequence[Any]) -> tuple[PopulationState, tuple[Hyperparameters, np.ndarray]]:
        """Return state and inputs of the current pass, on the host, from the initial networks by slot."""
        group = self.passes[self.pass_index]
        hparams = self.hyperparameters(group)
        variables = jax.tree.map(lambda *leaves: np.stack(leaves), *networks)
        num_train = len(self.arrays[0][0])
        validation = tuple(jax.ShapeDtypeStruct(a.shape, np.dtype(kind)) for a, kind in self.recorded_on)
        options = {"recorder": self.recorder, "validation": validation}
        num_devices = self.executor.num_devices
        state = start_population(self.trainer, variables, hparams, group.queue, num_train, num_devices, **options)
        return state, (hparams, group.queue)

    def compile_ahead(self) -> None:
        """Compile the program of the first pass from shapes alone; nothing is put on the devices."""
        shapes = jax.eval_shape(self.jit_init, np.zeros(2, np.uint32))
        network = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
        state, inputs = self.first_state([network] * len(self.passes[0].members))

        def shaped(tree: Any, sharding: NamedSharding) -> Any:
            return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)

        def whole(arrays: list[tuple[Any, Any]]) -> list[jax.ShapeDtypeStruct]:
            return [jax.ShapeDtypeStruct(a.shape, np.dtype(kind), sharding=self.whole) for a, kind in arrays]

        steps = jax.ShapeDtypeStruct((), np.int32, sharding=self.whole)
        given = shaped(state, self.split), *shaped(inputs, self.split), *whole(self.arrays[:2]), steps
        executables.get(self.jit_run, (*given, *whole(self.recorded_on)), ahead=True)

    def start_pass(self) -> None:
        """Put the members of the current pass on the devices, and compile if this is the first pass."""
        group = self.passes[self.pass_index]
        # Each to the host at once: together they may be more than one device holds.
        networks = [jax.device_get(self.jit_init(key)) for key in self.hyperparameters(group).key]
        state, inputs = self.first_state(networks)
        self.state, self.inputs = jax.device_put(state, self.split), jax.device_put(inputs, self.split)
        start = time.perf_counter()
        self.executable, is_new = executables.get(self.jit_run, self.arguments(0))
        self.num_compilations += is_new
        self.compile_seconds += time.perf_counter() - start

    def arguments(self, max_steps: int) -> tuple[Any, ...]:
        """Return what the compiled program takes, to run for so many steps."""
        steps = jax.device_put(np.int32(max_steps), self.whole)
        validation = self.data[4:] if self.recorded_on else []
        return self.state, *self.inputs, *self.data[:2], steps, *validation

    def call(self, max_steps: int) -> PopulationState:
        """Run the compiled program; the old state is given away."""
        return self.executable(*self.arguments(max_steps))

    def run_block(self) -> None:
        """Run for about `BLOCK_SECONDS`; at the end of a pass, evaluate it."""
        if self.state is None:
            self.start_pass()
        start = time.perf_counter()
        self.state = state = jax.block_until_ready(self.call(self.max_steps))
        seconds = time.perf_counter() - start
        self.results["seconds"] += seconds
        # A short block times its own start as well, so the length grows by a bounded factor.
        factor = min(max(BLOCK_SECONDS / max(seconds, 1e-6), 0.1), 16.0)
        self.max_steps = int(min(max(1, self.max_steps * factor), 2**30))
        if np.asarray(state.is_idle).all():
            self.end_pass(state)

    def end_pass(self, state: PopulationState) -> None:
        """Evaluate the networks of the pass and bring everything to the host."""
        group = self.passes[self.pass_index]
        batch_size, lanes = self.recipe.eval_batch_size, self.executor.lanes_per_device
        evaluate_all = _jit_evaluate(self.model, self.mesh, batch_size, lanes, self.objective)
        metrics = evaluate_all((state.variables, self.inputs[0].num_samples), tuple(self.data))
        is_used = group.members >= 0
        rows = group.members[is_used]
        records = state.records
        sizes = [np.asarray(self.inputs[0].num_samples), *(len(labels) for labels in self.data[3::2])]
        found: dict[str, Any] = {"stop_epoch": records.kept_epoch, "num_epochs": records.epoch}
        # The last step can overflow, and running averages can, without a training loss that shows it.
        found |= (means := metrics_of(metrics, sizes))
        losses = [values for name, values in means.items() if name.endswith("_loss")]
        found["is_finite"] = np.asarray(records.is_finite) & np.isfinite(losses).all(axis=0)
        if isinstance(state.history, History):
            found[f"{_HISTORY}train_loss"] = state.history.train_loss
            for name, values, scale in zip(VALIDATION, state.history.validation, (1, 100 / sizes[-1]), strict=False):
                found[f"{_HISTORY}{name}"] = scale * np.asarray(values, np.float64)
        for name, values in found.items():
            self.results[name][rows] = np.asarray(values)[is_used]
        for stored, leaf in zip(jax.tree.leaves(self.variables), jax.tree.leaves(state.variables), strict=True):
            stored[rows] = np.asarray(leaf)[is_used]
        self.results["lane_steps"] += int(np.asarray(state.steps).max()) * group.queue.shape[0]
        self.pass_index += 1
        self.state = None

    def fraction_done(self) -> float:
        """Return the fraction of steps done; a member that stops early counts as whole."""
        counts = self.steps_per_epoch
        total = counts.sum() * self.cohort.train_epochs
        done = sum(int(counts[group.members[group.members >= 0]].sum()) for group in self.passes[: self.pass_index])
        done *= self.cohort.train_epochs
        if self.state is not None:
            done += int(np.asarray(self.state.steps).sum()) * self.executor.lanes_per_device
        return min(done / total, 1.0)

    def snapshot(self) -> dict[str, np.ndarray]:
        """Return everything that `restore` needs, as a flat dictionary of NumPy arrays."""
        leaves = {f"result_{name}": values for name, values in self.results.items()}
        leaves |= {f"network_{i}": leaf for i, leaf in enumerate(jax.tree.leaves(self.variables))}
        leaves |= {"pass_index": np.asarray(self.pass_index), "max_steps": np.asarray(self.max_steps)}
        if self.state is not None:
            leaves |= {f"state_{i}": leaf for i, leaf in enumerate(jax.tree.leaves(self.state))}
        return {name: np.array(leaf) for name, leaf in leaves.items()}

    def restore(self, saved: Mapping[str, np.ndarray]) -> None:
        """Go on from a snapshot.

        Raises:
            StaleState: the arrays are not those of this cohort.
        """
        if "pass_index" not in saved:
            raise StaleState(f"the saved state is not of cohort {self.cohort.key}")
        self.pass_index = int(saved["pass_index"])
        if self.pass_index < len(self.passes) and "state_0" in saved:
            self.start_pass()
        own = self.snapshot()
        if {n: v.shape for n, v in own.items()} != {n: np.shape(v) for n, v in saved.items()}:
            raise StaleState(f"the saved state is not of cohort {self.cohort.key} with this executor")
        self.max_steps = int(saved["max_steps"])
        self.results = {name: np.array(saved[f"result_{name}"]) for name in self.results}
        self.variables = _refill(self.variables, "network", saved)
        if self.state is not None:
            self.state = jax.device_put(_refill(self.state, "state", saved), self.split)

    def finish(self) -> TrainedCohort:
        """Return the results of all passes."""
        results = dict(self.results)
        seconds, lane_steps = float(results.pop("seconds")), int(results.pop("lane_steps"))
        names = [name for name in results if name.startswith(_HISTORY)]
        history = {name.removeprefix(_HISTORY): results.pop(name) for name in names}
        if self.recorder is not None:
            history = curves(self.recorder, history, results["num_epochs"], self.steps_per_epoch)
        steps = self.steps_per_epoch * results["num_epochs"]
        flops = count_flops(self.model, input_of(self.recipe, self.dtype), self.dtype)
        return TrainedCohort(
            variables=self.variables,
            **results,
            train_seconds=seconds * steps / steps.sum(),
            train_flops=3.0 * flops * self.cohort.batch_size * steps,
            useful_step_fraction=float(steps.sum() / lane_steps),
            num_compilations=self.num_compilations,
            compile_seconds=self.compile_seconds,
            history=history or None,
        )


def _refill(tree: Any, prefix: str, saved: Mapping[str, np.ndarray]) -> Any:
    """Return the tree with its leaves taken from `saved`."""
    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, [np.array(saved[f"{prefix}_{i}"]) for i in range(len(leaves))])
