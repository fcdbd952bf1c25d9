"""Runs that grow: more seeds, more values, more metrics, with a trainer and a measurer that count what they do.

All numbers follow from what a network is (its values and seed), so that a run in steps must end with the tables of a
run of the larger grid, wherever its networks stand in either.
"""

import contextlib
import dataclasses
import io
import itertools
import json
import pickle
import shutil
import types

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from mdtree_jax import files
from mdtree_jax.checks import UserError
from mdtree_jax.provenance import describe_session
from mdtree_jax.recipe.axes import Grid, make_cohorts
from mdtree_jax.recipe.measure_settings import chosen_pairs
from mdtree_jax.recipe.schema import grid_schema, resolved_config
from mdtree_jax.runs import verify
from mdtree_jax.runs.monitor import Monitor
from mdtree_jax.runs.run import Measurer, run_sweep
from mdtree_jax.store.exchange import export_parts, import_parts
from mdtree_jax.store.folder import RunFolder
from mdtree_jax.store.record import write_record
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

    def run(self, path, wanted, *, keep="all", stages=("train", "measure"), choose=lambda *_: {"name": "map"}):
        self.settings = wanted.measure
        cohorts, output = wanted.cohorts, io.StringIO()
        members = {c.key: [(m.index, m.seed) for m in c.members] for c in cohorts}
        with RunFolder(path, wanted.config, members) as folder:
            folder.begin_session(SESSION)
            monitor = Monitor(Console(file=output, width=300), {c.key: 1.0 for c in cohorts}, 0)
            fake = trainer(self.train, choose) if "train" in stages else None
            measurer = Measurer(wanted.measure, self.measure) if "measure" in stages else None
            with monitor:
                run_sweep(RECIPE, cohorts, None, folder, fake, monitor, measurer=measurer, keep=keep)
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


@pytest.fixture
def pickled(monkeypatch):
    """Have checkpoints pickled, and no file wait for the disk, because both take most of the time."""
    from mdtree_jax.store import checkpoint

    def write(path, tree, about):
        aside = path.with_name(f"{path.name}.orbax-checkpoint-tmp-1")
        for folder in (aside, path):
            shutil.rmtree(folder, ignore_errors=True)
        aside.mkdir(parents=True)
        (aside / "orbax.checkpoint").write_bytes(pickle.dumps((tree, about)))
        files.os.replace(aside, path)

    def read_metadata(path):
        tree, about = pickle.loads((path / "orbax.checkpoint").read_bytes())
        return types.SimpleNamespace(metadata=tree, custom_metadata=about)

    monkeypatch.setattr(files.os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(checkpoint, "_write", write)
    monkeypatch.setattr(checkpoint, "_read_metadata", read_metadata)
    monkeypatch.setattr(checkpoint, "_read", lambda path, tree: tree)


QUICK = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))


@QUICK
@given(plans=growing_plans())
def test_a_run_in_steps_ends_with_the_tables_of_a_fresh_one(pickled, tmp_path_factory, plans):
    path = tmp_path_factory.mktemp("extend")
    lab, fresh = Lab(plans[0].diverging), Lab(plans[0].diverging)
    for wanted in plans:
        lab.run(path / "steps", wanted)
        assert lab.run(path / "steps", wanted) == []  # nothing is left to do
    fresh.run(path / "fresh", plans[-1])
    assert len(set(lab.trained)) == len(lab.trained)
    assert sorted(lab.trained) == sorted(fresh.trained)
    assert len(set(lab.measured)) == len(lab.measured)
    assert set(lab.measured) >= set(fresh.measured)  # and pairs that the larger ring has no more
    assert_same_tables(path / "steps", path / "fresh")


class Killed(Exception):
    """The process ends here."""


@contextlib.contextmanager
def killed_at(monkeypatch, moment):
    """Raise before or after the change of a name on disk with number `moment`."""
    count = itertools.count()

    def fatal(change):
        def wrapper(*arguments, **options):
            if next(count) >= moment:  # and nothing after it happens either
                raise Killed
            result = change(*arguments, **options)
            if next(count) >= moment:
                raise Killed
            return result

        return wrapper

    with monkeypatch.context() as patch:
        for name in ("replace", "unlink", "rmdir"):
            patch.setattr(files.os, name, fatal(getattr(files.os, name)))
        try:
            yield
        except Killed:
            return


