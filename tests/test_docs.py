"""The documentation: what the README and the pages show is run, links lead somewhere, generated parts follow the code.

`python` blocks of a page run in order in one namespace. Commands of `bash` blocks that start with
`python -m mdtree_jax.` run once each, all pages in one folder, in the order of the navigation. `py` and `sh` blocks are
shown only.
"""

import importlib
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
import unicodedata
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import yaml

from mdtree_jax import cli
from mdtree_jax.collection.columns import COLUMN
from mdtree_jax.config import SCHEMAS
from mdtree_jax.diagnosis.facts import REASONS
from mdtree_jax.experiments.method_table import METHOD_TABLE
from mdtree_jax.experiments.runner import EXPERIMENTS
from mdtree_jax.registry.causes import CAUSES
from mdtree_jax.registry.findings import FINDINGS
from mdtree_jax.registry.kernels import CHOICES
from mdtree_jax.registry.knobs import KNOBS
from mdtree_jax.registry.measurements import MEASUREMENTS
from mdtree_jax.registry.questions import QUESTIONS
from tests.conftest import ROOT
from tests.numerics import unoptimized

DOCS = ROOT / "docs"
README = ROOT / "README.md"
GENERATE = runpy.run_path(str(DOCS / "generate.py"))
CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text())


def nav_pages(entries=CONFIG["nav"]):
    """Return the pages of the navigation, in its order."""
    found = []
    for entry in entries:
        for target in entry.values() if isinstance(entry, dict) else [entry]:
            found += nav_pages(target) if isinstance(target, list) else [DOCS / target]
    return found


PAGES = [README, *nav_pages()]


def page_id(page):
    return str(page.relative_to(ROOT))


