"""A griffe extension: what docstrings hold for readers of the source, as Markdown.

Tables drawn with lines of `=` become Markdown tables (a row whose first column is empty goes on with the row above it),
and examples that start with `>>>` become code blocks.
"""

from __future__ import annotations

import re

import griffe

_RULE = re.compile(r"^\s*=+(?: +=+)+\s*$")


class DocstringMarkdown(griffe.Extension):
    """Rewrites the docstring of every object."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        """Rewrite one docstring."""
        if obj.docstring:
            lines = with_code_blocks(with_tables(obj.docstring.value.splitlines()))
            obj.docstring.value = "\n".join(lines)


def with_code_blocks(lines: list[str]) -> list[str]:
    """Return the lines with a fence around every example, which ends at a blank line."""
    out: list[str] = []
    fence = ""
    for line in [*lines, ""]:
        if not fence and line.lstrip().startswith(">>>"):
            fence = line[: len(line) - len(line.lstrip())] + "```"
            out.append(fence + "pycon")
        elif fence and not line.strip():
            out.append(fence)
            fence = ""
        out.append(line)
    return out[:-1]


def with_tables(lines: list[str]) -> list[str]:
    """Return the lines with every table in Markdown."""
    out: list[str] = []
    rules = [place for place, line in enumerate(lines) if _RULE.match(line)]
    done = 0
    for start, end in zip(rules[::2], rules[1::2], strict=True):
        out += [*lines[done:start], *_markdown(lines[start], lines[start + 1 : end])]
        done = end + 1
    return out + lines[done:]


def _markdown(rule: str, lines: list[str]) -> list[str]:
    """Return a Markdown table without titles of the lines between two rules."""
    indent = rule[: len(rule) - len(rule.lstrip())]
    starts = [found.start() for found in re.finditer("=+", rule)]
    rows: list[list[str]] = []
    for line in lines:
        cells = [line[start:end].strip() for start, end in zip(starts, [*starts[1:], None], strict=True)]
        if len(starts) == 2 and line[starts[1] - 1 : starts[1]].strip():  # a first cell that is wider than its column
            cells = re.split(r"\s{2,}", line.strip(), maxsplit=1)
        if rows and not cells[0]:
            rows[-1] = [" ".join(filter(None, pair)) for pair in zip(rows[-1], cells, strict=True)]
        else:
            rows.append([cell.replace("|", r"\|") for cell in cells])
    head = [f"{indent}|{'   |' * len(starts)}", f"{indent}|{'---|' * len(starts)}"]
    return ["", *head, *(f"{indent}| {' | '.join(row)} |" for row in rows), ""]