@settings(QUICK, max_examples=6)
@given(plans=growing_plans(), data=st.data())
def test_interrupted_anywhere_it_ends_with_the_same_tables(pickled, tmp_path_factory, plans, data):
    path, lab = tmp_path_factory.mktemp("killed"), Lab(plans[0].diverging)
    monkeypatch = pytest.MonkeyPatch()
    for wanted in plans:
        for _ in range(data.draw(st.integers(0, 4))):
            with killed_at(monkeypatch, data.draw(st.integers(0, 80))):
                lab.run(path / "steps", wanted)
    lab.run(path / "steps", plans[-1])
    Lab(plans[0].diverging).run(path / "fresh", plans[-1])
    assert_same_tables(path / "steps", path / "fresh")
    assert not [p for p in (path / "steps").rglob("*") if "partial" in p.name or p.parent.name == "unfinished"]


def test_extended_by_a_named_knob_wherever_a_first_extension_ended(pickled, tmp_path, monkeypatch):
    first = {"width": (2,), "learning_rate": (0.05,), "metrics": ("hessian",)}
    plans = [plan(3, seed=1, **first), plan(4, **first), plan(4, optimizer=("sgd", "adamw"), **first)]
    Lab().run(tmp_path / "fresh", plans[-1])
    for moment in range(30, 46):  # from the last part to the manifest
        path = tmp_path / str(moment)
        Lab().run(path, plans[0])
        with killed_at(monkeypatch, moment):
            Lab().run(path, plans[1])
        Lab().run(path, plans[-1])
        assert_same_tables(path, tmp_path / "fresh")


@pytest.mark.slow
def test_killed_at_every_moment_of_an_extension(pickled, tmp_path, monkeypatch):
    small, large = plan(metrics=METRICS[:3]), plan(4, learning_rate=(0.02, 0.1, 0.05))
    Lab().run(tmp_path / "fresh", large)
    Lab().run(tmp_path / "small", small)
    num_killed = 0
    for moment in range(1000):
        path = tmp_path / f"killed{moment}"
        shutil.copytree(tmp_path / "small", path)
        lab, is_done = Lab(), False
        with killed_at(monkeypatch, moment):
            lab.run(path, large)
            is_done = True
        if is_done:
            break
        num_killed += 1
        lab.run(path, large)
        assert_same_tables(path, tmp_path / "fresh")
        shutil.rmtree(path)
    assert num_killed > 60


def test_what_is_kept_and_added_is_said_and_the_config_before_stays_in_the_manifest(pickled, tmp_path):
    Lab().run(tmp_path, plan(metrics=METRICS[:1]))
    line, *_ = Lab().run(tmp_path, plan(3, width=(2, 4, 8)))
    assert line == (
        f"{tmp_path} is extended (width [2, 4] -> [2, 4, 8]; num_seeds 2 -> 3; "
        "metrics + sharpness, similarity, connectivity): 8 trained networks are kept and 10 are added"
    )
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["config"] == plan(3, width=(2, 4, 8)).config
    (before,) = manifest["extended_from"]
    assert (before["config"], before["measure"]["metrics"]) == (plan().config, ["hessian"])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            plan(1),
            r"has networks of seed=1, which this grid omits; a run can be extended, not cut; keep the values",
        ),
        (plan(width=(2, 8), num_seeds=3), r"has networks of width=4, which this grid omits.*another out="),
        (plan(seed=1), r"has networks of seed=0, which this grid omits"),
        (plan(width=(8, 16)), r"was created with another config \(width is \[2, 4\] there, \[8, 16\] here\)"),
        (plan(metrics=METRICS[1:]), r"has measured hessian, which grid.measure.metrics leaves out here.*another out="),
        (plan(3, pairs="all"), r"was created with another config \(pairs is ring there, all here\)"),
    ],
)
def test_what_is_no_extension_is_refused_and_changes_nothing(pickled, tmp_path, other, message):
    Lab().run(tmp_path, plan())
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")}
    config = json.loads((tmp_path / "manifest.json").read_text())["config"]
    with pytest.raises(UserError, match=message):
        Lab().run(tmp_path, other)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")} == before
    assert json.loads((tmp_path / "manifest.json").read_text())["config"] == config
    assert Lab().run(tmp_path, plan()) == []


def test_another_recipe_is_named_with_all_that_differs(tmp_path):
    wanted = plan()
    members = {c.key: [(m.index, m.seed) for m in c.members] for c in wanted.cohorts}
    with RunFolder(tmp_path, wanted.config, members):
        pass
    message = r"width is \[2, 4\] there, \[2\] here; optimizer is sgd there, adamw here"
    other = wanted.config | {"optimizer": "adamw", "width": [2]}
    with pytest.raises(UserError, match=message), RunFolder(tmp_path, other, members):
        pass


