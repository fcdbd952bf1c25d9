"""Tables in text files, read strictly: every dialect is read right or refused in one sentence. pandas, no JAX.

====================================================  =====================================================
UTF-8 with or without BOM, UTF-16 and UTF-32 with it  read; another encoding is refused
columns apart by `,`, `;`, tab or `|`                 read: the one with which every row has as many fields
a separator at the end of every row                   read without the empty field
a line `sep=;` before the header (Excel)              read
an index that pandas wrote (a first column unnamed)   left out
a header in capitals                                  read in small letters
a row of more or fewer fields                         refused, with its line
a name that stands twice                              refused
decimal commas                                        read where another separator and the digits leave no doubt
thousands separators, and what may be either          refused, with column and line
====================================================  =====================================================

Without this, pandas takes the first column of a table whose rows end in a comma for row labels, and shifts the others.
"""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
from collections.abc import Callable
from typing import IO, Any, cast

import pandas as pd

from mdtree_jax.checks import UserError

_BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SEPARATORS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
#: Digits with something else than one point between or beside them.
_ODD = re.compile(
    r"[+-]?(?=[^,' \u00a0\u2009\u202f’_]*[,' \u00a0\u2009\u202f’_])[\d.,' \u00a0\u2009\u202f’_]+([eE][+-]?\d+)?"
)
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
#: What can be a thousands separator as well: 1,234 but not 0,234, 1,23 or 12345,678.
_MAYBE_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")
#: A line, and the fields of a row.
_Row = tuple[int, list[str]]


def read_text_table(
    source: str | os.PathLike | IO[str], is_number: Callable[[str], bool] = lambda _: False
) -> pd.DataFrame:
    """Return the table of a text file in one of the dialects above, with correctly rounded float64 numbers.

    Args:
        source: a path, or an open text file.
        is_number: says of a column's name whether it must hold numbers; only there is a comma more than text.

    Raises:
        UserError: a file in no such dialect.
        OSError: a file that cannot be read.
    """
    separator, rows = _rows(_text(source))
    names, rows = _named(rows)
    rows = _with_points(names, rows, separator, is_number)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(cells for _, cells in rows)
    stream.seek(0)
    # By default pandas before 3.1 changes the last bit of one number in ten; 3.1 warns about the option against it.
    exact = tuple(map(int, pd.__version__.split(".")[:2])) >= (3, 1)
    options = {"index_col": False} if exact else {"index_col": False, "float_precision": "round_trip"}
    table = pd.read_csv(stream, **cast("dict[str, Any]", options))
    assert table.shape == (len(rows), len(names)), "what was checked is what is read"
    return table


def _text(source: str | os.PathLike | IO[str]) -> str:
    if not isinstance(source, (str, os.PathLike)):
        return source.read()
    with open(source, "rb") as file:
        content = file.read()
    encoding = next((name for mark, name in _BOMS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        place = f"line {line}" if encoding.startswith("utf-8") else "a character"
        raise UserError(f"{place} is not in {encoding.removesuffix('-sig').upper()}; save it as UTF-8") from error
    if "\0" in text:
        raise UserError("it holds null characters: it is no text, or in UTF-16 without its mark; save it as UTF-8")
    return text


def _rows(text: str) -> tuple[str, list[_Row]]:
    """Return the separator and the rows, each with its line, the header first; blank lines are left out."""
    said = re.match(r"sep=(.)\r?\n", text)
    text, first = (text[said.end() :], 1) if said else (text, 0)
    header = text.lstrip("\r\n").partition("\n")[0]
    if not text.strip():
        raise UserError("it is empty; expected a line of column names")
    wanted = [said[1]] if said else [mark for mark in _SEPARATORS if mark in header] or [","]
    failed: UserError | None = None
    for separator in wanted:
        try:
            rows = _whole(_parsed(text, separator, first))
        except UserError as error:
            failed = failed or error
            continue
        if len(rows[0][1]) > 1 or separator == wanted[-1]:
            return separator, rows
    assert failed is not None
    raise failed


def _parsed(text: str, separator: str, first: int) -> list[_Row]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows = []
    try:
        for cells in reader:
            if len(cells) > 1 or (cells and not cells[0].isspace()):
                rows.append((reader.line_num + first, [cell.strip() for cell in cells]))
    except csv.Error as error:
        raise UserError(f"line {reader.line_num + first} is not CSV ({error})") from error
    if not rows:
        raise UserError("it is empty; expected a line of column names")
    return rows


def _whole(rows: list[_Row]) -> list[_Row]:
    """Return rows of equally many fields, without an empty one that each of them ends in."""
    header, body = rows[0][1], rows[1:]
    if body and all(len(cells) == len(header) + 1 and not cells[-1] for _, cells in body):
        body = [(line, cells[:-1]) for line, cells in body]
    while len(header) > 1 and not header[-1] and not any("".join(cells[len(header) - 1 :]) for _, cells in body):
        header = header[:-1]
        body = [(line, cells[: len(header)]) for line, cells in body]
    width = len(header)
    for line, cells in body:
        if len(cells) != width:
            raise UserError(f"line {line} has {len(cells)} fields where the header names {width} columns")
    return [(rows[0][0], header), *body]


def _named(rows: list[_Row]) -> tuple[list[str], list[_Row]]:
    """Return the names of the columns, and the rows below them; an index without a name is left out."""
    names, body = rows[0][1], rows[1:]
    if names and not names[0] and len(names) > 1:
        names, body = names[1:], [(line, cells[1:]) for line, cells in body]
    letters = "".join(names)
    if letters.isupper():
        names = [name.lower() for name in names]
    for place, name in enumerate(names):
        if not name:
            raise UserError(f"its column {place + 1} has no name; name it or remove it")
        if name in names[:place]:
            raise UserError(f"it has two columns '{name}'; keep one of them")
    return names, body


def _with_points(names: list[str], rows: list[_Row], separator: str, is_number: Callable[[str], bool]) -> list[_Row]:
    """Return the rows with decimal points for decimal commas.

    Raises:
        UserError: a number that could mean two things.
    """
    places = [place for place, name in enumerate(names) if is_number(name)]
    odd = [(line, place, cells[place]) for line, cells in rows for place in places if _ODD.fullmatch(cells[place])]
    if not odd:
        return rows
    commas = separator != "," and all(_DECIMAL_COMMA.fullmatch(cell) for *_, cell in odd)
    commas = commas and not all(_MAYBE_THOUSANDS.fullmatch(cell) for *_, cell in odd)
    if not commas or any("." in cells[place] for _, cells in rows for place in places):
        line, place, cell = odd[0]
        raise UserError(
            f"column '{names[place]}' holds '{cell}' in line {line}, with a decimal comma or a thousands separator; "
            "write numbers as 1234.5"
        )
    return [(line, [c.replace(",", ".") if _DECIMAL_COMMA.fullmatch(c) else c for c in cells]) for line, cells in rows]
