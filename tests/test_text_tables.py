"""Tables in text files: what any program writes is read back, or refused in one sentence, never shifted."""

import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdtree_jax.checks import UserError
from mdtree_jax.collection.load import read_csv, read_table
from tests.refusals import answer_of

NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=64)
TEXTS = st.text(st.sampled_from("abcXYZ éß,;|\t\"'1.-"), min_size=1, max_size=8).map(str.strip).filter(
    lambda text: text and any(c in "abcXYZéß" for c in text)
)  # fmt: skip
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]


@st.composite
def tables(draw):
    """Return a table of a text, a whole number and numbers, some of which are missing."""
    rows = draw(st.integers(1, 5))
    return pd.DataFrame(
        {
            "name": draw(st.lists(TEXTS, min_size=rows, max_size=rows)),
            "width": draw(st.lists(st.integers(1, 10**6), min_size=rows, max_size=rows)),
            "test_error": draw(st.lists(NUMBERS, min_size=rows, max_size=rows)),
            "my_own": draw(st.lists(st.one_of(NUMBERS, st.just(np.nan)), min_size=rows, max_size=rows)),
        }
    )


@settings(max_examples=150)
@given(
    table=tables(), separator=st.sampled_from(",;\t|"), decimal=st.sampled_from(".,"), index=st.booleans(),
    encoding=st.sampled_from(ENCODINGS), newline=st.sampled_from(["\n", "\r\n"]), capitals=st.booleans(),
    ends=st.sampled_from(["neither", "rows", "both"]), quoting=st.sampled_from([0, 1, 2]),
)  # fmt: skip
def test_every_dialect_is_read_back(
    tmp_path_factory, table, separator, decimal, index, encoding, newline, capitals, ends, quoting
):
    path = tmp_path_factory.getbasetemp() / "dialect.csv"
    written = table.rename(columns=str.upper) if capitals else table
    text = written.to_csv(sep=separator, decimal=decimal, index=index, lineterminator=newline, quoting=quoting)
    if ends != "neither":
        lines = text.split(newline)[:-1]
        text = newline.join(line + separator * (ends == "both" or i > 0) for i, line in enumerate(lines)) + newline
    path.write_bytes(text.encode(encoding))
    read, message = answer_of(read_table, path, "table")
    if message:
        assert decimal == ","
        assert "thousands" in message
        return
    if decimal == ",":
        assert separator != "," or not text.count('"') or (table.test_error % 1 == 0).all()
        read = read.drop(columns="my_own")  # its name is not known: whether it holds numbers is not
        table = table.drop(columns="my_own")
    pd.testing.assert_frame_equal(read, table, check_exact=True)


@given(rows=st.lists(st.lists(st.sampled_from(["1", "2.5", ""]), min_size=1, max_size=5), min_size=1, max_size=4))
def test_rows_of_any_length_are_never_shifted(rows):
    """The first column of rows that are one too long was taken for their labels."""
    text = "width,test_error,cka\n" + "".join(",".join(cells) + "\n" for cells in rows)
    read, message = answer_of(read_csv, io.StringIO(text))
    rows = [cells for cells in rows if cells != [""]]
    if message is None:
        for cells, row in zip(rows, read.to_numpy(), strict=True):
            assert cells[3:] in ([], [""])
            np.testing.assert_array_equal([float(c or "nan") for c in cells[:3]], row.astype(float))
    else:
        assert "fields where the header names 3 columns" in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"width,test_error\n4,2\n4,2,1\n", "line 3 has 3 fields where the header names 2 columns"),
        (b"width,test_error\n4\n", "line 2 has 1 fields"),
        (b"a,b\n1,2,3\n4,5,6\n", "line 2 has 3 fields"),  # as R writes row names
        (b"width,width\n4,2\n", "two columns 'width'"),
        (b"width,Width,width \n4,2,1\n", "two columns 'width'"),
        (b"width,,test_error\n4,x,2\n", "column 2 has no name"),
        (b'width,test_error\n"1,024",2\n', "'1,024' in line 2, with a decimal comma or a thousands separator"),
        (b"width;test_error\n4;1.234,5\n", "thousands"),
        (b"width;test_error\n4;1,234\n", "thousands"),  # 1.234 or 1234
        (b"width;test_error;cka\n4;12,5;0.5\n", "thousands"),
        (b"width;test_error\n1 024;12\n", "thousands"),
        (b"width;test_error\n1'024;12\n", "thousands"),
        ("name,width\ncafé,2\n".encode("cp1252"), "line 2 is not in UTF-8; save it as UTF-8"),
        ("width,test_error\n4,2\n".encode("utf-16-le"), "null characters"),
        ("width,test_error\n4,2\n".encode("utf-16")[:-1], "not in UTF-16"),
        (b'width,test_error\n"4,2\n', "not CSV"),
        (b"", "it is empty"),
        (b"\n \n", "it is empty"),
    ],
)
def test_what_could_mean_two_things_is_refused(tmp_path, content, words):
    (tmp_path / "t.csv").write_bytes(content)
    message = answer_of(read_table, tmp_path / "t.csv", "table")[1]
    assert words in (message or "")


def test_decimal_commas_where_the_digits_leave_no_doubt():
    read = read_csv(io.StringIO("WIDTH;TEST_ERROR;NAME\n4;12,5;a 1,5\n1024;0,123;b\n"))
    assert read.to_dict("list") == {"width": [4, 1024], "test_error": [12.5, 0.123], "name": ["a 1,5", "b"]}


def test_a_table_that_a_line_of_excel_introduces():
    assert read_csv(io.StringIO("sep=;\nwidth;cka\n4;1\n")).to_dict("list") == {"width": [4], "cka": [1]}


def test_an_empty_cell_of_a_single_column_is_a_row():
    assert read_csv(io.StringIO('cka\n1\n""\n\n3\n')).cka.tolist()[::2] == [1, 3]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_no_table(tmp_path, suffix):
    (tmp_path / f"t{suffix}").write_bytes(bytes(range(256)))
    with pytest.raises(UserError, match="cannot be read"):
        read_table(tmp_path / f"t{suffix}", "table")
