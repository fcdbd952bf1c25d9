"""Write the parts of the documentation generated from the code and from recorded results.

    python docs/generate.py

Each part goes to `docs/generated/NAME.md`, which git ignores; a page includes it by `--8<-- "generated/NAME.md"`.
"""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]  # the package of this checkout, before one that is installed

from recorded import advice, carried, families, headline, table  # noqa: E402

import mdtree_jax  # noqa: E402
from mdtree_jax import cli  # noqa: E402
from mdtree_jax.causes.evidence import EVIDENCE, GROUPS  # noqa: E402
from mdtree_jax.collection import columns, curve_features  # noqa: E402
from mdtree_jax.config import SCHEMAS  # noqa: E402
from mdtree_jax.registry import measurements  # noqa: E402
from mdtree_jax.registry.architectures import ARCHITECTURES  # noqa: E402
from mdtree_jax.registry.causes import CAUSES  # noqa: E402
from mdtree_jax.registry.datasets import DATASETS  # noqa: E402
from mdtree_jax.registry.findings import FINDINGS  # noqa: E402
from mdtree_jax.registry.kernels import KERNELS  # noqa: E402
from mdtree_jax.registry.knobs import KNOBS  # noqa: E402
from mdtree_jax.registry.objectives import OBJECTIVES, TARGETS  # noqa: E402
from mdtree_jax.registry.probes import PROBES  # noqa: E402
from mdtree_jax.registry.questions import QUESTIONS  # noqa: E402
from mdtree_jax.registry.remedies import COMPARISONS, REMEDIES  # noqa: E402
from mdtree_jax.registry.tree import Tree  # noqa: E402

GENERATED = ROOT / "docs" / "generated"
#: `key: default  # meaning` of a command's help.
_SETTING = re.compile(r"^(?P<key>[\w.]+):\s*(?P<default>.*?)\s*#\s(?P<meaning>.*)$")


def code(text: object) -> str:
    """Return the text as inline code, nothing for nothing."""
    return f"`{text}`" if str(text) else ""


# --- tables of the registries -----------------------------------------------------------------------------------------


def knobs() -> str:
    """Return the table of knobs."""
    rows = []
    for knob in KNOBS.values():
        values = ", ".join(map(code, knob.choices)) or ("required" if knob.default is None else code(knob.default))
        way = {1: "larger", -1: "smaller"}.get(knob.temperature, "")
        kind = "cohorts" if knob.is_static else "batched"
        rows.append([code(knob.name), knob.unit, knob.meaning, values, way, kind])
    return table(["knob", "unit", "meaning", "default or choices", "hotter when", "in a sweep"], rows)


def causes() -> str:
    """Return the table of causes, with the knobs that fix them."""
    rows = []
    for cause in CAUSES.values():
        moves = [f"`{k.name}` {k.words.up}" for k in KNOBS.values() if k.up == cause.name]
        moves += [f"`{k.name}` {k.words.down}" for k in KNOBS.values() if k.down == cause.name]
        moves += ["see its findings"] if cause.is_fault else []
        rows.append([code(cause.name), cause.short, cause.sentence.format(knobs="a knob"), ", ".join(moves)])
    return table(["cause", "short name", "in words", "fixed by"], rows)


def findings() -> str:
    """Return the table of findings of a preflight."""
    rows = [[code(f.name), f.meaning, f.holds, f.change, code(f.cause or "")] for f in FINDINGS.values()]
    return table(["finding", "in words", "when it holds", "what to change", "cause"], rows)


def questions() -> str:
    """Return the table of questions."""
    rows = []
    for question in QUESTIONS.values():
        classes = [f"`{a.name}`" + (f" (published `{a.published}`)" if a.published else "") for a in question.answers]
        least = f"widths from {question.min_width} on" if question.min_width else "all"
        rows.append([code(question.name), question.sentence, ", ".join(classes), code(question.label), least])
    return table(["task", "question", "answers", "column of the label", "rows used"], rows)


