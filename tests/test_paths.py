"""Paths and names that a user gives: one that exists is found, any other ends in one sentence, and none is obeyed."""

import contextlib
import io

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mdtree_jax import MDTreeClassifier, cli, load_collection
from mdtree_jax.checks import UserError, printable
from mdtree_jax.collection.history import read_history
from mdtree_jax.data.dataset import load_dataset
from mdtree_jax.diagnosis.reference import Reference, as_reference, get_reference
from mdtree_jax.files import user_path, write_text
from mdtree_jax.report.terminal import plain_console
from mdtree_jax.trees.structure import Structure
from tests.refusals import answer_of

READERS = {
    "load_collection": load_collection,
    "Reference.load": Reference.load,
    "get_reference": get_reference,
    "MDTreeClassifier.load": MDTreeClassifier.load,
    "Structure.from_yaml": Structure.from_yaml,
    "read_history": read_history,
    "load_dataset": lambda path: load_dataset("npz", data_file=path),
}
#: None is the default of some.
NO_PATHS = [3, 1.5, [], {}, b"x", object()]


@settings(max_examples=60)
@given(text=st.text(max_size=20), times=st.sampled_from([1, 1, 400]))
@example("\0", 1)
@example("~nobody-of-this-name/x", 1)
@example("a\\b", 1)
@example("\x1b[2J", 1)
@example("[bold]x[/bold]", 1)
@example("\udcff", 1)
def test_a_path_that_is_not_there_is_one_sentence(text, times):
    for read in READERS.values():
        found, message = answer_of(read, "no such folder/" + text * times)
        assert found is None
        assert message == printable(message)
        assert len(message) < 2500 + 8 * len(text) * times


@pytest.mark.parametrize("value", NO_PATHS, ids=lambda value: type(value).__name__)
def test_what_is_no_path_is_one_sentence(value):
    for read in (*READERS.values(), user_path, as_reference):
        with pytest.raises(UserError):
            read(value)
    with pytest.raises(UserError):
        load_collection(None)


@pytest.mark.parametrize("name", ["a\\b.csv", "[bold]a[red].csv", "é 漢.csv", "\x1b[31mred.csv", "a\u202eb.csv"])
def test_a_file_of_any_name_is_read_and_shown_as_it_is(tmp_path, name):
    write_text(tmp_path / name, "epoch,train_loss\n1,2\n2,1\n")
    assert len(read_history(tmp_path / name)) == 2
    for shown in (_printed(name), str(UserError(name))):
        assert "\x1b" not in shown
        assert "\u202e" not in shown
        assert shown.strip() == printable(name)


def _printed(text):
    from rich.table import Table

    outputs = []
    for what in (text, Table.grid("", "")):
        stream = io.StringIO()
        if what is not text:
            what.add_row(text)
        plain_console(file=stream, width=140).print(what, highlight=False, soft_wrap=True)
        outputs.append(stream.getvalue().strip())
    assert outputs[0] == outputs[1]
    return outputs[0]


def test_settings_name_their_path(tmp_path):
    for name, path in (("metrics", "x" * 300), ("metrics", "~nobody-of-this-name/a.csv"), ("run", "y" * 300)):
        err = io.StringIO()
        from mdtree_jax import diagnose

        with contextlib.redirect_stderr(err):
            assert (
                cli.run("diagnose", "", diagnose.main, [f"{name}={cli.quoted(path)}", f"out={tmp_path}"])
                == cli.EXIT_USER_ERROR
            )
        assert f"{name}='" in err.getvalue()
        assert len(err.getvalue().splitlines()) == 1
