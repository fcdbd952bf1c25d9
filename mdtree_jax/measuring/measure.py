"""Measures the landscape of a trained cohort: every kernel over all its networks and pairs, in resumable chunks. JAX.

A network's numbers depend on its own seed and subset, not on who shares its cohort. Networks that diverged are left out
and stay NaN. Seconds are shares of the wall time of a chunk, without compilation.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mdtree_jax import landscape
from mdtree_jax.checks import StaleState
from mdtree_jax.measuring import kernels as measures
from mdtree_jax.measuring.cost import MeasureCost
from mdtree_jax.measuring.curves import Curves, curves_in_blocks, takes_long
from mdtree_jax.measuring.known import Known
from mdtree_jax.measuring.programs import Program, check_networks, choose, program_of, similarities_program
from mdtree_jax.measuring.tables import layer_names, layer_table, member_table, pair_table
from mdtree_jax.models import Model, build_model, count_flops, has_permutations, permutation_spec
from mdtree_jax.population.loop import AXIS
from mdtree_jax.recipe.cohort import Cohort, Recipe
from mdtree_jax.recipe.measure_settings import PAIR_METRICS, MeasureSettings, chosen_pairs
from mdtree_jax.store.tables import Measured

_OF_PAIRS = ("barrier", "aligned", "connectivity")


class MeasuredCohort(NamedTuple):
    """What was measured, as tables.

    Attributes:
        members: one row per network: configuration, seed, metrics of one network, their costs.
        pairs: one row per pair of finite networks of a configuration: configuration, seed_a, seed_b, metrics of two,
            their costs; NaN where a curve or line was not measured for the pair.
        layers: one row per network and parameter array: configuration, seed, layer, hessian_trace and its standard
            error.
        num_compilations: of programs in this call.
        compile_seconds: for them, or to fetch them from the persistent cache.
        choices: what was decided by memory, for the record.
    """

    members: pd.DataFrame
    pairs: pd.DataFrame
    layers: pd.DataFrame
    num_compilations: int
    compile_seconds: float
    choices: dict[str, Any]


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
        checkpoint: called with what is measured so far, a flat dictionary of arrays, after `checkpoint_seconds` each.
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
    run = _Measurement(recipe, cohort, data, variables, is_finite, settings, memory_budget_bytes, dtype, model, known)
    run.adopt(recorded or {})
    run.take_up(resume or {})
    if record is not None:
        record(run.decided())
    last = [time.perf_counter()]

    def after_chunk(message: str) -> None:
        if progress is not None:
            progress(run.fraction_done(), f"{cohort.key}: {message}")
        if checkpoint is not None and time.perf_counter() - last[0] >= checkpoint_seconds:
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
        shape = tuple(recipe.image_shape)
        is_ours = model is None
        model = build_model(recipe.model, cohort.width, recipe.num_classes, shape, dtype) if is_ours else model
        measures.check_features(model, settings, shape, dtype)
        self.model = model
        self.variables = jax.tree.map(np.asarray, variables)
        self.is_finite = np.asarray(is_finite, bool)
        self.counts = np.array([member.num_samples for member in cohort.members], np.int32)
        kinds = ((data.x_train, dtype), (data.y_train, np.int32), (data.x_test, dtype), (data.y_test, np.int32))
        arrays = [np.asarray(array, kind) for array, kind in kinds]
        begin = time.perf_counter()
        if is_ours:  # compiles what it runs on eight images
            good = (self._network(row) for row, is_good in enumerate(self.is_finite) if is_good)
            check_networks(model, good, arrays[0])
        checking = time.perf_counter() - begin
        held = sum(array.nbytes for array in arrays)  # by every device; at most half of the memory
        devices = jax.devices()[: max(1, budget // (2 * held))]
        self.mesh = Mesh(np.array(devices), (AXIS,))
        whole = NamedSharding(self.mesh, PartitionSpec())
        self.data = measures.Data(*(jax.device_put(array, whole) for array in arrays))
        shapes = measures.Data(*(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in self.data))
        begin = time.perf_counter()
        self.choices = choose(self.model, shapes, settings, budget // len(devices) - held, devices[0].platform)
        self.cost = MeasureCost(settings, float(count_flops(self.model, shape, dtype)), len(data.y_test))
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

    def _takes_pairs(self) -> list[str]:
        return [metric for metric in self.settings.metrics if metric in PAIR_METRICS]

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
        metrics, networks = self.settings.metrics, self.rows
        chosen, lanes = self.choices, self.choices.lanes
        if "hessian" in metrics:
            options = {"use_xtrace": chosen.use_xtrace, "batched": chosen.batched}
            options["batch_size"] = chosen.hessian_batch_size
            self._run("hessian", networks, self._network_items, lanes, options, after_chunk)
        if "sharpness" in metrics:
            options = {"batch_size": chosen.sharpness_batch_size}
            self._run("sharpness", networks, self._network_items, lanes, options, after_chunk)
        if "similarity" in metrics:
            options = {"batch_size": chosen.similarity_batch_size}
            self._run("similarity", networks, self._similarity_items, lanes, options, after_chunk)
        if "barrier" in metrics:
            self._run("barrier", self.pairs, self._pair_items, lanes, {}, after_chunk)
            if has_permutations(self.recipe.model):
                self._run("aligned", self.pairs, self._aligned_items, lanes, {}, after_chunk)
        if "connectivity" in metrics:
            self._run("connectivity", self.pairs, self._pair_items, lanes, {}, after_chunk)

    def _run(
        self,
        stage: str,
        items: Sequence[Any],
        make_items: Callable[[Sequence[Any]], Any],
        lanes: int,
        options: dict[str, Any],
        after_chunk: Callable[[str], None],
    ) -> None:
        # No device and no lane that only repeats an item: the cores that are left help with the products.
        mesh = self.mesh if len(items) >= self.mesh.size else Mesh(self.mesh.devices[: max(1, len(items))], (AXIS,))
        left = self._left(stage)
        lanes = min(lanes, max(1, -(-len(left) // mesh.size)))
        size = lanes * mesh.size
        made = "barrier" if stage == "aligned" else stage  # the same of other networks
        program = program_of(made, self.model, self.settings, mesh, lanes, tuple(options.items()))
        split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((AXIS,), ()))
        data = self.data if mesh is self.mesh else jax.device_put(self.data, whole)
        self._restore(stage, len(items))
        if len(left) < len(items):
            arguments = jax.device_put(make_items([items[0]] * size), split), data
            left = self._take_known(stage, items, left, program.results(*arguments))
        for start in range(self.num_done[stage], len(left), size):
            places = left[start : start + size]
            chunk = [items[place] for place in places]
            padded = chunk + [chunk[-1]] * (size - len(chunk))
            begin, compiling = time.perf_counter(), self.compile_seconds
            arguments = jax.device_put(make_items(padded), split), data
            if stage == "connectivity" and takes_long(self.cost):
                results = self._curves_in_blocks(arguments, mesh, lanes, len(chunk), after_chunk)
            else:
                results = self._call(program, *arguments)
            found = {name: np.asarray(value) for name, value in results.items()}
            seconds = time.perf_counter() - begin - (self.compile_seconds - compiling)
            seconds = seconds if self.curves is None else self.curves.seconds
            found["seconds"] = np.full(size, seconds / len(chunk))
            for name, value in found.items():
                # Features can be many; everything else is a table's.
                kind = value.dtype if name == "features" else float
                kept = self.results[stage].setdefault(name, np.full((len(items), *value.shape[1:]), np.nan, kind))
                kept[places] = value[: len(chunk)]
            self.num_done[stage] = start + len(chunk)
            self.curves = None
            after_chunk(stage)

    def _left(self, stage: str) -> list[int]:
        """Return the places, among the items of a stage, of those that it was not run for before."""
        if stage not in self.left:
            if stage == "similarity":  # the outputs of all networks that a new one is compared with
                has = {row: self.known.has(stage, row) for row in self.rows}
                grown = [rows for rows in self.configurations.values() if not all(has.get(row, True) for row in rows)]
                rows = {row for group in grown for row in group}
                self.left[stage] = [place for place, row in enumerate(self.rows) if row in rows]
            else:
                items = self.pairs if stage in _OF_PAIRS else self.rows
                self.left[stage] = [place for place, item in enumerate(items) if not self.known.has(stage, item)]
        return self.left[stage]

    def _take_known(
        self, stage: str, items: Sequence[Any], left: list[int], shapes: Mapping[str, jax.ShapeDtypeStruct]
    ) -> list[int]:
        """Fill in what is known of the items that are not left, and return which are left: all if a result is new."""
        places = sorted({*range(len(items))} - {*left})
        prefix, layers = "aligned_" if stage == "aligned" else "", layer_names(self.variables["params"])
        names = {**shapes, "seconds": np.zeros(len(items))}
        found = self.known.values(stage, prefix, names, [items[place] for place in places], layers)
        if found is None:
            self.left[stage] = list(range(len(items)))
            return self.left[stage]
        for name, shape in names.items():
            kind = shape.dtype if name == "features" else float
            kept = self.results[stage].setdefault(name, np.full((len(items), *shape.shape[1:]), np.nan, kind))
            if name in found:
                kept[places] = found[name]
        return left

    def _curves_in_blocks(
        self, arguments: tuple[Any, Any], mesh: Mesh, lanes: int, num_curves: int, after_chunk: Callable[[str], None]
    ) -> measures.Results:
        names = [f"curve {part}" for part in measures.CurveParts._fields]
        programs = [program_of(name, self.model, self.settings, mesh, lanes, ()) for name in names]
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
            after_chunk("connectivity")

        calls = [functools.partial(call, program) for program in programs]
        split = NamedSharding(mesh, PartitionSpec(AXIS))
        found = curves_in_blocks(*calls, *arguments, self.cost, saved, split, after_block)
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
        for metric in self.settings.metrics:
            for stage in ("barrier", "aligned") if metric == "barrier" else (metric,):
                counts = pairs if metric in ("barrier", "connectivity") else networks
                flops = np.array([self.cost.flops(metric, counts[place]) for place in self._left(stage)])
                finished = self.num_done.get(stage, 0)
                total += flops.sum()
                done += flops[:finished].sum()
                if stage == "connectivity" and self.curves is not None:
                    done += self.curves.fraction * flops[finished : finished + self.curves.count].sum()
        return done / max(total, 1.0)

    # The arrays of a chunk

    def _network(self, row: int) -> Any:
        return jax.tree.map(lambda leaf: leaf[row], self.variables)

    def _networks(self, rows: Sequence[int]) -> Any:
        return jax.tree.map(lambda leaf: leaf[np.asarray(rows)], self.variables)

    def _network_items(self, rows: Sequence[int]) -> measures.NetworkItem:
        seeds = [self.cohort.members[row].seed for row in rows]
        counts = self.counts[np.asarray(rows)]
        keys = [measures.measure_key(self.settings.seed, 0, seed, n) for seed, n in zip(seeds, counts, strict=True)]
        return measures.NetworkItem(self._networks(rows), counts, np.stack(keys))

    def _similarity_items(self, rows: Sequence[int]) -> measures.NetworkItem:
        counts = self.counts[np.asarray(rows)]
        keys = [measures.measure_key(self.settings.seed, 1, n) for n in counts]  # the same images for all seeds
        return measures.NetworkItem(self._networks(rows), counts, np.stack(keys))

    def _pair_items(self, pairs: Sequence[tuple[int, int]]) -> measures.PairItem:
        first, second = (list(rows) for rows in zip(*pairs, strict=True))
        seeds = [[self.cohort.members[row].seed for row in pair] for pair in pairs]
        counts = self.counts[np.asarray(first)]
        keys = [measures.measure_key(self.settings.seed, 2, *two, n) for two, n in zip(seeds, counts, strict=True)]
        return measures.PairItem(self._networks(first), self._networks(second), counts, np.stack(keys))

    def _aligned_items(self, pairs: Sequence[tuple[int, int]]) -> measures.PairItem:
        items = self._pair_items(pairs)
        aligned = []
        for first, second in pairs:
            reference, network = self._network(first), self._network(second)
            aligned.append(landscape.align(permutation_spec(self.recipe.model, network), reference, network))
        return items._replace(second=jax.tree.map(lambda *leaves: np.stack(leaves), *aligned))

    # The tables

    def tables(self) -> MeasuredCohort:
        """Return everything measured, in the order of the cohort."""
        compared = self._similarities() if "similarity" in self.settings.metrics else {}  # adds to the seconds
        pairs = self.all_pairs if self._takes_pairs() else []
        measured = self.cohort, self.results, self.cost, self.counts
        return MeasuredCohort(
            members=member_table(*measured, self.rows),
            pairs=pair_table(*measured, pairs, self.pairs if pairs else [], compared),
            layers=layer_table(self.cohort, self.rows, self.variables["params"], self.results.get("hessian")),
            num_compilations=self.num_compilations,
            compile_seconds=self.compile_seconds,
            choices=self.choices._asdict(),
        )

    def _similarities(self) -> dict[str, np.ndarray]:
        """Return CKA, agreement and distance of every pair of finite networks, in the order of `all_pairs`."""
        found: dict[str, np.ndarray] = {}
        if not self.all_pairs:
            return found
        begin, compiling = time.perf_counter(), self.compile_seconds
        program, stage = similarities_program(self.settings), self.results["similarity"]
        place = {row: index for index, row in enumerate(self.rows)}
        position = {pair: index for index, pair in enumerate(self.all_pairs)}
        left = set(self._left("similarity"))
        for rows in self.configurations.values():
            if not any((a, b) in position for a in rows for b in rows):
                continue
            # Diverged networks take part with whatever they hold, so that the shapes are always the same.
            at = [place.get(row, 0) for row in rows]
            outputs = [stage[name][at].astype(self.dtype) if name in stage else None for name in ("logits", "features")]
            arguments = *outputs, self._networks(rows)["params"]
            if not any(place.get(row) in left for row in rows):
                matrices = program.results(*arguments)  # all is known, but for its names
                for name in matrices:
                    found.setdefault(name, np.full(len(self.all_pairs), np.nan))
                continue
            matrices = self._call(program, *arguments)
            for name, matrix in matrices.items():
                values = found.setdefault(name, np.full(len(self.all_pairs), np.nan))
                for a, first in enumerate(rows):
                    for b, second in enumerate(rows):
                        if (first, second) in position:
                            values[position[first, second]] = matrix[a, b]
        seconds = time.perf_counter() - begin - (self.compile_seconds - compiling)
        self.results["similarity"]["seconds"][sorted(left)] += seconds / max(1, len(left))
        self._put_known_comparisons(found)
        return found

    def _put_known_comparisons(self, compared: dict[str, np.ndarray]) -> None:
        """Put comparisons of two networks that were compared before in the place of what they came out as now."""
        is_old = {row: self.known.has("similarity", row) for row in self.rows}
        places = [place for place, (a, b) in enumerate(self.all_pairs) if is_old[a] and is_old[b]]
        for name, values in compared.items() if places else ():
            earlier = self.known.column(name, [self.all_pairs[place] for place in places])
            if earlier is not None:
                values[places] = earlier