def kernels() -> str:
    """Return the table of what a sweep can measure."""
    rows = []
    for kernel in KERNELS.values():
        if kernel.part_of:
            continue
        made = [
            m.name for m in measurements.MEASUREMENTS.values() if m.kernel and KERNELS[m.kernel].program == kernel.name
        ]
        of = "two networks" if kernel.is_of_pairs or kernel.compares else "one network"
        rows.append([code(kernel.name), of, kernel.meaning, ", ".join(map(code, made))])
    return table(["group", "of", "measures", "columns"], rows)


def probes() -> str:
    """Return the table of probes."""
    rows = [[code(p.name), code(p.knob), p.meaning, code(p.against), p.tells] for p in PROBES.values()]
    return table(["probe", "moves", "what is done", "compared with", "what its outcome tells"], rows)


def evidence() -> str:
    """Return the table of the features from which gains are expected."""
    rows = []
    for entry in sorted(EVIDENCE.values(), key=lambda entry: GROUPS.index(entry.group)):
        rows.append([entry.group, code(entry.name), entry.meaning, ", ".join(map(code, entry.needs))])
    return table(["evidence", "feature", "meaning", "computed from"], rows)


def remedies() -> str:
    """Return the table of remedies."""
    rows = []
    for remedy in REMEDIES.values():
        marks = ["yes" if has else "" for has in (remedy.is_free, remedy.races)]
        rows.append([code(remedy.name), remedy.meaning, code(remedy.knob), code(remedy.cause), *marks])
    return table(["remedy", "change", "knob", "cause", "free", "races"], rows)


def comparisons() -> str:
    """Return the table of questions that expected gains answer."""
    rows = []
    for one in COMPARISONS.values():
        answers = [f"`{name}`: {one.words[name]} ({', '.join(map(code, one.answers[name]))})" for name in one.answers]
        rows.append([code(one.name), one.sentence, "; ".join(answers)])
    return table(["question", "in words", "answers, and the causes whose remedies they compare"], rows)


def architectures() -> str:
    """Return the table of architectures."""
    return table(["architecture", "description"], [[code(a.name), a.meaning] for a in ARCHITECTURES.values()])


def datasets() -> str:
    """Return the table of data sets."""
    rows = []
    for data in DATASETS.values():
        shape = data.shape and f"{data.shape.num_train} + {data.shape.num_test}"
        files = {"data_dir": "downloaded once, or from `data_dir=`", "data_file": "`data_file=`"}.get(data.takes, "")
        about = data.source + (f"; {data.licence}" if data.licence else "")
        rows.append([code(data.name), data.meaning, shape or "", files or "included", about])
    return table(["data set", "description", "training + test examples", "files", "source, licence"], rows)


def objectives() -> str:
    """Return the table of objectives."""
    rows = []
    for o in OBJECTIVES.values():
        rows.append([code(o.name), o.meaning, o.unit, TARGETS[o.targets].meaning, o.outputs, o.error_meaning, o.chance])
    header = ["objective", "loss", "unit", "targets", "outputs", "error", "learned nothing"]
    return table(header, rows)


def trees() -> str:
    """Return the trees of every question, node by node."""
    parts = []
    for question in QUESTIONS.values():
        parts.append(f"### Task `{question.name}`")
        notes = {question.tree.name: "the published tree", **{tree.name: "companion" for tree in question.companions}}
        variants = {
            "replaces a companion for collections of different families": question.relative,
            "variant that uses similarity": (question.similarity,),
            "for a single network": (question.one_checkpoint,),
        }
        shown = {tree.name: tree for tree in question.trees}
        for note, members in variants.items():
            for tree in members:
                if tree is not None and tree.name not in shown:
                    shown[tree.name], notes[tree.name] = tree, note
        parts += [f"**`{name}`**: {notes[name]}\n\n{_nodes(tree)}" for name, tree in shown.items()]
    return "\n\n".join(parts)


