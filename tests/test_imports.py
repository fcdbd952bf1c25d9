"""Who imports whom: the layers, the rooms that start without JAX, no import by string, names of the release before."""

import ast
import configparser
import importlib
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import mdtree_jax
from mdtree_jax import moved
from tests.conftest import ROOT

PACKAGE = ROOT / "mdtree_jax"
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
NO_JAX = SETUP["importlinter:contract:no_jax"]["source_modules"].split()
#: The modules that may import by a name they compute: the facade with its tables, and where a user's module is named.
BY_NAME = {"__init__.py", "moved.py", "registry/plugins.py", "registry/resolve.py"}


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


PATHS = sorted(PACKAGE.rglob("*.py"))
MODULES = {module_name(path) for path in PATHS}


def lint_imports(config, folder=ROOT):
    pytest.importorskip("importlinter", reason="import-linter is not installed: pip install -e '.[dev]'")
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run([*command, str(config)], cwd=folder, env=environment, capture_output=True, text=True)


def test_the_import_contract_holds_without_exceptions():
    done = lint_imports(ROOT / "setup.cfg")
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout
    sections = [SETUP[name] for name in SETUP.sections() if name.startswith("importlinter")]
    assert not any("ignore" in key for section in sections for key in section)


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("trees/fit.py", "def late():\n    from mdtree_jax.diagnosis import result", "rooms below it"),
        ("models/mlp.py", "import mdtree_jax.landscape.safe", "rooms below it"),
        ("strange.py", "", "rooms below it"),
        ("trees/structure.py", "import mdtree_jax.trees.classifier", "circle"),
        ("report/tables.py", "def late():\n    import jax.numpy", "What starts at once"),
        ("store/tables.py", "import jax", "JAX is imported by"),
    ],
)
def test_the_import_contract_sees_what_is_wrong(tmp_path, module, line, contract):
    for path in PATHS:
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    (tmp_path / "setup.cfg").write_bytes((ROOT / "setup.cfg").read_bytes())
    with (tmp_path / "mdtree_jax" / module).open("a") as file:
        file.write(f"\n{line}\n")
    done = lint_imports(tmp_path / "setup.cfg", tmp_path)
    assert done.returncode == 1
    assert re.search(rf"{contract}.* BROKEN", done.stdout), done.stdout


@pytest.mark.parametrize("room", NO_JAX)
def test_a_room_without_jax_does_not_load_it(room, tmp_path):
    inside = sorted(name for name in MODULES if name == room or name.startswith(f"{room}."))
    code = f"import sys, {', '.join(inside)}; print({{'jax', 'flax', 'optax', 'orbax'}} & set(sys.modules))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


def strings(tree):
    """Return the string constants of a module that are no docstrings, and the beginnings of its f-strings."""
    places = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    bodies = [node.body[0] for node in ast.walk(tree) if isinstance(node, places) and node.body]
    words = {id(first.value) for first in bodies if isinstance(first, ast.Expr)}
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [node.value for node in found if id(node) not in words]


def imports_by_string(path):
    """Return the calls of a module that import by a string, and the strings that name a module of ours."""
    tree, found = ast.parse(path.read_text()), []
    for node in ast.walk(tree):
        name = getattr(node, "attr", getattr(node, "id", None)) if isinstance(node, ast.Name | ast.Attribute) else None
        if name in ("import_module", "__import__", "find_spec", "run_module"):
            found.append(name)
    return found + [text for text in strings(tree) if text.startswith("mdtree_jax.")]


@pytest.mark.parametrize("path", [p for p in PATHS if str(p.relative_to(PACKAGE)) not in BY_NAME], ids=module_name)
def test_no_module_imports_by_string(path):
    assert imports_by_string(path) == []


