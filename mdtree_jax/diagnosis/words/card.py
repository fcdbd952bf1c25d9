"""Cards for notebooks: a title and a few lines as a small HTML table. All texts are escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


def html_card(title: str, lines: Sequence[tuple[str, str]]) -> str:
    """Return a card: a table with a caption, and a row for every pair of a name and a text.

    >>> html_card("a < b", [("error", "3 %")])
    '<table><caption><b>a &lt; b</b></caption><tr><th style="text-align:left;font-weight:400">error</th><td
    style="text-align:left">3 %</td></tr></table>'
    """
    rows = "".join(
        f'<tr><th style="text-align:left;font-weight:400">{escape(name)}</th>'
        f'<td style="text-align:left">{escape(text)}</td></tr>'
        for name, text in lines
    )
    return f"<table><caption><b>{escape(title)}</b></caption>{rows}</table>"