def test_a_run_of_before_there_were_histories_goes_on_with_those_of_what_is_added(pickled, tmp_path):
    class Earlier(Lab):
        def train(self, *arguments, **options):
            trained = super().train(*arguments, **options)
            trained.history = None
            return trained

    small, large = plan(2, width=(2,)), plan(3, width=(2, 4))
    Earlier().run(tmp_path, small)
    assert not (tmp_path / "history.parquet").exists()
    Lab().run(tmp_path, large)
    Lab().run(tmp_path / "fresh", large)
    added, every = (pd.read_parquet(path / "history.parquet") for path in (tmp_path, tmp_path / "fresh"))
    members = pd.read_parquet(tmp_path / "members.parquet")
    is_old = (members["width"] == 2) & (members["seed"] < 2)
    old = pd.MultiIndex.from_frame(members.loc[is_old, ["configuration", "seed"]])
    is_added = ~pd.MultiIndex.from_frame(every[["configuration", "seed"]]).isin(old)
    pd.testing.assert_frame_equal(added, every[is_added].reset_index(drop=True), check_exact=True)
    record = write_record(tmp_path / "fresh", tmp_path / "record", "fake")
    pd.testing.assert_frame_equal(record.history, every)
    (tmp_path / "parts" / "history" / f"{large.cohorts[0].key}.parquet").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="delete it to go on without these learning curves"):
        Lab().run(tmp_path, large)


def test_networks_that_are_gone_stop_what_needs_them_and_nothing_else(pickled, tmp_path):
    Lab().run(tmp_path / "pairs", plan(), keep="metrics_only")
    with pytest.raises(UserError, match=r"8 networks of .* to compare added networks with them \(similarity, conn"):
        Lab().run(tmp_path / "pairs", plan(3))
    wider = plan(width=(2, 4, 8), learning_rate=(0.1, 0.2, 0.05))  # new configurations need no old networks
    lab = Lab()
    lab.run(tmp_path / "pairs", wider, keep="metrics_only")
    assert len(lab.trained) == 18 - 8
    Lab().run(tmp_path / "fresh", wider)
    assert_same_tables(tmp_path / "pairs", tmp_path / "fresh")
    assert not list((tmp_path / "pairs/checkpoints").iterdir())

    alone = plan(metrics=METRICS[:1])
    Lab().run(tmp_path / "alone", alone, keep="metrics_only")
    with pytest.raises(
        UserError, match=r"8 networks of .* needed to measure sharpness, and are not kept \(first: of c"
    ):
        Lab().run(tmp_path / "alone", dataclasses.replace(alone, metrics=METRICS[:2]))
    lab = Lab()
    lab.run(tmp_path / "alone", dataclasses.replace(alone, num_seeds=3))
    assert len(lab.trained) == len(lab.measured) == 4
    # What the extension kept is there, what the run before did not keep is not.
    assert sorted(path.name for path in (tmp_path / "alone/checkpoints").iterdir()) == ["w2-b16-e3+1", "w4-b16-e3+1"]

    first = plan(metrics=("connectivity",), pairs="first")
    Lab().run(tmp_path / "first", first, keep="metrics_only")
    lab = Lab()
    lab.run(tmp_path / "first", dataclasses.replace(first, num_seeds=4))  # the first pair stays the first
    assert (len(lab.trained), lab.measured) == (8, [])


def test_networks_of_a_kept_run_stay_when_the_extension_keeps_none(pickled, tmp_path):
    Lab().run(tmp_path, plan())
    Lab().run(tmp_path, plan(3), keep="metrics_only")
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["w2-b16-e3", "w4-b16-e3"]


def test_networks_load_from_an_extended_run_and_from_one_that_is_being_extended(tmp_path, monkeypatch):
    from mdtree_jax.store.checkpoint import load_network, load_population, save_population

    small, large = plan(learning_rate=(0.1, 0.2)), plan(3, learning_rate=(0.05, 0.2, 0.1))
    Lab().run(tmp_path, small)
    for path in (
        tmp_path / "checkpoints"
    ).iterdir():  # as before grids could be extended: they don't say of which they are
        save_population(path, *load_population(path))

    def check(wanted):
        for cohort in wanted.cohorts:
            for member in cohort.members:
                chosen = {"seed": member.seed, "width": cohort.width, "learning_rate": member.learning_rate}
                network, row = load_network(tmp_path, **chosen)
                assert network["params"]["w"][0] == numbers(cohort, member)[0] == row["train_error"]

    check(small)
    lab = Lab()
    lab.train = lambda *arguments, **options: (_ for _ in ()).throw(KeyboardInterrupt)
    before = (tmp_path / "members.parquet").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        lab.run(tmp_path, large)
    check(small)
    (tmp_path / "members.parquet").write_bytes(before)  # as if killed before the tables were written anew
    check(small)
    Lab().run(tmp_path, large)
    check(large)


