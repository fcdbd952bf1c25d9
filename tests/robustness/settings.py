"""Every setting of every command with hostile values, in one process: `python -m tests.robustness.settings [COMMAND]`.

A run ends in a result (exit code 0), or one sentence and exit code 2, within seconds. Commands do their work on small
tables; a sweep cuts its grid into cohorts and plans, but trains nothing.
"""

import contextlib
import io
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

from mdtree_jax import cli, diagnose, reference, transfer
from mdtree_jax.config import schema_of
from tests.robustness.kinds import METRICS, collection
from tests.robustness.worker import limit_memory, start_clock, stop_clock

#: What a value must not be, for most of the settings.
HOSTILE = (
    "", "null", "true", "[]", "[[]]", "[[1]]", "{}", "{a: 1}", "[{a: 1}]", "nan", "inf", "-inf", "1e999", "1.8e308",
    "-1.8e308", "-1", "0", "[null]", str(2**31), str(2**32), str(2**63), str(10**30), "[nan,inf]", "'x y'", "'a\nb'",
    "'[bold]'", r"'C:\x'", "'\x1b[2J'", "${nothing}", "???", "a,b", "[a,b]", "1:99999999999", "-0.0", "é", "x" * 300,
    "0.1", "[" * 400 + "]" * 400, "[" + ",".join(["1"] * 3000) + "]", "9" * 5000, "9" * 200, "9" * 400, "1e400",
)  # fmt: skip


def plan(config) -> None:
    """Do of a sweep what needs neither JAX nor data."""
    from mdtree_jax.recipe.axes import make_cohorts
    from mdtree_jax.recipe.measure_settings import resolve
    from mdtree_jax.recipe.schema import check_settings, make_grid, make_recipe, resolved_config

    check_settings(config)
    resolve(config.grid.measure)
    make_cohorts(make_grid(config.grid), 3000)
    resolved_config(config.grid)
    make_recipe(config.grid, 10, (8, 8, 1))


def cases(folder: Path) -> Iterator[tuple[str, object, list[str]]]:
    """Yield every command, what it does, and the settings with which it does so quickly."""
    import pandas as pd

    collection().to_csv(folder / "c.csv", index=False)
    pd.DataFrame([METRICS]).to_csv(folder / "m.csv", index=False)
    here = cli.quoted(str(folder / "out"))
    yield "sweep", plan, ["+grid=digits_tiny"]
    yield "diagnose", diagnose.main, [f"metrics={folder / 'm.csv'}", f"out={here}"]
    yield "reference", reference.main, [f"collection={folder / 'c.csv'}", f"out={cli.quoted(str(folder / 'r.json'))}"]
    quick = [f"out={here}", "figures=false", "seeds=1", "k=[12]", "mode=dataset", "tasks=[size]", "methods=[majority]"]
    yield "transfer", transfer.main, [f"train={folder / 'c.csv'}", *quick]
    yield "measure", lambda config: None, ["model=mlp", "dataset=digits", "checkpoints=[a]"]


def fault_of(command: str, main, overrides: list[str]) -> str:
    """Return what is wrong with how a command ends, '' if nothing is."""
    out, err = io.StringIO(), io.StringIO()
    start_clock()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.run(command, "", main, overrides)
    except BaseException:
        return traceback.format_exc()
    finally:
        stop_clock()
    lines = err.getvalue().splitlines()
    if code == 0:
        return ""
    good = code == cli.EXIT_USER_ERROR and len(lines) == 1 and lines[0].isprintable() and lines[0].startswith(command)
    return "" if good else f"exit code {code}: {err.getvalue()!r:.400}"


def failures(command: str = "", every: int = 1, first: int = 0) -> tuple[int, list[tuple[str, str]]]:
    """Return how many were tried, and what failed: (override, why); of all values every `every`-th from `first` on."""
    tried, found = 0, []
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        for own, main, base in cases(Path(name)):
            if command not in ("", own):
                continue
            keys = [path for path, _ in cli._all_fields(schema_of(own))]
            for place, (key, value) in enumerate((key, value) for key in keys for value in HOSTILE):
                if place % every != first % every:
                    continue
                kept = [o for o in base if o.partition("=")[0] != key]
                tried += 1
                if fault := fault_of(own, main, [*kept, f"{key}={value}"]):
                    found.append((f"{own} {key}={value:.60}", fault))
    return tried, found


if __name__ == "__main__":
    limit_memory()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    tried, found = failures(*sys.argv[1:2], *map(int, sys.argv[2:]))
    for what, why in found:
        print(what, why[-1500:], sep="\n", end="\n\n")
    print(f"tried {tried}, failed {len(found)}")
