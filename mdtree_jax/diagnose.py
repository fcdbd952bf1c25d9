"""Say why a model is not better, from its training and loss landscape, without retraining it in full.

  python -m mdtree_jax.diagnose metrics=my_models.csv                                  # measured elsewhere
  python -m mdtree_jax.diagnose run=runs/digits_tiny select.width=8 select.batch_size=64 select.data_fraction=1
  python -m mdtree_jax.diagnose model=resnet18 "checkpoints=[a.safetensors,b.safetensors]" dataset=cifar10 data_dir=data
  python -m mdtree_jax.diagnose model=mypackage.mymodel:build "checkpoints=[ckpt/a,ckpt/b]" dataset=npz data_file=my.npz
  python -m mdtree_jax.diagnose model=mypackage.mymodel:build "checkpoints=[ckpt/a,ckpt/b]" dataset=mypackage.data:load

A path that contains = ( ) , or a space needs quotes within the quotes: 'checkpoints=["a=1.safetensors"]'.
Prints the answer and writes report.html and diagnosis.json to the folder `out` (for several models, index.html and a
page for each); format=json prints the diagnosis as JSON, with the keys of mdtree_jax.Diagnosis.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdtree_jax.checks import UserError, check_choice, printable
from mdtree_jax.cli import leave, run
from mdtree_jax.config import DiagnoseConfig, check_of_use
from mdtree_jax.files import user_path
from mdtree_jax.registry.architectures import ARCHITECTURES

if TYPE_CHECKING:
    pass

FORMATS = ("text", "json")
SOURCES = ("metrics", "run", "checkpoints")


def main(config: DiagnoseConfig) -> int:
    """Diagnose what the configuration names, print the answer, write the report.

    Returns:
        The exit code: 1 if a diagnosis has a cause of `fail_on`, else 0.
    """
    from mdtree_jax.diagnosis.compare import read_diagnoses
    from mdtree_jax.diagnosis.cost import Training
    from mdtree_jax.diagnosis.failing import parse_fail_on
    from mdtree_jax.diagnosis.metrics_table import EVIDENCE

    check_choice("format", config.format, FORMATS)
    check_choice("evidence", config.evidence, EVIDENCE)
    given = [source for source in SOURCES if getattr(config, source)]
    if len(given) != 1:
        raise UserError(
            f"give exactly one of metrics=TABLE, run=FOLDER, or model=NAME with checkpoints=[…]; "
            f"given: {', '.join(given) or 'none'}"
        )
    check_of_use(config, given[0])
    before = None if config.compare is None else read_diagnoses(config.compare)
    parse_fail_on(config.fail_on)  # a mistake there, or in the next line, is found before anything is read
    Training(**dataclasses.asdict(config.training))
    from mdtree_jax.files import output_folder

    reference = _reference(config)
    answer = {"metrics": _of_table, "run": _of_run, "checkpoints": _of_checkpoints}[given[0]]
    beside = contextlib.nullcontext() if config.improved is None else output_folder(Path(config.improved).parent)
    with output_folder(config.out or "runs/diagnose") as out, beside:
        items = answer(config, reference)
        if config.name and len(items) > 1:
            raise UserError(f"name={config.name} is of one model, and {given[0]}= has {len(items)}; leave it out")
        _write(config, items, reference, out)
        if before is not None:
            _compare(config, before, items, out)
    return _exit_code(config, items)


def _compare(config: DiagnoseConfig, before: list[dict], items: list[Item], out: Path) -> None:
    """Write the page of before and after, and print what it says of up to ten models."""
    from mdtree_jax.diagnosis.compare import compare
    from mdtree_jax.diagnosis.words.comparison import causes_sentence, gain_sentence
    from mdtree_jax.report.html import write_comparison
    from mdtree_jax.report.terminal import make_console

    found = compare(before, [{"name": name} | diagnosis.to_dict() for name, diagnosis in items])
    path = write_comparison(out / "compare.html", found)
    if config.format == "json":
        return
    console = make_console()
    for one in found[:10]:
        said = f"{one.name}: {gain_sentence(one)} {causes_sentence(one)}"
        console.print(said.removeprefix(": "), highlight=False, soft_wrap=True, markup=False)
    console.print(f"before and after: {path}", highlight=False, soft_wrap=True)


def _exit_code(config: DiagnoseConfig, items: list[Item]) -> int:
    """Return 1 if a diagnosis has a cause of `fail_on`, and say which, else 0."""
    from mdtree_jax.diagnosis.failing import CANNOT_TELL
    from mdtree_jax.diagnosis.words import causes as words
    from mdtree_jax.diagnosis.words.formats import percent

    failed = 0
    for name, diagnosis in items:
        for cause, probability in diagnosis.failures(config.fail_on).items():
            failed = 1
            shown = (
                f"{words.short(cause)}, probability {percent(probability)}"
                if cause != CANNOT_TELL
                else words.CANNOT_TELL
            )
            print(f"fail_on: {printable(name)}: {shown}", file=sys.stderr)
    return failed


def _reference(config: DiagnoseConfig):
    """Return the reference that the configuration names, or else the packaged one for its data set, or the default."""
    from mdtree_jax.diagnosis.reference import DEFAULT_REFERENCE, get_reference, reference_names
    from mdtree_jax.store.manifest import read_manifest

    if config.reference:
        return get_reference(config.reference)
    dataset = config.dataset
    if config.run:
        manifest = read_manifest(user_path(config.run, "run=") / "manifest.json") or {}
        dataset = manifest.get("config", {}).get("dataset")
    return get_reference(dataset if dataset in reference_names() else DEFAULT_REFERENCE)


Item = tuple[str, Any]  # name, Diagnosis

#: Most models that get a page of their own; browsers render longer tables poorly.
_MOST_PAGES = 1000


def _of_table(config: DiagnoseConfig, reference) -> list[Item]:
    """Diagnose every row of a table of metrics."""
    from mdtree_jax.collection.load import read_table
    from mdtree_jax.diagnosis.facts import fact
    from mdtree_jax.diagnosis.from_metrics import diagnose_metrics
    from mdtree_jax.diagnosis.metrics_table import NAMES, unused_columns

    assert config.metrics is not None  # the source that is given
    table = read_table(user_path(config.metrics, "metrics="), "table of metrics")
    known = dataclasses.asdict(config.training)
    diagnoses = diagnose_metrics(table, reference, config.units, known, evidence=config.evidence)
    column = next((name for name in NAMES if name in table), None)
    names = [f"row {i + 1}" for i in range(len(table))] if column is None else [str(n) for n in table[column]]
    if config.name and len(names) == 1:
        names = [config.name]
    if unused := unused_columns(table, config.evidence):
        note = fact("columns_unused", columns=unused)
        diagnoses = [dataclasses.replace(d, remarks=(*d.remarks, note)) for d in diagnoses]
    return list(zip(names, diagnoses, strict=True))


def _of_run(config: DiagnoseConfig, reference) -> list[Item]:
    """Diagnose configurations of a run folder: from its table where they are measured, else from its networks."""
    from mdtree_jax.diagnosis.facts import fact
    from mdtree_jax.diagnosis.from_metrics import not_measured
    from mdtree_jax.registry.knobs import KNOBS
    from mdtree_jax.subject.run_table import (
        diagnose_rows,
        has_diverged,
        is_measured,
        note_on_label_noise,
        selected,
        shown,
    )

    assert config.run is not None  # the source that is given
    folder = user_path(config.run, "run=")
    table = selected(config.run, dataclasses.asdict(config.select))
    said = ["width", "batch_size", "data_fraction"]
    said += [name for name in KNOBS if name not in said and name in table and table[name].nunique() > 1]
    names = [", ".join(f"{c.replace('_', ' ')} {shown(row[c])}" for c in said) for _, row in table.iterrows()]
    if config.name and len(table) == 1:
        names = [config.name]
    rows = [row for _, row in table.iterrows()]
    known = [row for row in rows if is_measured(row) or has_diverged(row)]
    training = dataclasses.asdict(config.training)
    found = iter(diagnose_rows(folder, known, reference, training, config.evidence) if known else ())
    if len(rows) - len(known) > 1:
        print(
            f"{len(rows) - len(known)} of {len(rows)} configurations have not been measured yet; measuring them one "
            "by one (the sweep command with stages=[measure] measures them together and can be interrupted)",
            file=sys.stderr,
        )
    if len(known) < len(rows):
        from mdtree_jax.subject.settings import settings_of

        settings_of(config.measure, reference)  # a mistake there is no configuration's
    items, noise, failed = [], note_on_label_noise(folder, config.reference), []
    for name, row in zip(names, rows, strict=True):
        if is_measured(row) or has_diverged(row):
            items.append((name, next(found)))
            continue
        try:
            items.append((name, _of_networks(config, folder, row, reference)))
        except UserError as error:
            if len(rows) == 1:
                raise
            # The others are not lost for it.
            failed.append(str(error))
            items.append((name, not_measured(reference, fact("not_measured", error=str(error)))))
    if len(failed) == len(rows) and len(set(failed)) == 1:  # the run's, not a configuration's
        raise UserError(failed[0])
    return [(name, dataclasses.replace(d, remarks=(*d.remarks, *noise))) for name, d in items]


def _training_of(config: DiagnoseConfig, row) -> dict:
    """Return how a configuration was trained, as its columns say; a knob without a column is at its default."""
    from mdtree_jax.registry.knobs import KNOBS

    names = {field.name: field.name for field in dataclasses.fields(config.training)} | {"epochs": "train_epochs"}
    known = {name: KNOBS[knob].kind(row[knob]) for name, knob in names.items() if knob in row.index and knob in KNOBS}
    return known | {k: v for k, v in dataclasses.asdict(config.training).items() if v is not None}


def _of_networks(config: DiagnoseConfig, folder: Path, row, reference):
    """Measure and diagnose one configuration of a run folder from its checkpoints."""
    from mdtree_jax.diagnosis.cost import Training
    from mdtree_jax.subject.from_model import diagnose_subject
    from mdtree_jax.subject.limits import Limits
    from mdtree_jax.subject.run_folder import load_configuration

    _set_up_jax()
    subject, data = load_configuration(folder, row, config.data_dir, config.data_file)
    with _progress() as progress:
        return diagnose_subject(
            subject,
            data,
            training=Training(**_training_of(config, row)),
            evidence=config.evidence,
            cost=config.cost,
            measure=config.measure,
            max_images=config.max_images,
            limits=Limits(config.memory_gb, config.max_minutes),
            in_random_order=True,
            reference=reference,
            progress=progress,
        )


def _of_checkpoints(config: DiagnoseConfig, reference) -> list[Item]:
    """Measure and diagnose networks from files."""
    if config.model is None:
        known = ", ".join(ARCHITECTURES)
        raise UserError(f"checkpoints need model=: {known}, or package.module:function")
    if config.dataset is None:
        raise UserError("checkpoints need dataset=, the data that they were trained on")
    from mdtree_jax.diagnosis.cost import Training
    from mdtree_jax.subject.from_model import diagnose_subject
    from mdtree_jax.subject.limits import Limits
    from mdtree_jax.subject.load import load_both

    _set_up_jax()
    subject, data, facts, initial = load_both(config, config.initial)
    with _progress() as progress:
        diagnosis = diagnose_subject(
            subject,
            data,
            training=Training(**dataclasses.asdict(config.training)),
            history=config.history,
            cost=config.cost,
            evidence=config.evidence,
            initial=initial,
            measure=config.measure,
            max_images=config.max_images,
            limits=Limits(config.memory_gb, config.max_minutes),
            reference=reference,
            progress=progress,
        )
    if config.improved is not None:
        _save_improved(config.improved, diagnosis)
    diagnosis = dataclasses.replace(diagnosis, remarks=(*diagnosis.remarks, *facts))
    return [(config.name or config.model, diagnosis)]


def _save_improved(path: str, diagnosis) -> None:
    """Write the best network that an experiment found, and say which it is."""
    if diagnosis.improved is None:
        print(
            f"improved={printable(path)} is not written: nothing was run that could give a better network",
            file=sys.stderr,
        )
        return
    what = f"made by '{diagnosis.improved.by}'" if diagnosis.improved.is_better else "the given one: none is better"
    print(f"improved network, {what}: {printable(diagnosis.improved.save(path))}", file=sys.stderr)


def _set_up_jax() -> None:
    from mdtree_jax.runs.jax_backend import set_up_devices

    set_up_devices()


def _progress():
    from mdtree_jax.report.terminal import stages

    return stages("diagnosing")


def _write(config: DiagnoseConfig, items: list[Item], reference, out: Path) -> None:
    """Print the answers and write the reports."""
    from mdtree_jax.diagnosis.words.answer import print_answer, print_summary
    from mdtree_jax.files import write_text
    from mdtree_jax.report.html import remove_older, write_reports
    from mdtree_jax.report.terminal import make_console, progress

    known = reference.provenance
    facts = [{"name": name} | d.to_dict() | {"reference_provenance": known} for name, d in items]
    text = json.dumps(facts[0] if len(facts) == 1 else facts, indent=1, ensure_ascii=False)
    if len(items) == 1:
        name, diagnosis = items[0]
        written = [diagnosis.report(out / "report.html", name=name, reference=reference)]
    else:
        with progress(min(len(items), _MOST_PAGES), "pages") as advance:
            written = write_reports(out, items[:_MOST_PAGES], reference, advance=advance)
    remove_older(out, written)
    write_text(out / "diagnosis.json", text + "\n")
    if config.format == "json":
        print(text)
        return
    console = make_console()
    if len(items) == 1:
        name, diagnosis = items[0]
        print_answer(console, diagnosis, name=name, cost=diagnosis.cost and diagnosis.cost.to_dict())
    else:
        print_summary(console, items)
    console.print(f"report: {written[0]}", highlight=False, soft_wrap=True)
    if len(items) > _MOST_PAGES:
        there = f"the report shows the first {_MOST_PAGES} of {len(items)} models; all are in {out / 'diagnosis.json'}"
        console.print(there, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    leave(run("diagnose", __doc__, main))