def test_the_lazy_table_of_the_facade_is_all_that_names_modules():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    assert sorted(imports_by_string(PACKAGE / "__init__.py")) == sorted(["import_module", *mdtree_jax._HOME.values()])
    rooms = "".join(SETUP["importlinter:contract:layers"]["layers"]).split()
    for name, home in mdtree_jax._HOME.items():
        assert home in MODULES
        assert home.split(".")[1] in rooms
        defined = ast.parse((ROOT / Path(*home.split("."))).with_suffix(".py").read_text()).body
        assert any(name in ast.unparse(node).split("\n")[-1] or getattr(node, "name", "") == name for node in defined)
        assert getattr(mdtree_jax, name) is getattr(importlib.import_module(home), name)
    # What a type checker reads is the same table.
    branch = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {one.asname: node.module for node in branch.body for one in node.names}
    assert typed == mdtree_jax._HOME
    assert set(mdtree_jax.__all__) <= set(dir(mdtree_jax))


#: Imports that the release before documented, in README and notebooks.
DOCUMENTED = [
    "from mdtree_jax.diagnosis.suite import transfer",
    "from mdtree_jax.diagnosis.experiments import PUBLISHED_SEEDS, task_rows",
    "from mdtree_jax.diagnosis.tasks import TASKS",
    "from mdtree_jax.diagnosis.columns import feature_values",
    "from mdtree_jax.diagnosis.stability import label_agreement, label_stability",
]


@pytest.fixture
def fresh_names():
    """Forget the old modules before and after, so that each import warns."""

    def forget():
        for old in moved.MOVED:
            sys.modules.pop(f"mdtree_jax.{old}", None)
            room, _, name = old.rpartition(".")
            vars(importlib.import_module(f"mdtree_jax.{room}")).pop(name, None)

    forget()
    yield
    forget()


@pytest.mark.parametrize("statement", DOCUMENTED)
def test_documented_imports_of_the_release_before_work(statement, fresh_names):
    found = {}
    with pytest.warns(DeprecationWarning, match="moved to mdtree_jax") as caught:
        exec(compile(statement, "user.py", "exec"), found)
    assert caught[0].filename == "user.py"  # the line that should change, not one of ours
    names = {name: value for name, value in found.items() if not name.startswith("__")}
    old = statement.split()[1].removeprefix("mdtree_jax.")
    homes = [importlib.import_module(f"mdtree_jax.{new}") for new in moved.MOVED[old]]
    for name, value in names.items():
        assert any(vars(home).get(name) is value for home in homes)


@pytest.mark.parametrize("old", moved.MOVED)
def test_a_moved_module_hands_on_all_names(old, fresh_names):
    assert f"mdtree_jax.{old}" not in MODULES
    with pytest.warns(DeprecationWarning, match="moved to") as caught:
        module = importlib.import_module(f"mdtree_jax.{old}")
    for new in reversed(moved.MOVED[old]):
        assert f"mdtree_jax.{new}" in str(caught[0].message)
    first = importlib.import_module(f"mdtree_jax.{moved.MOVED[old][0]}")
    public = {name for name in vars(first) if not name.startswith("_")}
    assert public <= set(dir(module))
    assert all(getattr(module, name) is getattr(first, name) for name in public)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        module.nothing  # noqa: B018


def test_names_that_never_were_are_not_found():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("mdtree_jax.diagnosis.nothing", "elsewhere.diagnosis.suite"):
            with pytest.raises(ModuleNotFoundError):
                importlib.import_module(name)


def test_the_migration_page_lists_every_move():
    page = (ROOT / "docs" / "migration.md").read_text()
    rows = re.findall(r"^\| `(mdtree_jax\.[\w.]+)` \| (.*) \|$", page, re.MULTILINE)
    listed = {old: tuple(re.findall(r"`([\w.]+)`", new)) for old, new in rows}
    whole = {f"mdtree_jax.{old}": tuple(f"mdtree_jax.{one}" for one in new) for old, new in moved.MOVED.items()}
    assert listed == whole
    assert [old for old, _ in rows] == sorted(listed)