def test_an_addition_is_executed_as_its_cohort_was_unless_it_is_larger(pickled, tmp_path):
    def executors(wanted, choice):
        Lab().run(tmp_path / "run", wanted, choose=lambda _, cohort: {"for": len(cohort.members), "chosen": choice})
        return json.loads((tmp_path / "run/manifest.json").read_text())["executors"]

    first, last = {"for": 4, "chosen": 1}, {"for": 18, "chosen": 3}
    assert executors(plan(width=(2,)), 1) == {"w2-b16-e3": first}
    found = executors(plan(4, width=(2,)), 2)  # four of eight
    assert found == {"w2-b16-e3": first, "w2-b16-e3+1": first}
    found = executors(plan(9, width=(2,)), 3)  # ten of eighteen: as a fresh run of all would be
    assert found == {"w2-b16-e3": first, "w2-b16-e3+1": first, "w2-b16-e3+2": last}
    # The record knows both, and that this machine would not repeat the last bits with one.
    record = write_record(tmp_path / "run", tmp_path, "grown")
    assert record.executors("w2-b16-e3") == [first, last]
    assert record.about["compile_seconds"] == 3 * 0.5 + 3 * 0.5
    found = verify.compare(record, record.networks, record.pairs, SESSION)
    assert found.metrics["expected"].sum() == 0
    assert found.passed
    assert "executor of what was added to a cohort later" in verify.verdict(found)


def test_a_run_whose_extension_is_not_finished_is_no_record(pickled, tmp_path):
    Lab().run(tmp_path / "run", plan())
    Lab().run(tmp_path / "run", plan(3), stages=("train",))
    with pytest.raises(UserError, match="2 of 2 cohorts are not measured; finish the sweep first"):
        write_record(tmp_path / "run", tmp_path, "grown")


def test_a_state_inside_a_cohort_is_resumed_only_if_its_members_are_the_same(pickled, tmp_path):
    seen = []

    class Interrupted(Lab):
        def train(self, recipe, cohort, data, *, checkpoint, resume, **options):
            seen.append((cohort.key, len(cohort.members), resume is not None))
            if cohort.width == 4:
                checkpoint({"members": np.zeros(len(cohort.members))})
                raise KeyboardInterrupt
            return super().train(recipe, cohort, data, checkpoint=checkpoint, resume=resume, **options)

    # Interrupted in the cohort of width 4, and again; then the cohort grows, and then only the grid does.
    for wanted in (
        plan(),
        plan(),
        plan(3),
        plan(3, width=(2, 4, 8)),
        plan(3, width=(2, 4, 8), learning_rate=(0.1, 0.05)),
    ):
        with pytest.raises(KeyboardInterrupt):
            Interrupted().run(tmp_path, wanted)
    assert [resumed for key, _, resumed in seen if key == "w4-b16-e3"] == [False, True, False, True, False]
    Lab().run(tmp_path, wanted)
    Lab().run(tmp_path / "fresh", wanted)
    assert_same_tables(tmp_path, tmp_path / "fresh")


def test_extended_runs_move_between_folders_and_only_when_they_are_extended(pickled, tmp_path):
    small, large = plan(), plan(width=(8, 2, 4))
    Lab().run(tmp_path / "steps", small)

    def folder_of(wanted, path):
        return RunFolder(path, wanted.config, {c.key: [(m.index, m.seed) for m in c.members] for c in wanted.cohorts})

    with folder_of(large, tmp_path / "steps") as folder:
        for move in (export_parts, import_parts):
            with pytest.raises(UserError, match=r"is of a smaller grid \(width .*\), and .*port_"):
                move(folder, tmp_path / "parts")
    Lab().run(tmp_path / "steps", large)
    with folder_of(large, tmp_path / "steps") as folder:
        assert export_parts(folder, tmp_path / "parts") == 3
    with folder_of(large, tmp_path / "moved") as folder:
        assert import_parts(folder, tmp_path / "parts") == (3, 0)
        folder.write_tables()
    assert_same_tables(tmp_path / "moved", tmp_path / "steps")


def test_trained_first_and_measured_later(pickled, tmp_path):
    Lab().run(tmp_path / "steps", plan())
    large, lab = plan(3, width=(2, 4, 8)), Lab()
    lab.run(tmp_path / "steps", large, stages=("train",))
    members = pd.read_parquet(tmp_path / "steps/members.parquet")
    assert len(members) == 18
    assert members["hessian_trace"].notna().sum() == 8
    lab.run(tmp_path / "steps", large, stages=("measure",))
    assert len(lab.trained) == 10
    Lab().run(tmp_path / "fresh", large)
    assert_same_tables(tmp_path / "steps", tmp_path / "fresh")