def blocks_of(page):
    """Return (language, text) of every fenced block of a page, in order."""
    return re.findall(r"^```([\w]*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def commands_of(text):
    """Return the commands of a bash block that run the package."""
    lines = [line.split("#")[0] for line in text.splitlines()]
    commands = [part.strip().removeprefix(".venv/bin/") for line in lines for part in line.split("&&")]
    return [command for command in commands if command.startswith("python -m mdtree_jax.")]


def quicker(command):
    """Return settings that make a command take seconds."""
    if "dry_run=true" in command:  # of a folder that nothing is in: the runs before it had the quicker settings
        return [] if " out=" in command else ["out=runs/planned"]
    if "+grid=digits_tiny" in command:  # a residual network takes minutes to compile
        less = ["grid.width=[3,8]", "grid.batch_size=[16,64]"]
        quick = ["grid.model=mlp", "grid.measure.metrics=[hessian]", "grid.measure.effort=fast"]
        return [*quick, *(less if "[16,256]" not in command else [])]
    if "mdtree_jax.transfer" not in command or "mode=" not in command:
        return []
    sizes = [] if "tasks=" in command else ["k=[1,8]"]
    if "published" in command:  # the other pairs take all methods
        sizes.append("methods=[md_tree,majority]")
    return ["seeds=[42]", *sizes, *([] if command.endswith("mode=dataset") else ["figures=false"])]


#: Work of Python blocks that takes long, and what does instead in the default selection.
QUICKER_PYTHON = {
    '"epochs": 10}': '"epochs": 2}',
    "    training=recipe,": '    training=recipe, measure={"metrics": ["hessian"]},',
}


class Runner:
    """Runs pages in one folder; what a page or a command did is kept."""

    def __init__(self, folder, is_quick):
        self.folder, self.is_quick, self.runs, self.names = folder, is_quick, {}, {}

    def run(self, page):
        names = self.names.setdefault(page, {})
        blocks = blocks_of(page)
        for place, (language, text) in enumerate(blocks):
            if language == "bash":
                for command in commands_of(text):
                    self.command(command)
            elif language == "python":
                printed = self.python(text, names)
                if place + 1 < len(blocks) and text_follows(page, text):
                    assert printed.startswith(blocks[place + 1][1]), f"{page_id(page)} shows another output"

    def command(self, command):
        if command in self.runs:
            return
        if self.is_quick and "+grid" not in command:
            self.runs[command] = self.here(command)
            return
        arguments = [sys.executable, *shlex.split(command)[1:], *(quicker(command) if self.is_quick else [])]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        if self.is_quick:  # these programs run for less time than they compile
            environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"
        done = subprocess.run(arguments, cwd=self.folder, env=environment, capture_output=True, text=True)
        self.runs[command] = done.returncode
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"

    def here(self, command):
        """Run a command in this process, which has started already."""
        name, *arguments = shlex.split(command)[2:]
        module = importlib.import_module(name)
        with unoptimized(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as said:
            code = cli.run(name.rpartition(".")[2], module.__doc__, module.main, [*arguments, *quicker(command)])
        assert code == 0, f"{command}\n{said.getvalue()}"
        return code

    def python(self, text, names):
        for long, short in QUICKER_PYTHON.items():
            text = text.replace(long, short) if self.is_quick else text
        with redirect_stdout(io.StringIO()) as printed:
            exec(text, names)  # our own documentation
        return printed.getvalue()


def text_follows(page, block):
    return re.search(re.escape(f"{block}```") + r"\n+```text\n", page.read_text()) is not None


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    return Runner(tmp_path_factory.mktemp("docs"), is_quick=True)


RUN = [page for page in PAGES if {"bash", "python"} & {language for language, _ in blocks_of(page)}]


@pytest.mark.parametrize("page", RUN, ids=page_id)
def test_what_a_page_shows_runs(page, runner, collections, monkeypatch):
    monkeypatch.chdir(runner.folder)
    # A process that has started JAX must not fork.
    monkeypatch.setattr("mdtree_jax.parallel.available_cores", lambda: 1)
    runner.run(page)


def test_commands_wrote_what_the_pages_say(runner, collections):
    assert len(runner.runs) >= 20
    assert (runner.folder / "runs/transfer-dataset/figures/accuracy_q1_dataset.png").stat().st_size > 10_000
    assert (runner.folder / "runs/diagnose/index.html").stat().st_size > 10_000
    assert (runner.folder / "runs/one/report.html").stat().st_size > 10_000
    assert (runner.folder / "mine.json").stat().st_size > 1000


@pytest.mark.slow
def test_all_pages_run_as_they_stand(tmp_path, collections, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runner = Runner(tmp_path, is_quick=False)
    for page in RUN:
        runner.run(page)


def test_readme_is_short_and_has_two_set_up_lines():
    assert len(README.read_text().splitlines()) <= 150
    lines = [line for language, text in blocks_of(README) if language == "bash" for line in text.splitlines()]
    assert sum("pip install" in line for line in lines) == 2
    assert GENERATE["headline"]() in README.read_text(), "the table of results is not that of sweeps/transfer.md"
    assert GENERATE["carried"]() in README.read_text(), "the table of gains is not that of sweeps/gains.md"


def test_navigation_holds_every_page():
    there = {path for path in DOCS.rglob("*.md") if "generated" not in path.parts}
    assert set(nav_pages()) == there
    assert len(nav_pages()) == len(there)


# --- links


def expanded(page):
    """Return the text of a page with the snippets that it includes, as the site shows it, without fenced blocks."""

    def include(found):
        name = found.group(1).partition(":")[0]
        if name.startswith("generated/"):
            return GENERATE["PARTS"][Path(name).stem]()  # where git does not have it
        return next(base / name for base in (DOCS, ROOT) if (base / name).is_file()).read_text()

    text = re.sub(r'^--8<-- "(.*?)"$', include, page.read_text(), flags=re.MULTILINE)
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors_of(page):
    """Return the anchors of a page's headings, as Python-Markdown makes them."""
    found = set()
    for heading in re.findall(r"^#+ (.*)$", expanded(page), re.MULTILINE):
        given = re.search(r"\{#([\w-]+)\}", heading)
        plain = re.sub(r"\[(.*?)\]\(.*?\)|[`*]", r"\1", re.sub(r"\{.*\}", "", heading))
        ascii_text = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
        slug = re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", ascii_text).strip().lower())
        found.add(given.group(1) if given else slug)
    return found


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_and_images_lead_somewhere(page):
    text = expanded(page)
    targets = re.findall(r"\]\(([^()\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    wrong = []
    for target in targets:
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        in_site = page == README or DOCS in there.parents  # the site holds nothing else
        if not (in_site and there.is_file()) or (anchor and anchor not in anchors_of(there)):
            wrong.append(target)
    assert wrong == []


# --- generated parts


def test_generated_tables_hold_every_entry():
    parts = {name: make() for name, make in GENERATE["PARTS"].items()}
    for part, names in {
        "columns": COLUMN,
        "measurements": [f"| `{name}` " for name in MEASUREMENTS],
        "kernels": CHOICES,
        "knobs": KNOBS,
        "causes": CAUSES,
        "findings": FINDINGS,
        "questions": QUESTIONS,
        "trees": [f"**`{tree.name}`**" for question in QUESTIONS.values() for tree in question.trees],
    }.items():
        lacking = [
            name for name in names if (name if name.startswith(("*", "|")) else f"| `{name}` |") not in parts[part]
        ]
        assert lacking == [], part


def test_every_setting_of_every_command_is_documented():
    text = GENERATE["PARTS"]["settings"]()
    sections = dict(
        zip(re.findall(r"^## (\w+)$", text, re.MULTILINE), re.split(r"^## \w+$", text, flags=re.M)[1:], strict=True)
    )
    assert list(sections) == list(SCHEMAS)
    for name, schema in SCHEMAS.items():
        lacking = [key for key in schema.__dataclass_fields__ if key != "grid" and f"| `{key}` |" not in sections[name]]
        assert lacking == [], name
    assert "| `grid.width` |" in sections["sweep"]
    assert "| `grid.measure.effort` |" in sections["sweep"]


def test_every_reason_to_abstain_has_advice():
    text = (DOCS / "how-to" / "cannot-tell.md").read_text()
    assert [kind for kind in REASONS if f"| `{kind}` |" not in text] == []


def test_every_method_and_experiment_is_described():
    text = (DOCS / "how-to" / "transfer.md").read_text()
    assert [name for name in [*METHOD_TABLE, *EXPERIMENTS] if f"`{name}`" not in text] == []
