"""The one program of a subject's experiments: outcomes, norms and probes of a network. JAX."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mdtree_jax.checks import UserError
from mdtree_jax.measuring.kernels import Data
from mdtree_jax.measuring.trained import TrainedItem, make_norms, make_probing
from mdtree_jax.probes.steps import LEAST_WARM_UP, WARM_UP_SHARE
from mdtree_jax.recipe.measure_settings import MeasureConfig, MeasureSettings, resolve
from mdtree_jax.registry.probes import CHECKPOINT, PROBES, REFRESHED
from mdtree_jax.subject.experiments.spending import Spending
from mdtree_jax.subject.experiments.trained_as import TrainedAs
from mdtree_jax.subject.network import Examples, Subject
from mdtree_jax.training import objective_functions
from mdtree_jax.training.arrays import take_rows

#: Columns of norms that need some network of before training, and that need the very one.
_OF_INITIAL, _OF_OWN_INITIAL = ("weight_norm_initial", "weight_growth", "layer_growth"), ("distance_from_initial",)
_SEED = 0


class Seen(NamedTuple):
    """What was seen of one network, on the host.

    Attributes:
        row: columns named as in a sweep's table of networks.
        variables: of the networks that the probes ended with, stacked in the order of `probes.run.order_of`.
        errors: of these on every validation example, (networks, examples); of the training examples without any.
    """

    row: dict[str, float]
    variables: Any
    errors: np.ndarray


def as_sides(data: Examples) -> Data:
    """Return data as kernels take them; a side that is missing is one training example, which tells nothing."""
    one = take_rows((data.x_train, data.y_train), slice(1))
    x_test, y_test = (data.x_test, data.y_test) if len(data.y_test) else one
    whole = Data(data.x_train, data.y_train, x_test, y_test)
    if len(data.y_validation):
        whole = whole._replace(x_validation=data.x_validation, y_validation=data.y_validation)
    return whole


def bytes_of(compiled: Any) -> int:
    """Return what a compiled program takes of the device, what it is given included; 0 if the compiler does not say."""
    taken = compiled.memory_analysis()
    if taken is None:
        return 0
    return taken.temp_size_in_bytes + taken.argument_size_in_bytes + taken.output_size_in_bytes


def price_of(names: Sequence[str], trained: TrainedAs, is_warm: bool = False) -> float:
    """Return what the probes of one network cost, in units of one training."""
    if not names:
        return 0.0
    warming = 0.0 if is_warm else max(WARM_UP_SHARE, LEAST_WARM_UP / trained.num_steps)
    return sum(PROBES[name].share for name in names) + warming


class Probing:
    """The program, compiled at its first call.

    Args:
        subject: its networks.
        data: of `as_sides`; it goes to the device at the first call.
        has_test: whether the test side tells anything.
        trained: how its networks were trained.
        names: probes that it runs.
        initial: the variables that each network started from; None where they are not known.

    Attributes:
        compile_seconds: of the program.
        seconds: of each call.
    """

    def __init__(
        self,
        subject: Subject,
        data: Data,
        has_test: bool,
        trained: TrainedAs,
        names: tuple[str, ...],
        initial: Sequence[Any] | None,
    ):
        self.subject, self.data, self.trained, self.names, self.initial = subject, data, trained, names, initial
        self.sides = ("train", *(["validation"] if data.has_validation else []), *(["test"] if has_test else []))
        self.compile_seconds, self._program, self._fresh = 0.0, None, None
        if initial is None and subject.init is not None:
            self._fresh = subject.init(jax.random.key(_SEED))
            _check_like(self._fresh, subject.variables[0])

    @functools.cached_property
    def on_device(self) -> Data:
        """The data on the device."""
        return jax.tree.map(jnp.asarray, self.data)

    def memory_bytes(self, opt_state: Any) -> int:
        """Return what the program takes of the device; it is compiled for that."""
        return bytes_of(self._compiled(self._item(0, opt_state, self.trained)))

    def __call__(self, place: int, opt_state: Any, spending: Spending) -> Seen:
        """Return what is seen of a network; the steps are counted."""
        item = self._item(place, opt_state, self.trained)
        program = self._compiled(item)
        data = self.on_device
        begin = time.perf_counter()
        results, variables, errors = jax.device_get(program(item, data))
        share = int(results["probes_steps"]) / self.trained.num_steps
        spending.spend(share)
        spending.learn(time.perf_counter() - begin, share)
        return Seen(self._row({name: float(value) for name, value in results.items()}), variables, errors)

    def try_price(self, opt_state: Any, spending: Spending) -> None:
        """Learn what a training takes from the fewest steps of every probe, at most; they are counted."""
        hparams = self.trained.hparams._replace(num_samples=np.asarray(self.trained.settings.batch_size, np.int32))
        item = self._item(0, opt_state, self.trained._replace(hparams=hparams, num_epochs=np.int32(1)))
        program = self._compiled(item)
        data = self.on_device
        begin = time.perf_counter()
        steps = int(jax.device_get(program(item, data))[0]["probes_steps"])
        share = steps / self.trained.num_steps
        spending.spend(share)
        spending.learn(time.perf_counter() - begin, share)

    def _item(self, place: int, opt_state: Any, trained: TrainedAs) -> TrainedItem:
        own = self.subject.variables[place]
        start = self.initial[place] if self.initial is not None else own if self._fresh is None else self._fresh
        num = np.int32(len(self.data.y_train))
        return TrainedItem(own, num, trained.hparams.key, start, trained.hparams, trained.num_epochs, opt_state)

    def _compiled(self, item: TrainedItem) -> Any:
        if self._program is None:
            model, functions = self.trained.model, objective_functions(self.subject.objective)
            settings = _settings(self.names, len(self.data.y_train))
            arguments = model, settings, functions, self.trained.settings, self.trained.side_by_side
            norms, probing = make_norms(*arguments), make_probing(*arguments)

            def look(item: TrainedItem, data: Data) -> Any:
                found = probing(item, data)
                side = "validation" if data.has_validation else "train"
                return norms(item, data) | found.results, found.variables, found.outcomes[side].error

            begin = time.perf_counter()
            self._program = jax.jit(look).lower(item, self.data).compile()
            self.compile_seconds += time.perf_counter() - begin
        return self._program

    def _row(self, results: dict[str, float]) -> dict[str, float]:
        """Return the columns that tell something, errors and losses under the names of a sweep's table too."""
        unknown = () if self.initial is not None else _OF_OWN_INITIAL
        unknown += () if self.initial is not None or self._fresh is not None else _OF_INITIAL
        missing = [f"_{side}_" for side in ("validation", "test") if side not in self.sides]
        row = {
            name: value
            for name, value in results.items()
            if name not in unknown and not any(part in name for part in missing)
        }
        for side in self.sides:
            row |= {f"{side}_{kind}": row[f"{CHECKPOINT}_{side}_{kind}"] for kind in ("error", "loss")}
        return row


def _check_like(fresh: Any, own: Any) -> None:
    """Raise `UserError` for fresh variables that are not of the networks' shapes."""
    found, wanted = ({k: np.shape(a) for k, a in jax.tree_util.tree_leaves_with_path(tree)} for tree in (fresh, own))
    if found != wanted:
        raise UserError("init(key) gives variables of other names or shapes than the networks have; they must be alike")


def _settings(names: Sequence[str], num_train: int) -> MeasureSettings:
    config = MeasureConfig(metrics=["norms", "probes"], probes=[REFRESHED, *names])
    config.hessian_images = min(config.hessian_images, num_train)
    config.statistics_batch_size = min(config.statistics_batch_size, num_train)
    return resolve(config)
