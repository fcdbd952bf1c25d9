"""Train and measure every network of a grid, and write tables. If it is interrupted, the same command resumes it.

  python -m mdtree_jax.sweep +grid=digits_tiny                 # about 4 minutes on 2 CPU cores, included data
  python -m mdtree_jax.sweep +grid=digits                      # 1690 configurations x 3 seeds, included data
  python -m mdtree_jax.sweep +grid=cifar dry_run=true          # the cost of the paper's collection on this machine
  python -m mdtree_jax.sweep +grid=digits_tiny 'grid.width=[2,4]' grid.num_seeds=2 out=runs/mine
  python -m mdtree_jax.sweep +grid=digits_tiny grid.model=mypackage.models:build grid.dataset=mypackage.data:load
  python -m mdtree_jax.sweep plugins=[mypackage.plugin] --help                 # includes the entries of your own module

Every key of a grid can be set as grid.key=value. Writes collection.parquet (one row per configuration),
members.parquet (one per network), pairs.parquet (curves), layers.parquet (traces by layer), manifest.json and the
networks to the folder `out`, which is a collection for transfer, and explorer.html, a page to look at it. Only one
process can work in a folder at a time. With more seeds, values or metrics, the same command extends an existing run,
and trains and measures only what is missing.

  python -m mdtree_jax.sweep +grid=digits shard=3/16 out=runs/part3            # one of 16 machines
  python -m mdtree_jax.sweep +grid=digits merge=[runs/part1,runs/part2]        # join their parts in runs/digits
  python -m mdtree_jax.sweep +grid=digits verify=20    # check that this machine reproduces the included record

Exit codes:
  0    everything that was asked for is done
  2    bad input, or a folder or disk that cannot be used: one sentence says what
  3    done, and some networks diverged; they are rows with status `diverged`
  4    verify= found that this machine does not reproduce the record
  75   SIGTERM, SIGUSR1 or SIGUSR2 stopped it, its state is saved, and the same command goes on from there
  130  Ctrl-C; the same command goes on from the last saved state
(1 is an unexpected error.)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mdtree_jax.checks import UserError
from mdtree_jax.cli import leave, run
from mdtree_jax.recipe.schema import SweepConfig
from mdtree_jax.stopping import on_signals

if TYPE_CHECKING:
    from mdtree_jax.data import LoadedDataset
    from mdtree_jax.recipe.cohort import Cohort, Recipe

EXIT_SOME_DIVERGED = 3
EXIT_NOT_REPRODUCED = 4


class Prepared(NamedTuple):
    """What a sweep works on: recipe, cohorts and data of its grid, and by what a run folder knows it again."""

    recipe: Recipe
    cohorts: tuple[Cohort, ...]
    data: LoadedDataset
    identity: dict[str, Any]


def main(config: SweepConfig) -> int:
    """Plan, move parts, or train, as the configuration says; return the exit code.

    Raises:
        Stopped: a signal asked for it (`mdtree_jax.stopping`).
    """
    with on_signals():
        return _main(config)


def _main(config: SweepConfig) -> int:
    from mdtree_jax.data import dataset_shape
    from mdtree_jax.recipe.axes import make_cohorts
    from mdtree_jax.recipe.schema import check_settings, make_grid
    from mdtree_jax.report.terminal import make_console
    from mdtree_jax.runs.extend import members_by_key
    from mdtree_jax.runs.jax_backend import set_up_jax
    from mdtree_jax.runs.shards import chosen_cohorts
    from mdtree_jax.store.folder import RunFolder
    from mdtree_jax.store.record import read_record

    console, wanted = make_console(), config.grid
    check_settings(config)
    grid = make_grid(wanted)
    set_up_jax(config)
    if config.dry_run:
        shape = dataset_shape(wanted.dataset, **_files(config), objective=wanted.objective)
        return _show_plan(config, make_cohorts(grid, shape.num_train), shape, console)
    record = None if config.verify is None else read_record(wanted.name)
    prepared = prepare(config)
    if record is not None:
        return _verify(config, record, prepared, console)
    chosen = chosen_cohorts(prepared.cohorts, config.shard, config.cohorts)
    with RunFolder(config.out, prepared.identity, members_by_key(prepared.cohorts)) as folder:
        if config.merge is None and config.import_from is None and config.export_to is None:
            return train(config, prepared._replace(cohorts=chosen), folder, console)
        return _move_parts(config, folder, console)


def prepare(config: SweepConfig) -> Prepared:
    """Load the data of a sweep and cut its grid into cohorts; JAX must be set up."""
    from mdtree_jax.data import load_dataset
    from mdtree_jax.recipe.axes import make_cohorts
    from mdtree_jax.recipe.schema import make_grid, recipe_of, resolved_config
    from mdtree_jax.runs.jax_backend import model_identity
    from mdtree_jax.store.manifest import data_hash

    wanted = config.grid
    noise = {"label_noise_fraction": wanted.label_noise_fraction, "label_noise_seed": wanted.label_noise_seed}
    what = {"objective": wanted.objective, "validation_fraction": wanted.validation_fraction}
    data = load_dataset(wanted.dataset, **_files(config), **noise, **what)
    cohorts = make_cohorts(make_grid(wanted), len(data.x_train))
    identity = resolved_config(wanted) | {"data_hash": data_hash(*data.arrays)} | model_identity(config, data.shape)
    return Prepared(recipe_of(wanted, data.shape), cohorts, data, identity)


def _files(config: SweepConfig) -> dict[str, str | None]:
    return {"data_dir": config.data_dir, "data_file": config.data_file}


def _show_plan(config: SweepConfig, cohorts, shape, console) -> int:
    from mdtree_jax.recipe.schema import resolved_config
    from mdtree_jax.runs.extend import members_by_key
    from mdtree_jax.runs.jax_backend import plan_here
    from mdtree_jax.runs.monitor import plan_table
    from mdtree_jax.runs.shards import chosen_cohorts
    from mdtree_jax.store.opening import read_parts

    chosen = chosen_cohorts(cohorts, config.shard, config.cohorts)
    parts = read_parts(config.out, resolved_config(config.grid), members_by_key(cohorts))
    if parts is not None:
        if (grown := parts.grids.since(parts.grids.stored)) is not None:
            console.print(f"{config.out} would be extended ({grown.in_words()})", highlight=False, soft_wrap=True)
        damaged = [*(one.path for one in parts.damaged), *(parts.damaged_networks() if config.check_files else ())]
        for path in damaged:
            console.print(f"{path} is damaged and would be made again", highlight=False, soft_wrap=True)
    console.print(plan_table(plan_here(config, chosen, shape, parts), config.grid.name))
    return 0


def _move_parts(config: SweepConfig, folder, console) -> int:
    from mdtree_jax.store.exchange import export_parts, import_parts

    if config.check_files:
        folder.check_networks(folder.cohorts)
    lines, at = folder.damage, folder.path
    if config.merge is not None:
        new, known = import_parts(folder, config.merge, keep=config.keep == "all", option="merge")
        left = len(folder.cohorts) - len(folder.trained)
        missing = f"; {left} cohorts are not trained yet, which the command without merge= does" if left else ""
        lines.append(f"merged {new} cohorts into {at}, {known} were already there{missing}")
    if config.import_from is not None:
        new, known = import_parts(folder, [config.import_from])
        lines.append(f"imported {new} cohorts into {at}, {known} were already there")
    if config.merge is not None or config.import_from is not None:
        folder.write_tables(config.csv)
    if config.export_to is not None:
        number = export_parts(folder, config.export_to)
        lines.append(f"exported {number} of {len(folder.cohorts)} cohorts to {config.export_to}")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
    return 0


def _verify(config: SweepConfig, record, prepared: Prepared, console) -> int:
    """Train and measure a sample of the record again in a run folder of its own, so that it resumes, and compare."""
    from mdtree_jax.provenance import code_hash, describe_session
    from mdtree_jax.runs.extend import members_by_key
    from mdtree_jax.runs.jax_backend import describe_devices, jax_measurer
    from mdtree_jax.runs.verify import check_same_recipe, compare, kind, sample_cohorts, verdict, verification_table
    from mdtree_jax.store.folder import RunFolder

    check_same_recipe(record, prepared.identity, jax_measurer(config, prepared.data.shape).config)
    assert config.verify is not None  # it was asked for
    cohorts = sample_cohorts(prepared.cohorts, config.verify, config.verify_seed)
    session = describe_session(describe_devices())
    # What another version or machine left in the folder must not pass for this one's.
    sample = {"verify": config.verify, "verify_seed": config.verify_seed, "code": code_hash()}
    out, identity = Path(config.out), prepared.identity | sample | kind(session)
    with RunFolder(out.with_name(f"{out.name}-verify"), identity, members_by_key(cohorts)) as folder:
        train(config, prepared._replace(cohorts=cohorts), folder, console, record)
        found = compare(record, folder.members, folder.pairs, session)
    console.print(verification_table(found, f"{config.grid.name}: {config.verify} configurations again"))
    console.print(verdict(found), highlight=False, soft_wrap=True)
    return 0 if found.passed else EXIT_NOT_REPRODUCED


def train(config: SweepConfig, prepared: Prepared, folder, console, record=None) -> int:
    """Train and measure in a run folder what is missing there; return the exit code."""
    from mdtree_jax.provenance import describe_session
    from mdtree_jax.runs.jax_backend import describe_devices, jax_measurer, jax_trainer, plan_here
    from mdtree_jax.runs.monitor import Monitor, ScalarLog, duration
    from mdtree_jax.runs.run import run_sweep, still_to_do
    from mdtree_jax.runs.verify import recorded_choice

    recipe, cohorts, data, _ = prepared
    scalars = ScalarLog(folder.path / "tensorboard") if config.tensorboard else None
    folder.begin_session(describe_session(describe_devices()) | ({"plugins": config.plugins} if config.plugins else {}))
    measurer = jax_measurer(config, data.shape) if "measure" in config.stages else None
    if measurer is not None:
        folder.use_measurement(measurer.config, measurer.earlier)
    estimated = plan_here(config, cohorts, data.shape, folder.parts).set_index("cohort")["estimated_seconds"]
    stages = {stage: stage in config.stages for stage in ("train", "measure")}
    pending = set().union(*still_to_do(cohorts, folder, **stages))
    trained = set(folder.trained)
    there = [cohort for cohort in cohorts if stages["train"] or cohort.key in trained]
    done = len(there) - len(pending)
    with Monitor(console, {key: estimated[key] for key in pending}, done) as monitor:
        trainer = jax_trainer(config, data.shape) if "train" in config.stages else None
        if record is not None and trainer is not None:
            trainer = trainer._replace(choose=recorded_choice(record, trainer.decode, trainer.choose))
        options = {"measurer": measurer, "keep": config.keep, "csv": config.csv, "scalars": scalars}
        options["check_files"] = config.check_files
        summary = run_sweep(recipe, cohorts, data, folder, trainer, monitor, **options)
    diverged = f", {summary.num_diverged} diverged" if summary.num_diverged else ""
    if summary.num_not_measurable:
        diverged += f", {summary.num_not_measurable} networks or pairs with a measured number that is not finite"
    if summary.num_not_converged:
        diverged += f", {summary.num_not_converged} networks whose eigenvalue did not converge in its steps"
    console.print(
        f"{summary.num_configurations} configurations, {summary.num_members} networks{diverged}; "
        f"{summary.num_trained_cohorts} cohorts trained and {summary.num_measured_cohorts} measured in "
        f"{duration(summary.seconds)}; tables in {folder.path}",
        highlight=False,
        soft_wrap=True,
    )
    if config.explorer and record is None:
        _write_explorer(folder.path, console)
    return EXIT_SOME_DIVERGED if summary.num_diverged else 0


def _write_explorer(folder: Path, console) -> None:
    """Write the explorer of a run folder, or say why there is none: a finished sweep does not fail for its sake."""
    from mdtree_jax.report.explorer.page import write_explorer

    try:
        said = f"look at them in {write_explorer(folder / 'explorer.html', [folder])}"
    except UserError as error:
        said = f"no explorer: {error}"
    console.print(said, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    leave(run("sweep", __doc__, main))
