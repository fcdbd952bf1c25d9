"""A diagnosis as one self-contained HTML file, for a phone, a screen and paper; of many models, a page each. jinja2."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from mdtree_jax.diagnosis.reference import Reference
from mdtree_jax.diagnosis.tasks import TASKS
from mdtree_jax.diagnosis.verdict import Diagnosis
from mdtree_jax.files import write_text
from mdtree_jax.report import drawings, words


@lru_cache(maxsize=1)
def _templates():
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("mdtree_jax.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.globals |= {"words": words, "drawings": drawings}
    return environment


def write_report(
    path: str | os.PathLike,
    diagnosis: Diagnosis,
    reference: Reference,
    *,
    name: str = "",
    metrics: Mapping[str, float] | None = None,
    cost: Mapping[str, Any] | None = None,
) -> Path:
    """Write the report of one model and return its path.

    Args:
        path: of the file, overwritten.
        diagnosis: the answer.
        reference: the one that it was made with.
        name: of the model, its heading.
        metrics: value and `<metric>_se` of what was measured, for the maps; None takes those of the diagnosis.
        cost: keys as of `diagnosis.cost.Cost`; None is not known.

    Raises:
        UserError: the file cannot be written.
    """
    page = _page(diagnosis, reference, name, metrics or diagnosis.metrics, cost, "", reference.summary())
    write_text(path, page)
    return Path(path)


def write_reports(
    folder: str | os.PathLike, items: Sequence[tuple[str, Diagnosis]], reference: Reference
) -> list[Path]:
    """Write `index.html`, a table that compares the models, and a page for each; return all paths, the index first.

    Args:
        folder: that exists.
        items: (name, diagnosis) of each model; names need not be unique.
        reference: as of `write_report`.

    Raises:
        UserError: a file cannot be written.
    """
    folder, width = Path(folder), len(str(len(items)))
    summary = reference.summary()
    files = [f"model-{i + 1:0{width}}{_slug(name)}.html" for i, (name, _) in enumerate(items)]
    for file, (name, diagnosis) in zip(files, items, strict=True):
        cost = diagnosis.cost and diagnosis.cost.to_dict()
        page = _page(diagnosis, reference, name, diagnosis.metrics, cost, "index.html", summary)
        write_text(folder / file, page)
    counts = Counter("abstains" if d.abstains else d.cause for _, d in items)
    rows = [{"name": name, "file": file, "diagnosis": d} for file, (name, d) in zip(files, items, strict=True)]
    index = _templates().get_template("index.html").render(rows=rows, counts=counts, reference=reference)
    write_text(folder / "index.html", index)
    return [folder / "index.html", *(folder / file for file in files)]


def _page(
    diagnosis: Diagnosis,
    reference: Reference,
    name: str,
    metrics: Mapping[str, float],
    cost: Mapping[str, Any] | None,
    index: str,
    summary: Mapping[str, Any],
) -> str:
    lines = [drawings.number_line(s, summary["quantiles"], summary["quantile_levels"]) for s in diagnosis.evidence]
    maps = [drawings.phase_plot(bins, metrics) for bins in summary["bins"]]
    return (
        _templates()
        .get_template("report.html")
        .render(
            d=diagnosis,
            name=name,
            cost=cost,
            index=index,
            steps=list(zip(diagnosis.evidence, lines, strict=True)),
            maps=[m for m in maps if m],
            gain=diagnosis.expected_gain and diagnosis.expected_gain._asdict(),
            tasks=TASKS,
            provenance=reference.provenance,
        )
    )


def _slug(name: str) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
    return f"-{slug}" if slug else ""
