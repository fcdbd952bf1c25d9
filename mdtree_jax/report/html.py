"""A diagnosis as one self-contained HTML file for phone, screen and print; for many models, one page each. jinja2.

Files contain their style and drawings, refer to nothing else, and need no JavaScript. All texts are escaped; drawings
contain only numbers and our own words.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from mdtree_jax.checks import printable
from mdtree_jax.collection.columns import feature_values, missing_columns
from mdtree_jax.diagnosis.compare import Comparison
from mdtree_jax.diagnosis.reference import Reference, as_reference
from mdtree_jax.diagnosis.result import Diagnosis
from mdtree_jax.diagnosis.words import (
    actions,
    by_class,
    causes,
    comparison,
    costs,
    evidence,
    formats,
    outlook,
    references,
)
from mdtree_jax.diagnosis.words.metrics import axis
from mdtree_jax.files import output_folder, write_text
from mdtree_jax.report import drawings

_LEVELS = (0.05, 0.5, 0.95)
_GENERATOR = b'<meta name="generator" content="mdtree_jax">'


def write_report(
    path: str | os.PathLike,
    diagnosis: Diagnosis,
    reference: Reference,
    *,
    name: str = "",
    metrics: Mapping[str, float] | None = None,
    cost: Mapping[str, Any] | None = None,
) -> Path:
    """Write the report of one model to one self-contained HTML file and return its path.

    Args:
        path: of the file, which is overwritten.
        diagnosis: the diagnosis.
        reference: the reference of the diagnosis.
        name: of the model, used as the heading.
        metrics: measured values and their `<metric>_se`, in our units, for maps and table; None uses those of the
            diagnosis. Missing and non-finite values are not drawn.
        cost: seconds and operations, keys as in `diagnosis.cost.Cost`; None means unknown.

    Raises:
        UserError: the file cannot be written.
    """
    measured = diagnosis.metrics if metrics is None else metrics
    write_text(path, _Pages(reference).page(diagnosis, name, measured, cost))
    return Path(path)


def write_reports(
    folder: str | os.PathLike,
    items: Sequence[tuple[str, Diagnosis]],
    reference: Reference | str | os.PathLike | None = None,
    *,
    advance: Callable[[float], None] = lambda amount: None,
) -> list[Path]:
    """Write `index.html`, a table that compares the models, and a page for each; return all paths, the index first.

    Args:
        folder: created if needed.
        items: (name, diagnosis) of each model; names need not be unique.
        reference: the reference of the diagnoses, as for `diagnose_metrics`.
        advance: called with 1 after every page.

    Raises:
        UserError: a file cannot be written, or a diagnosis was made with another reference.
    """
    reference = as_reference(reference)
    for name, diagnosis in items:
        diagnosis.check_reference(reference, name)
    pages, width = _Pages(reference), len(str(len(items)))
    files = [f"model-{i + 1:0{width}}{_slug(name)}.html" for i, (name, _) in enumerate(items)]
    with output_folder(folder) as out:
        for place, (file, (name, diagnosis)) in enumerate(zip(files, items, strict=True)):
            cost = diagnosis.cost and diagnosis.cost.to_dict()
            around = {
                "index": "index.html",
                "previous": files[place - 1] if place else "",
                "next": files[place + 1] if place + 1 < len(files) else "",
                "place": f"{place + 1} of {len(files)}",
            }
            write_text(out / file, pages.page(diagnosis, name, diagnosis.metrics, cost, around))
            advance(1)
        write_text(out / "index.html", pages.index([(n, f, d) for f, (n, d) in zip(files, items, strict=True)]))
        return [out / "index.html", *(out / file for file in files)]


def write_comparison(path: str | os.PathLike, comparisons: Sequence[Comparison]) -> Path:
    """Write the page of models before and after a change and return its path; raises `UserError` if it cannot."""
    write_text(path, _template("compare.html").render(comparisons=comparisons))
    return Path(path)


def remove_older(folder: Path, written: Sequence[Path]) -> None:
    """Remove the pages that an earlier diagnosis left in a folder, which would stand beside the new ones.

    Nothing but what a diagnosis writes there by itself is touched: files of those names, whose head says what made
    them. A report that was saved under another name stays.
    """
    for path in folder.glob("*.html"):
        if path not in written and path.is_file() and _OWN_NAME.fullmatch(path.name):
            with path.open("rb") as stream:
                if _GENERATOR in stream.read(1000):
                    path.unlink()


#: Of report, index and page.
_OWN_NAME = re.compile(r"report\.html|index\.html|model-\d+(-[a-z0-9-]+)?\.html")


class _Pages:
    """Renders pages of one reference; what all of them share is made once."""

    def __init__(self, reference: Reference):
        self.reference = reference
        self.summary = reference.summary()
        self.grounds = [drawings.map_ground(bins) for bins in self.summary["bins"]]
        self.quantiles: dict[str, dict[float, float]] = {}

    def page(
        self,
        diagnosis: Diagnosis,
        name: str,
        metrics: Mapping[str, float],
        cost: Mapping[str, Any] | None,
        around: Mapping[str, str] | None = None,
    ) -> str:
        """Return the page of a model; `around` holds the files of index, previous and next page, and its place."""
        measured = {k: float(v) for k, v in metrics.items() if v is not None and np.isfinite(v)}
        steps = []
        for step in diagnosis.evidence:
            known = self.known(step.feature)
            texts = [t for t in (evidence.threshold_text(step), evidence.range_text(known)) if t]
            steps.append((step, drawings.number_line(step, known), formats.capital("; ".join(texts))))
        maps = [
            drawings.map_of(bins, measured, ground)
            for bins, ground in zip(self.summary["bins"], self.grounds, strict=True)
        ]
        return _template("report.html").render(
            d=diagnosis,
            name=name,
            metrics=measured,
            cost=cost,
            around=around,
            steps=steps,
            maps=[found for found in maps if found][:2],
            provenance=self.reference.provenance,
        )

    def index(self, rows: Sequence[tuple[str, str, Diagnosis]]) -> str:
        """Return the page that compares models, rows of (name, file, diagnosis)."""
        counts = causes.counted([d for _, _, d in rows])
        unsure = sum(d.abstains for _, _, d in rows)
        most = max([*counts.values(), unsure, 1])
        return _template("index.html").render(
            rows=rows,
            counts=counts,
            unsure=unsure,
            most=most,
            provenance=self.reference.provenance,
            notes=causes.shared_notes([d for _, _, d in rows]),
        )

    def known(self, feature: str) -> dict[float, float]:
        """Return the quantiles of a feature among the reference's models by level; empty if they lack it."""
        if feature not in self.quantiles:
            models, found = self.reference.models, {}
            if not missing_columns(models, [feature]):
                values = feature_values(models, [feature])[:, 0]
                found = dict(zip(_LEVELS, map(float, np.quantile(values, _LEVELS)), strict=True))
            self.quantiles[feature] = found
        return self.quantiles[feature]


@lru_cache(maxsize=2)
def _template(name: str):
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(__name__.rpartition(".")[0]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_hold_together,
    )
    words = {
        m.__name__.rpartition(".")[2]: m
        for m in (actions, by_class, causes, comparison, costs, evidence, formats, outlook, references)
    }
    environment.globals |= words | {"axis": axis, "drawings": drawings}
    return environment.get_template(name)


def _hold_together(value: Any) -> Any:
    """Keep a number and its percent sign on one line, and show control characters, which HTML must not hold.

    Drawings, which are marked as safe, stay as they are.
    """
    return re.sub(r"(?<=\d) (?=%)", "\N{NO-BREAK SPACE}", printable(value)) if type(value) is str else value


def _slug(name: str) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-")
    return f"-{slug}" if slug else ""
