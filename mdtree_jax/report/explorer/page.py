"""Writes collections into one self-contained page that needs no network.

The page draws with Vega, bundled by vl-convert: 0.9 MB, a fifth of Plotly, which opens faster. Only the scripts that
stand in the page may run (their hashes are in its Content-Security-Policy, and Vega interprets its expressions without
`eval`); nothing can be loaded. Data are a block of JSON in which no `<` stands; scripts put texts into the page as text
only.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from mdtree_jax.checks import UserError
from mdtree_jax.collection.load import load_collection
from mdtree_jax.collection.moves import noted_axes
from mdtree_jax.files import write_text
from mdtree_jax.provenance import __version__
from mdtree_jax.report.explorer.data import collection_data
from mdtree_jax.report.explorer.learning_curves import find_history

_FOLDER = Path(__file__).parent / "templates"
#: In the order of their use.
_SCRIPTS = ("state.js", "controls.js", "phase.js", "tree.js", "filter.js", "details.js", "main.js")
MOST_COLLECTIONS = 2


def write_explorer(
    path: str | os.PathLike,
    sources: Sequence[str | os.PathLike | pd.DataFrame],
    *,
    fit: str = "published",
    diagnoses: bool = True,
    published_dir: str | os.PathLike | None = None,
    say: Callable[[str], None] = lambda note: None,
) -> Path:
    """Write the explorer of one collection, or of two side by side, and return its path.

    Args:
        path: of the page, which is overwritten.
        sources: as for `load_collection`; incomplete grids are accepted.
        fit: how the thresholds of the trees are fitted, of `mdtree_jax.trees.classifier.FITS`.
        diagnoses: whether every row is diagnosed.
        published_dir: a local folder with the two published files.
        say: called with each note on what a collection lacks.

    Raises:
        UserError: no or more than two collections, a collection that cannot be read, vl-convert missing, or a page
            that cannot be written.
    """
    if not 1 <= len(sources) <= MOST_COLLECTIONS:
        raise UserError(f"the explorer shows one collection or two side by side; {len(sources)} are given")
    bundle = vega_bundle()
    found = []
    for source in sources:
        frame = load_collection(source, allow_missing=True, published_dir=published_dir)
        history = None if isinstance(source, pd.DataFrame) else find_history(source, list(noted_axes(frame)))
        found.append(collection_data(frame, fit=fit, diagnoses=diagnoses, history=history))
        for note in found[-1]["notes"]:
            say(note)
    write_text(path, render(found, bundle))
    return Path(path)


@lru_cache(maxsize=1)
def vega_bundle() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script; raises `UserError` if vl-convert is not installed."""
    try:
        import vl_convert  # pyright: ignore[reportMissingImports] - an extra
    except ImportError as error:
        raise UserError(
            "the explorer needs vl-convert, which bundles Vega into the page; "
            "install it with pip install 'mdtree-jax[explore]'"
        ) from error
    return vl_convert.javascript_bundle()  # pyright: ignore[reportCallIssue] - its snippet has a default


def render(collections: Sequence[dict[str, Any]], bundle: str) -> str:
    """Return the page of collections (`collection_data`), with Vega's script `bundle`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    own = "\n".join((_FOLDER / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    scripts = [bundle, f'(function () {{\n"use strict";\n{own}\n}})();\n']
    environment = Environment(
        loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("page.html").render(
        title=" and ".join(one["name"] for one in collections),
        version=__version__,
        one=" one" if len(collections) == 1 else "",
        policy=" ".join(f"'sha256-{_digest(script)}'" for script in scripts),
        style=(_FOLDER / "style.css").read_text(encoding="utf-8"),
        scripts=scripts,
        data=as_block({"collections": list(collections)}),
    )


def as_block(data: Any) -> str:
    """Return JSON that can stand in a script element: without `<`, `>`, `&` and separators that end a line.

    >>> as_block({"name": "</script>"})
    '{"name":"\\\\u003c/script\\\\u003e"}'
    """
    text = json.dumps(data, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