def _nodes(tree: Tree) -> str:
    def side(child: int | str) -> str:
        return f"node {child}" if isinstance(child, int) else code(child)

    rows = [
        [i, code(n.feature), f"{n.initial:g}", f"{n.low:g} … {n.high:g}", side(n.left), side(n.right)]
        for i, n in enumerate(tree.nodes)
    ]
    return table(["node", "feature", "initial threshold", "bounds", "at most the threshold", "above it"], rows)


# --- commands and the Python interface --------------------------------------------------------------------------------


def settings() -> str:
    """Return the settings of every command, read off its `--help`."""
    parts = []
    for name in SCHEMAS:
        plain, grouped = [], []
        for line in cli.help_text(name, "").splitlines():
            found = _SETTING.match(line)
            if found:
                key, default, meaning = found.group("key", "default", "meaning")
                (grouped if "." in key else plain).append([code(key), code(default), meaning])
        parts.append(f"## {name}\n\n`python -m mdtree_jax.{name} key=value …`\n\n{_settings_table(plain)}")
        if grouped:
            parts.append(f"### Keys of a grid\n\n{_settings_table(grouped)}")
    return "\n\n".join(parts)


def _settings_table(rows: list[list[str]]) -> str:
    return table(["setting", "default", "meaning"], rows)


def api() -> str:
    """Return a mkdocstrings directive for every public name of the package."""
    return "\n\n".join(f"::: {home}.{name}" for name, home in mdtree_jax._HOME.items() if name[0] != "_")


# --- parts of other files ---------------------------------------------------------------------------------------------


def example(name: str) -> str:
    """Return an example of an extension, as the tests run it: the text of a constant of a test module."""
    file, constant = EXAMPLES[name]
    for statement in ast.parse((ROOT / file).read_text()).body:
        if isinstance(statement, ast.Assign) and [getattr(t, "id", "") for t in statement.targets] == [constant]:
            return f"```py\n{ast.literal_eval(statement.value).strip()}\n```"
    raise SystemExit(f"{file} has no constant {constant}, which docs/how-to/plugins.md shows")


#: Kind of an extension -> test module, and its constant that holds the example.
EXAMPLES = {
    "metric": ("tests/registry/test_measurements.py", "PLUGIN"),
    "knob": ("tests/registry/test_knob_plugins.py", "NOISE"),
    "depth": ("tests/registry/test_knob_plugins.py", "DEPTH"),
    "question": ("tests/registry/test_questions.py", "PLUGIN"),
    "architecture": ("tests/registry/test_plugins.py", "TINY"),
    "dataset": ("tests/registry/test_plugins.py", "RINGS"),
}


def what() -> str:
    """Return the paragraph of the README that says what the package is."""
    return _between("# mdtree-jax\n", "<img ")


def install() -> str:
    """Return how to install the package, as in the README."""
    return _between("## Install\n", "To run the tests:")


def _between(start: str, end: str) -> str:
    """Return the part of the README between two texts."""
    return (ROOT / "README.md").read_text().split(start, 1)[1].split(end, 1)[0].strip()


def changelog() -> str:
    """Return the changelog with its links as a page has them."""
    return (ROOT / "CHANGELOG.md").read_text().replace("](docs/", "](")


PARTS: dict[str, Callable[[], str]] = {
    "columns": columns.markdown_table,
    "curve_features": curve_features.markdown_table,
    "measurements": measurements.markdown_table,
    "knobs": knobs,
    "causes": causes,
    "findings": findings,
    "questions": questions,
    "kernels": kernels,
    "probes": probes,
    "evidence": evidence,
    "remedies": remedies,
    "comparisons": comparisons,
    "objectives": objectives,
    "trees": trees,
    "settings": settings,
    "api": api,
    "headline": headline,
    "carried": carried,
    "families": families,
    "advice": advice,
    "changelog": changelog,
    "what": what,
    "install": install,
    "architectures": architectures,
    "datasets": datasets,
} | {f"example_{name}": functools.partial(example, name) for name in EXAMPLES}


def main() -> None:
    """Write every part."""
    GENERATED.mkdir(exist_ok=True)
    for name, make in PARTS.items():
        (GENERATED / f"{name}.md").write_text(make() + "\n")


if __name__ == "__main__":
    main()
