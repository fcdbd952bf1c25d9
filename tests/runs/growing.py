"""Grids that grow, with a trainer and a measurer that count what they do.

All numbers follow from what a network is (its values and seed), so that a run in steps must end with the tables of a
run of the larger grid, wherever its networks stand in either.
"""

import dataclasses
import io
import types

import numpy as np
import pandas as pd
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from rich.console import Console

from mdtree_jax.provenance import describe_session
from mdtree_jax.recipe.axes import Grid, make_cohorts
from mdtree_jax.recipe.measure_settings import chosen_pairs
from mdtree_jax.recipe.schema import grid_schema, resolved_config
from mdtree_jax.runs.monitor import Monitor
from mdtree_jax.runs.run import Measurer, run_sweep
from mdtree_jax.store.folder import RunFolder
from tests.fake_training import RECIPE, trainer

SESSION = describe_session(["cpu"])
METRICS = ("hessian", "sharpness", "similarity", "connectivity")
NUM_TRAIN = 200
VALUES = {
    "width": (2, 4, 8),
    "batch_size": (16,),
    "data_fraction": (0.5, 1.0),
    "learning_rate": (0.05, 0.1, 0.2),
    "train_epochs": (3,),
    "label_smoothing": (0.0, 0.1),
    "optimizer": ("sgd", "adamw"),
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """A grid to run: values of axes, seeds, metrics, pairs; `diverging` says which networks diverge."""

    axes: tuple[tuple[str, tuple], ...]
    num_seeds: int
    seed: int = 0
    metrics: tuple[str, ...] = METRICS
    pairs: str = "ring"
    diverging: int = 0

    @property
    def config(self):
        values = {name: list(values) for name, values in self.axes}
        return resolved_config(grid_schema()(name="any", num_seeds=self.num_seeds, seed=self.seed, **values))

    @property
    def cohorts(self):
        return make_cohorts(Grid(**dict(self.axes), num_seeds=self.num_seeds, seed=self.seed), NUM_TRAIN)

    @property
    def measure(self):
        return {"metrics": [metric for metric in METRICS if metric in self.metrics], "pairs": self.pairs, "seed": 0}


def plan(num_seeds=2, **options):
    axes = {"width": (2, 4), "batch_size": (16,), "data_fraction": (1.0,), "learning_rate": (0.05, 0.1)}
    axes |= {"train_epochs": (3,), **{name: options.pop(name) for name in VALUES if name in options}}
    return Plan(tuple(axes.items()), num_seeds, **options)


def numbers(cohort, member, *more):
    what = (cohort.width, cohort.batch_size, cohort.train_epochs, int(1000 * member.learning_rate), member.num_samples)
    what += (len(cohort.value("optimizer")), int(100 * member.value("label_smoothing")))
    return np.random.default_rng([*what, member.seed, *more]).random(4)


def curves(cohort, shown):
    """Return learning curves of one to three points, by the seed."""
    member, epoch = np.array([(n, e + 1) for n, m in enumerate(cohort.members) for e in range(1 + m.seed % 3)]).T
    found = {"member": member, "epoch": epoch, "step": 7 * epoch, "train_loss": shown[member, 2] / epoch}
    return found | {"validation_loss": shown[member, 3] / epoch, "validation_error": shown[member, 1] / epoch}


def named(cohort, member):
    return cohort.key, member.learning_rate, member.num_samples, member.value("label_smoothing")


class Lab:
    """Trains and measures, and counts; what `fails` raises on is an interruption."""

    def __init__(self, diverging=0):
        self.trained, self.measured, self.diverging = [], [], diverging

    def train(self, recipe, cohort, data, *, executor, progress, checkpoint, resume):
        values = np.array([numbers(cohort, m) for m in cohort.members])
        self.trained += [(*named(cohort, m), m.seed) for m in cohort.members]
        is_finite = np.array([v[3] * 100 >= self.diverging for v in values])
        n, shown = len(values), np.where(is_finite[:, None], values, np.nan)
        progress(1.0, "")
        return types.SimpleNamespace(
            variables={"params": {"w": np.repeat(values[:, :1], cohort.width, 1)}, "batch_stats": {}},
            **{name: shown[:, i] for i, name in enumerate(("train_error", "test_error", "train_loss", "test_loss"))},
            is_finite=is_finite,
            stop_epoch=np.full(n, cohort.train_epochs, np.int32),
            train_seconds=np.zeros(n),
            train_flops=np.full(n, 1e6 * cohort.width),
            useful_step_fraction=1.0,
            validation_loss=shown[:, 3] / 2,
            validation_error=shown[:, 1] / 2,
            history=curves(cohort, shown),
            num_compilations=1,
            compile_seconds=0.5,
        )

    def measure(self, recipe, cohort, data, variables, is_finite, *, progress, recorded, record, known=None, **_):
        record(recorded or {"choices": {"lanes": 1}})
        metrics, which = self.settings["metrics"], self.settings["pairs"]
        w = variables["params"]["w"][:, 0]
        rows = {}
        for row, m in enumerate(cohort.members):
            rows.setdefault(m.index, []).append(row)
        table = pd.DataFrame([{"configuration": m.index, "seed": m.seed} for m in cohort.members])
        for metric in [metric for metric in metrics if metric in ("hessian", "sharpness")]:
            name = {"hessian": "hessian_trace", "sharpness": "ball_sharpness"}[metric]
            old = {} if known is None or name not in known.members else _by_key(known.members, name, "seed")
            table[name] = [
                self.value(metric, cohort, (row,), old, w) if is_finite[row] else np.nan for row in range(len(w))
            ]
            table[f"{metric}_seconds"] = np.where(is_finite, 1.0, np.nan)
        pairs = [
            (group[a], group[b])
            for group in rows.values()
            for a, b in chosen_pairs([is_finite[row] for row in group], "all")
        ]
        chosen = {
            (group[a], group[b])
            for group in rows.values()
            for a, b in chosen_pairs([is_finite[row] for row in group], which)
        }
        ends = [(cohort.members[a], cohort.members[b]) for a, b in pairs]
        of_pairs = {
            "configuration": [a.index for a, _ in ends],
            "seed_a": [a.seed for a, _ in ends],
            "seed_b": [b.seed for _, b in ends],
        }
        table_of_pairs = pd.DataFrame(of_pairs, dtype=np.int64)
        for metric in [metric for metric in metrics if metric in ("similarity", "connectivity")]:
            name = {"similarity": "cka", "connectivity": "mode_connectivity_peak"}[metric]
            old = {} if known is None or name not in known.pairs else _by_key(known.pairs, name, "seed_a", "seed_b")
            table_of_pairs[name] = [
                self.value(metric, cohort, pair, old, w) if metric == "similarity" or pair in chosen else np.nan
                for pair in pairs
            ]
        layers = table[["configuration", "seed"]].assign(layer="w", hessian_trace=w)[np.asarray(is_finite)]
        if known is not None:
            layers = pd.concat([known.layers, layers]).drop_duplicates(["configuration", "seed"])
        progress(1.0, "")
        return types.SimpleNamespace(
            members=table,
            pairs=table_of_pairs,
            layers=layers,
            choices={},
            num_compilations=1,
            compile_seconds=0.5,
        )

    def value(self, metric, cohort, rows, old, w):
        """Return what is known of a network or pair, or measure it of the networks that were handed over."""
        members = [cohort.members[row] for row in rows]
        key = (members[0].index, *(m.seed for m in members))
        if np.isfinite(old.get(key, np.nan)):
            return old[key]
        for row, member in zip(rows, members, strict=True):
            assert w[row] == numbers(cohort, member)[0], "another network than the one asked for"
        self.measured.append((metric, *named(cohort, members[0]), *(m.seed for m in members)))
        return float(w[list(rows)].sum() * (1 + METRICS.index(metric)))

    def run(
        self,
        path,
        wanted,
        *,
        keep="all",
        stages=("train", "measure"),
        choose=lambda *_: {"name": "map"},
        only=None,
        **options,
    ):
        self.settings = wanted.measure
        cohorts, output = wanted.cohorts if only is None else only, io.StringIO()
        members = {c.key: [(m.index, m.seed) for m in c.members] for c in wanted.cohorts}
        with RunFolder(path, wanted.config, members) as folder:
            folder.begin_session(SESSION)
            monitor = Monitor(Console(file=output, width=300), {c.key: 1.0 for c in cohorts}, 0)
            fake = trainer(self.train, choose) if "train" in stages else None
            measurer = Measurer(wanted.measure, self.measure) if "measure" in stages else None
            with monitor:
                run_sweep(RECIPE, cohorts, None, folder, fake, monitor, measurer=measurer, keep=keep, **options)
        return output.getvalue().splitlines()


def _by_key(rows, name, *seeds):
    return dict(zip(rows[["configuration", *seeds]].itertuples(index=False, name=None), rows[name], strict=True))


def tables(path):
    names = ("members", "pairs", "layers", "history", "collection")
    return {name: pd.read_parquet(path / f"{name}.parquet") for name in names}


def assert_same_tables(left, right):
    for (name, one), other in zip(tables(left).items(), tables(right).values(), strict=True):
        pd.testing.assert_frame_equal(one, other, check_exact=True, obj=name)


def draw_subset(draw, values, least):
    """Draw an ordering of some of the values, `least` among them."""
    chosen = [v for v in values if v in least or draw(st.booleans())] or [draw(st.sampled_from(values))]
    return tuple(draw(st.permutations(chosen)))


@st.composite
def growing_plans(draw):
    """Draw two or three plans, each of which extends the one before."""
    steps = draw(st.integers(2, 3))
    pairs, diverging = draw(st.sampled_from(("first", "ring", "all"))), draw(st.sampled_from((0, 0, 30)))
    plans, axes, metrics, first, last = [], dict.fromkeys(VALUES, ()), (), 2, 3
    for _ in range(steps):
        axes = {name: draw_subset(draw, values, axes[name]) for name, values in VALUES.items()}
        metrics = draw_subset(draw, METRICS, metrics)
        first, last = draw(st.integers(max(first - 1, 0), first)), draw(st.integers(last, last + 2))
        plans.append(Plan(tuple(axes.items()), last - first + 1, first, metrics, pairs, diverging))
    return plans


QUICK = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
