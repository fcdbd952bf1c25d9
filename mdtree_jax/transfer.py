"""How well do trees fitted on one collection of models diagnose the models of another?

  python -m mdtree_jax.transfer                                      # digits -> digits_noisy, both in the package
  python -m mdtree_jax.transfer collection=published mode=dataset    # the paper's Fig. 3a, 6a; data by widths
  python -m mdtree_jax.transfer collection=published mode=scale      # the paper's Fig. 3b, 3c, 6b; data by widths
  python -m mdtree_jax.transfer collection=published mode=one_step   # gain from following the advice
  python -m mdtree_jax.transfer tasks=joint mode=dataset             # one answer over five causes
  python -m mdtree_jax.transfer mode=coverage                        # accuracy of the most confident answers
  python -m mdtree_jax.transfer train=published/F_noise test=published/F mode=all seeds=50 out=runs/back

Writes results.csv, one_step.csv, thresholds.csv, coverage.csv, tables.md and figures/ to the folder `out`.
"""

from __future__ import annotations

from mdtree_jax.checks import UserError, check_choice
from mdtree_jax.cli import leave, run
from mdtree_jax.config import TransferConfig, as_list, parse_seeds


def load_sides(config: TransferConfig):
    """Return the train collection and the test collection, None where the cells not sampled are the test.

    Raises:
        UserError: `collection` beside `train` or `test`, or `test` alone; anything that `load_collection` refuses.
    """
    from mdtree_jax.collection.load import DEFAULT_PAIR, PAIRS, load_collection

    train, test = config.train, config.test
    if config.collection is not None and (train is not None or test is not None):
        raise UserError(f"collection={config.collection} cannot be combined with train= or test=")
    if test is not None and train is None:
        raise UserError(f"test={test} needs train=, the collection that the trees are fitted on")
    if train is None:
        name = config.collection or DEFAULT_PAIR
        train, test = PAIRS.get(name, (name, None))
    options = {"allow_missing": config.allow_missing, "published_dir": config.published_dir}
    return load_collection(train, **options), None if test is None else load_collection(test, **options)


def main(config: TransferConfig) -> None:
    """Run the experiments that the configuration names, print their tables and write the results."""
    seeds = parse_seeds(config.seeds)

    from mdtree_jax.experiments.runner import MODES
    from mdtree_jax.experiments.suite import choose_suite, run_suite
    from mdtree_jax.files import output_folder
    from mdtree_jax.parallel import available_cores
    from mdtree_jax.report import tables
    from mdtree_jax.report.terminal import make_console, progress
    from mdtree_jax.trees.classifier import FITS

    mode = check_choice("mode", config.mode, MODES)
    fit = check_choice("fit", config.fit, FITS)
    if not config.figures and (config.axes is not None or fit != TransferConfig.fit):
        what = f"fit={fit}" if config.axes is None else "axes="
        raise UserError(f"{what} is of figures, and figures=false draws none; leave one of them out")
    suite = choose_suite(mode, as_list(config.tasks), as_list(config.methods))
    train, test = load_sides(config)
    sides, axes = [train] if test is None else [train, test], as_list(config.axes)
    if axes is not None:
        from mdtree_jax.report.planes import make_plane

        for side in sides:  # refused before the work, not after it
            make_plane(side, axes)
    console, notes = make_console(), []

    def say(note: str) -> None:
        if note not in notes:
            notes.append(note)

    for note in [n for side in sides for n in side.attrs["notes"]] + suite.notes:
        say(note)
    setup = {"train": train, "test": test, "seeds": seeds, "allow_missing": config.allow_missing}
    setup |= {"k": as_list(config.k), "say": say, "jobs": available_cores(), "scale": config.scale}
    if config.scale == "rank":
        say("scale=rank: the metrics of the test side are replaced by the values of equal rank on the training side")
    with output_folder(config.out or f"runs/transfer-{mode}") as out:
        with progress(suite.size) as advance:
            measured = run_suite(suite, advance, **setup)
        names = {
            "train": train.attrs["name"],
            "test": "its cells that were not sampled" if test is None else test.attrs["name"],
        }
        names["test"] += ", by rank" * (config.scale == "rank")
        written = tables.write_results(out, measured, seeds=seeds, notes=notes, **names)
        tables.print_results(console, measured, paper=tuple(names.values()) == tables.PUBLISHED_PAIR)
        for note in notes:
            console.print(f"note: {note}", style="yellow", highlight=False, soft_wrap=True)
        if config.figures:
            from mdtree_jax.report.figures import write_figures

            written += write_figures(out, measured.results, sides, fit, suite.tasks, axes)
    console.print(f"written to {out}: {', '.join(written)}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    leave(run("transfer", __doc__, main))
