"""Modules of mdtree-jax 0.1 under their old names, for one release: imported with a `DeprecationWarning`.

`MOVED` is the whole table. The facade `mdtree_jax/__init__.py` puts `OldNames` last in `sys.meta_path`, so that it
is asked only for a name that no module has.
"""

from __future__ import annotations

import importlib
import sys
import types
import warnings
from collections.abc import Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from typing import Any

#: Old module -> the modules that its names are in now, the first to be asked first; all within `mdtree_jax`.
MOVED = {
    "diagnosis.causes": ("causes.labels", "registry.causes"),
    "diagnosis.chances": ("diagnosis.probabilities",),
    "diagnosis.classifier": ("trees.classifier",),
    "diagnosis.collection": ("collection.load",),
    "diagnosis.columns": ("collection.columns",),
    "diagnosis.companions": ("trees.members",),
    "diagnosis.coverage": ("experiments.coverage", "causes.evaluate", "causes.joint", "collection.grid"),
    "diagnosis.drawing": ("trees.drawing",),
    "diagnosis.engine": ("trees.fit",),
    "diagnosis.evidence": ("trees.decision_path",),
    "diagnosis.experiments": ("experiments.runner", "collection.tasks", "causes.method_protocol"),
    "diagnosis.grid": ("collection.grid",),
    "diagnosis.joint": ("causes.joint",),
    "diagnosis.joint_transfer": (
        "experiments.joint",
        "experiments.method_table",
        "causes.evaluate",
        "causes.method_protocol",
    ),
    "diagnosis.methods": ("experiments.method_table", "causes.method_protocol"),
    "diagnosis.one_step": ("experiments.one_step",),
    "diagnosis.published": ("collection.published",),
    "diagnosis.robust": ("trees.robust",),
    "diagnosis.sampling": ("experiments.sampling",),
    "diagnosis.saved": ("trees.saved",),
    "diagnosis.scales": ("collection.ranks",),
    "diagnosis.stability": ("collection.label_stability",),
    "diagnosis.structures": ("trees.structure", "trees.members", "registry.tree"),
    "diagnosis.suite": ("experiments.suite",),
    "diagnosis.tasks": ("collection.tasks",),
    "diagnosis.track_record": ("diagnosis.reference_fit",),
    "diagnosis.verdict": ("diagnosis.from_metrics", "diagnosis.result", "diagnosis.action"),
    "landscape.alignment": ("landscape.paths.alignment",),
    "landscape.barrier": ("landscape.paths.barrier",),
    "landscape.curves": ("landscape.paths.curves",),
    "landscape.eigen": ("landscape.hessian.eigen",),
    "landscape.factorizations": ("landscape.hessian.factorizations",),
    "landscape.low_rank_trace": ("landscape.hessian.xtrace",),
    "landscape.points": ("landscape.paths.points",),
    "landscape.products": ("landscape.hessian.products",),
    "landscape.surface": ("landscape.paths.surface",),
    "landscape.trace": ("landscape.hessian.trace",),
    "landscape.trees": ("landscape.pytrees",),
    "population.cohort": ("recipe.cohort",),
    "population.curve_blocks": ("measuring.curves",),
    "population.executables": ("population.compiled",),
    "population.grid": ("recipe.axes",),
    "population.jax_side": ("runs.jax_backend",),
    "population.lanes": ("population.loop",),
    "population.mapped": ("population.compiled",),
    "population.measure": ("measuring.measure",),
    "population.measure_cost": ("measuring.flops",),
    "population.measure_programs": ("measuring.programs",),
    "population.measure_settings": ("recipe.measure_settings",),
    "population.measure_tables": ("measuring.tables",),
    "population.measures": ("measuring.kernels",),
    "population.passes": ("population.assignment",),
    "population.plan": ("runs.plan",),
    "population.progress": ("runs.monitor",),
    "population.run": ("runs.run",),
    "population.schema": ("recipe.schema",),
    "population.setting": ("recipe.setting",),
    "population.verify": ("runs.verify",),
    "report.answer": ("diagnosis.words.answer",),
    "report.formats": ("diagnosis.words.formats",),
    "report.progress": ("report.terminal",),
    "report.words": (
        "diagnosis.words.causes",
        "diagnosis.words.actions",
        "diagnosis.words.evidence",
        "diagnosis.words.notes",
        "diagnosis.words.costs",
        "diagnosis.words.references",
        "diagnosis.words.metrics",
        "diagnosis.words.formats",
    ),
    "subject.diagnose": ("subject.from_model",),
}

_PACKAGE = "mdtree_jax."


class OldNames(Loader):
    """Finder and loader of the modules of `MOVED`: an old module hands on every attribute of the new ones."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        """Return a spec for an old name, None for any other."""
        return ModuleSpec(name, self) if name.removeprefix(_PACKAGE) in MOVED and name.startswith(_PACKAGE) else None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType | None:
        """Let the import system make the module."""

    def exec_module(self, module: types.ModuleType) -> None:
        """Warn, at the line that imports the old name, and tie the module to the new ones."""
        names = [_PACKAGE + new for new in MOVED[module.__name__.removeprefix(_PACKAGE)]]
        message = f"{module.__name__} moved to {' and '.join(names)}; the old name will be removed in the next release"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        new = [importlib.import_module(name) for name in names]
        public = sorted({key for one in new for key in vars(one) if not key.startswith("_")})

        def hand_on(name: str) -> Any:
            for one in new:
                if hasattr(one, name):
                    return getattr(one, name)
            raise AttributeError(f"module '{module.__name__}' has no attribute '{name}'")

        vars(module).update(__getattr__=hand_on, __dir__=lambda: public, __all__=public, __doc__=message)


def install() -> None:
    """Make the old names importable; a second call changes nothing."""
    if not any(isinstance(finder, OldNames) for finder in sys.meta_path):
        sys.meta_path.append(OldNames())
