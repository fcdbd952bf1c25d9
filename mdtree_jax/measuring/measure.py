"""Measures the landscape of a trained cohort: every kernel over all its networks and pairs, in resumable chunks. JAX.

A network's numbers depend on its own seed and subset, not on who shares its cohort. Networks that diverged are left out
and stay NaN. Seconds are shares of the wall time of a chunk, without compilation.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mdtree_jax.checks import StaleState
from mdtree_jax.measuring import kernels as measures
from mdtree_jax.measuring.curves import Curves, curves_in_blocks, takes_long
from mdtree_jax.measuring.flops import MeasureCost
from mdtree_jax.measuring.items import Arrays, arrays_of
from mdtree_jax.measuring.known import Known
from mdtree_jax.measuring.programs import (
    Program,
    binding_of,
    check_kernels,
    check_networks,
    choose,
    comparison_program,
    devices_for,
    program_of,
)
from mdtree_jax.measuring.tables import (
    MeasuredCohort,
    empty_results,
    layer_names,
    layer_table,
    member_table,
    pair_table,
)
from mdtree_jax.measuring.trained import TrainedAs, check_training_is_known
from mdtree_jax.models import Model, count_flops, has_permutations
from mdtree_jax.population.loop import AXIS
from mdtree_jax.population.programs import model_of
from mdtree_jax.recipe.cohort import Cohort, Recipe
from mdtree_jax.recipe.measure_settings import MeasureSettings, chosen_pairs
from mdtree_jax.registry.kernels import Kernel, stages
from mdtree_jax.stopping import is_asked
from mdtree_jax.store.tables import Measured
from mdtree_jax.training import objective_functions
from mdtree_jax.training.arrays import num_bytes, one_row, shapes_in


def measure_cohort(
    recipe: Recipe,
    cohort: Cohort,
    data: Any,
    variables: Any,
    is_finite: Sequence[bool],
    settings: MeasureSettings,
    *,
    memory_budget_bytes: int,
    dtype: str = "float32",
    model: Model | None = None,
    progress: Callable[[float, str], None] | None = None,
    checkpoint: Callable[[dict[str, np.ndarray]], None] | None = None,
    checkpoint_seconds: float = 900.0,
    resume: Mapping[str, np.ndarray] | None = None,
    recorded: Mapping[str, Any] | None = None,
    record: Callable[[dict[str, Any]], None] | None = None,
    known: Measured | None = None,
) -> MeasuredCohort:
    """Measure the networks of a trained cohort.

    Args:
        recipe: what the grid has in common.
        cohort: static shape and members.
        data: `x_train`, `y_train`, `x_test`, `y_test`, as in training.
        variables: of all members, stacked along the first axis, in the order of the cohort.
        is_finite: whether each member's training went well; the others are not measured.
        settings: what to measure, and how finely.
        memory_budget_bytes: for all devices together; decides how many images and networks are held at once.
        dtype: of the arithmetic.
        model: the network, already checked, where it is none of our architectures; its permutations are not known.
        progress: called after every chunk with the fraction done and a message.
        checkpoint: called with what is measured so far, a flat dictionary of arrays, after `checkpoint_seconds` each,
            and after the chunk in which a signal asked to stop (`mdtree_jax.stopping`).
        checkpoint_seconds: least time between two checkpoints.
        resume: such a dictionary, of the same cohort and settings; the results are those of an uninterrupted run.
        recorded: what `record` was called with when this cohort was begun: how much memory is free now must not change
            a number. On other devices, or with less than half of the memory, it is decided anew.
        record: called once, before anything runs, with what was decided, as plain values.
        known: what was measured of some of the members, or with some of the metrics: only what is missing is measured,
            and the tables are of all. Networks that nothing is measured of any more can be anything finite.

    Raises:
        UserError: a model whose outputs depend on the rest of the batch or change from call to call.
        StaleState: a `resume` of another cohort.
    """
    settings = settings.of_cohort(cohort)
    run = _Measurement(recipe, cohort, data, variables, is_finite, settings, memory_budget_bytes, dtype, model, known)
    run.adopt(recorded or {})
    run.take_up(resume or {})
    if record is not None:
        record(run.decided())
    last = [time.perf_counter()]

    def after_chunk(message: str) -> None:
        if progress is not None:
            progress(run.fraction_done(), f"{cohort.key}: {message}")
        is_due = is_asked() or time.perf_counter() - last[0] >= checkpoint_seconds
        if checkpoint is not None and is_due:
            checkpoint(run.snapshot())
            last[0] = time.perf_counter()

    run.measure(after_chunk)
    return run.tables()


class _Measurement:
    """The host's side: items of every stage, results so far."""

    def __init__(
        self,
        recipe: Recipe,
        cohort: Cohort,
        data: Any,
        variables: Any,
        is_finite: Sequence[bool],
        settings: MeasureSettings,
        budget: int,
        dtype: str,
        model: Model | None,
        known: Measured | None,
    ) -> None:
        self.recipe, self.cohort, self.settings, self.dtype = recipe, cohort, settings, dtype
        is_ours = model is None
        self.model = model = model_of(recipe, cohort, dtype) if is_ours else model
        self.objective = objective_functions(recipe.objective)
        self.is_finite = np.asarray(is_finite, bool)
        check_training_is_known(settings.metrics, is_ours)
        stacked = jax.tree.map(np.asarray, variables)
        self.arrays = Arrays(recipe.model, cohort, stacked, settings.seed, model, dtype)
        self.counts = self.arrays.counts
        arrays = arrays_of(data, dtype)
        shapes = measures.Data(*shapes_in(arrays, dtype))
        examples = jax.tree.map(lambda a: jax.ShapeDtypeStruct((2, *a.shape[1:]), a.dtype), shapes[:2])
        check_kernels(model, settings, examples, self.objective)
        begin = time.perf_counter()
        if is_ours:  # compiles what it runs on eight images
            good = (self.arrays.network(row) for row, is_good in enumerate(self.is_finite) if is_good)
            check_networks(model, good, arrays[0])
        checking = time.perf_counter() - begin
        held = num_bytes(arrays)  # by every device; at most half of the memory
        devices, left = devices_for(budget, held)
        self.mesh = Mesh(np.array(devices), (AXIS,))
        whole = NamedSharding(self.mesh, PartitionSpec())
        self.data = measures.Data(*(jax.device_put(array, whole) for array in arrays))
        begin = time.perf_counter()
        platform = devices[0].platform
        self.trained = TrainedAs.of(recipe, cohort, dtype, platform, self.objective) if is_ours else None
        self.choices = choose(self.model, shapes, settings, left, platform, self.objective, self.trained)
        training = (cohort.batch_size, cohort.train_epochs) if is_ours else (1, 0)
        num_validation = len(self.data.y_validation)
        flops = float(count_flops(self.model, one_row(shapes.x_train), dtype))
        self.cost = MeasureCost(settings, flops, len(data.y_test), *training, num_validation)
        can_align = has_permutations(recipe.model)
        self.kernels = [k for k in stages(settings.metrics) if can_align or "permutations" not in k.needs]
        self.results: dict[str, dict[str, np.ndarray]] = {}
        self.num_done: dict[str, int] = {}
        self.resume: dict[str, np.ndarray] = {}
        self.curves: Curves | None = None
        self.devices = {"budget": budget, "number": len(devices), "are_cpus": int(devices[0].platform == "cpu")}
        self.num_compilations, self.compile_seconds = 0, checking + time.perf_counter() - begin
        # The largest subsets first, so that the networks of a chunk take equally long.
        self.rows = [int(row) for row in np.argsort(-self.counts, kind="stable") if self.is_finite[row]]
        self.configurations = self._rows_by_configuration()
        self.all_pairs = self._pairs("all")
        self.pairs = self._pairs(settings.pairs)
        self.known = Known(known, cohort)
        self.left: dict[str, list[int]] = {}

    def decided(self) -> dict[str, Any]:
        """Return how the cohort is measured, and on what that was decided, as plain values."""
        return {"choices": self.choices._asdict(), "devices": dict(self.devices)}

    def adopt(self, recorded: Mapping[str, Any]) -> None:
        """Take what was decided when the cohort was begun, on the same devices and with at most twice the memory."""
        devices, chosen = dict(recorded.get("devices", {})), recorded.get("choices", {})
        budget = devices.pop("budget", 0)
        here = {name: value for name, value in self.devices.items() if name != "budget"}
        is_same = devices == here and self.devices["budget"] >= budget / 2
        if is_same and set(chosen) == set(self.choices._fields):
            self.choices = self.choices._make(chosen[name] for name in self.choices._fields)

    def take_up(self, saved: Mapping[str, np.ndarray]) -> None:
        """Go on from a snapshot, with what was decided then."""
        self.resume = dict(saved)
        kinds = {name: type(value) for name, value in self.choices._asdict().items()}
        found = {name: self.resume.pop(f"choices/{name}", None) for name in kinds}
        chosen = {name: kinds[name](value) for name, value in found.items() if value is not None}
        self.adopt({"choices": chosen, "devices": {n: int(self.resume.pop(f"devices/{n}", 0)) for n in self.devices}})

    def _rows_by_configuration(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for row, member in enumerate(self.cohort.members):
            found.setdefault(member.index, []).append(row)
        return found

    def _pairs(self, which: str) -> list[tuple[int, int]]:
        pairs = [
            (rows[a], rows[b])
            for rows in self.configurations.values()
            for a, b in chosen_pairs([self.is_finite[row] for row in rows], which)
        ]
        return sorted(pairs, key=lambda pair: -self.counts[pair[0]])

    # What runs

    def measure(self, after_chunk: Callable[[str], None]) -> None:
        """Run every stage from where it stands."""
        for kernel in self.kernels:
            self._run(kernel, self.pairs if kernel.is_of_pairs else self.rows, after_chunk)

    def _run(self, kernel: Kernel, items: Sequence[Any], after_chunk: Callable[[str], None]) -> None:
        stage, lanes, options = kernel.name, self.choices.lanes, self.choices.options(kernel.program)
        if self.trained is not None:
            options |= self.trained.options(kernel.program)
            lanes = max(lanes, self.trained.lanes(kernel.program))
        is_long = binding_of(kernel.program).make_parts is not None and takes_long(self.cost)
        # No device and no lane that only repeats an item: the cores that are left help with the products.
        mesh = self.mesh if len(items) >= self.mesh.size else Mesh(self.mesh.devices[: max(1, len(items))], (AXIS,))
        left = self._left(kernel)
        lanes = min(lanes, max(1, -(-len(left) // mesh.size)))
        size = lanes * mesh.size
        program = program_of(
            kernel.program, self.model, self.settings, mesh, lanes, tuple(options.items()), self.objective
        )
        split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((AXIS,), ()))
        data = self.data if mesh is self.mesh else jax.device_put(self.data, whole)
        self._restore(stage, len(items))
        if len(left) < len(items):
            arguments = jax.device_put(self.arrays.of(kernel, [items[0]] * size), split), data
            like, layers = program.results(*arguments), layer_names(self.arrays.variables["params"])
            left = self.left[stage] = self.known.take(kernel, items, left, like, layers, self.results[stage])
        for start in range(self.num_done[stage], len(left), size):
            places = left[start : start + size]
            chunk = [items[place] for place in places]
            padded = chunk + [chunk[-1]] * (size - len(chunk))
            begin, compiling = time.perf_counter(), self.compile_seconds
            arguments = jax.device_put(self.arrays.of(kernel, padded), split), data
            if is_long:
                results = self._in_blocks(stage, arguments, mesh, lanes, len(chunk), after_chunk)
            else:
                results = self._call(program, *arguments)
            found = {name: np.asarray(value) for name, value in results.items()}
            seconds = time.perf_counter() - begin - (self.compile_seconds - compiling)
            seconds = seconds if self.curves is None else self.curves.seconds
            found["seconds"] = np.full(size, seconds / len(chunk))
            for name, value in found.items():
                kept = self.results[stage].setdefault(name, empty_results(name, len(items), value))
                kept[places] = value[: len(chunk)]
            self.num_done[stage] = start + len(chunk)
            self.curves = None
            after_chunk(stage)

    def _left(self, kernel: Kernel) -> list[int]:
        """Return the places, among the items of a kernel, of those that it is to be run for."""
        if kernel.name not in self.left:
            items = self.pairs if kernel.is_of_pairs else self.rows
            groups = self.configurations.values() if kernel.compares else ()
            self.left[kernel.name] = self.known.left(kernel.name, items, groups)
        return self.left[kernel.name]

    def _in_blocks(
        self,
        stage: str,
        arguments: tuple[Any, Any],
        mesh: Mesh,
        lanes: int,
        num_curves: int,
        after_chunk: Callable[[str], None],
    ) -> measures.Results:
        names = [f"{stage} {part}" for part in measures.CurveParts._fields]
        programs = [program_of(name, self.model, self.settings, mesh, lanes, (), self.objective) for name in names]
        saved = [self.resume.pop(name) for name in sorted(self.resume) if name.startswith("curves/")]
        spent = float(self.resume.pop("curve_seconds", 0.0))

        def call(program: Program, *arrays: Any) -> Any:
            nonlocal spent
            begin, compiling = time.perf_counter(), self.compile_seconds
            found = jax.block_until_ready(self._call(program, *arrays))
            spent += time.perf_counter() - begin - (self.compile_seconds - compiling)
            return found

        def after_block(state: Any, fraction: float) -> None:
            self.curves = Curves(state, num_curves, fraction, spent)
            after_chunk(stage)

        start, advance, finish = (functools.partial(call, program) for program in programs)
        split = NamedSharding(mesh, PartitionSpec(AXIS))
        found = curves_in_blocks(start, advance, finish, *arguments, self.cost, saved, split, after_block)
        self.curves = Curves(None, num_curves, 1.0, spent)
        return found

    def _call(self, program: Program, *arguments: Any) -> Any:
        """Run a program, its compilation counted if there was one."""
        before = program.num_compilations, program.compile_seconds
        executable = program.prepare(*arguments)
        self.num_compilations += program.num_compilations - before[0]
        self.compile_seconds += program.compile_seconds - before[1]
        return executable(*arguments)

    def _restore(self, stage: str, num_items: int) -> None:
        prefix = f"{stage}/"
        saved = {name.removeprefix(prefix): np.array(a) for name, a in self.resume.items() if name.startswith(prefix)}
        self.num_done[stage] = int(saved.pop("num_done", 0))
        if any(len(array) != num_items for array in saved.values()):
            raise StaleState(f"the saved measurements are not of cohort {self.cohort.key} with these settings")
        self.results[stage] = saved

    def snapshot(self) -> dict[str, np.ndarray]:
        """Return what is measured so far, as a flat dictionary of arrays."""
        arrays = {f"{s}/{name}": array for s, found in self.results.items() for name, array in found.items()}
        arrays |= {f"{stage}/num_done": np.asarray(done) for stage, done in self.num_done.items()}
        arrays |= {f"choices/{name}": np.asarray(value) for name, value in self.choices._asdict().items()}
        arrays |= {f"devices/{name}": np.asarray(value) for name, value in self.devices.items()}
        if self.curves is not None:
            arrays |= self.curves.snapshot()
        return arrays

    def fraction_done(self) -> float:
        """Return the share of the work that is done, by the estimate of its operations."""
        networks = [float(self.counts[row]) for row in self.rows]
        pairs = [float(self.counts[row]) for row, _ in self.pairs]
        total = done = 0.0
        for kernel in self.kernels:
            counts = pairs if kernel.is_of_pairs else networks
            flops = np.array([self.cost.flops(kernel.name, counts[place]) for place in self._left(kernel)])
            finished = self.num_done.get(kernel.name, 0)
            total += flops.sum()
            done += flops[:finished].sum()
            if self.curves is not None and binding_of(kernel.program).make_parts is not None:
                done += self.curves.fraction * flops[finished : finished + self.curves.num_curves].sum()
        return done / max(total, 1.0)

    # The tables

    def tables(self) -> MeasuredCohort:
        """Return everything measured, in the order of the cohort."""
        compared: dict[str, np.ndarray] = {}
        for kernel in self.kernels:
            if kernel.compares:
                compared |= self._compare(kernel)  # adds to its seconds
        pairs = self.all_pairs if any("pair" in kernel.needs for kernel in self.kernels) else []
        of_layers = next((found for found in self.results.values() if "layer_traces" in found), None)
        measured = self.cohort, self.results, self.cost, self.counts
        return MeasuredCohort(
            members=member_table(*measured, self.rows),
            pairs=pair_table(*measured, pairs, self.pairs if pairs else [], compared),
            layers=layer_table(self.cohort, self.rows, self.arrays.variables["params"], of_layers),
            num_compilations=self.num_compilations,
            compile_seconds=self.compile_seconds,
            choices=self.choices._asdict(),
        )

    def _compare(self, kernel: Kernel) -> dict[str, np.ndarray]:
        """Return the results of a kernel that compares for every pair of finite networks, in order of `all_pairs`."""
        found: dict[str, np.ndarray] = {}
        if not self.all_pairs:
            return found
        begin, compiling = time.perf_counter(), self.compile_seconds
        program, stage = comparison_program(kernel.name, self.settings, self.objective), self.results[kernel.name]
        place = {row: index for index, row in enumerate(self.rows)}
        position = {pair: index for index, pair in enumerate(self.all_pairs)}
        left = set(self._left(kernel))
        for rows in self.configurations.values():
            if not any((a, b) in position for a in rows for b in rows):
                continue
            # Diverged networks take part with whatever they hold, so that the shapes are always the same.
            at = [place.get(row, 0) for row in rows]
            outputs = [stage[side][at].astype(self.dtype) if side in stage else None for side in ("logits", "features")]
            arguments = *outputs, self.arrays.networks(rows)["params"]
            if not any(place.get(row) in left for row in rows):  # all of this configuration is known, but for the names
                for column in program.results(*arguments):
                    found.setdefault(column, np.full(len(self.all_pairs), np.nan))
                continue
            for column, matrix in self._call(program, *arguments).items():
                values = found.setdefault(column, np.full(len(self.all_pairs), np.nan))
                for a, first in enumerate(rows):
                    for b, second in enumerate(rows):
                        if (first, second) in position:
                            values[position[first, second]] = matrix[a, b]
        seconds = time.perf_counter() - begin - (self.compile_seconds - compiling)
        stage["seconds"][sorted(left)] += seconds / max(1, len(left))
        self.known.put_compared(kernel.name, self.all_pairs, found)
        return found
