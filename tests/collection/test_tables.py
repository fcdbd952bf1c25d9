"""Collections as people write them: names, units and orders do not change what is loaded."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mdtree_jax.collection.columns import ALIASES, COLUMN, canonicalize
from mdtree_jax.collection.load import load_collection
from mdtree_jax.collection.moves import axes_of
from mdtree_jax.registry.questions import label_columns
from tests.collection.test_grid import tables
from tests.refusals import answer_of

#: Column -> its published name, and what that holds of a value.
PUBLISHED = {
    "batch_size": ("bs", lambda v: v),
    "data_fraction": ("data", lambda v: 10 * v),
    "test_error": ("test_acc", lambda v: 100.0 - v),
}


@settings(max_examples=100)
@given(tables(), st.data())
def test_order_and_names_do_not_change_labels(frame, data):
    assume(axes_of(frame))
    right = load_collection(frame, allow_missing=True)
    order = data.draw(st.permutations(range(len(frame))))
    moved = frame.iloc[order]
    for name in data.draw(st.sets(st.sampled_from(list(PUBLISHED)))) & set(frame):
        alias, turn = PUBLISHED[name]
        moved = moved.assign(**{alias: turn(moved[name])}).drop(columns=name)
    moved = moved.assign(note="anything", **{"7": 1})[data.draw(st.permutations([*moved, "note", "7"]))]
    found = load_collection(moved, allow_missing=True)
    assert found.attrs["axes"] == right.attrs["axes"]
    assert found.attrs["near"] == right.attrs["near"]
    back = found.assign(place=order).sort_values("place").reset_index(drop=True)
    for column in right:
        if column in label_columns():
            assert back[column].fillna("").tolist() == right[column].fillna("").tolist()
        elif column.startswith("rfi_") or column in PUBLISHED:
            np.testing.assert_allclose(back[column].to_numpy(float), right[column].to_numpy(float), rtol=1e-12)
        else:
            assert back[column].tolist() == right[column].tolist()


@settings(max_examples=50)
@given(tables())
def test_a_loaded_collection_loads_as_it_is(frame):
    assume(axes_of(frame))
    loaded = load_collection(frame, allow_missing=True)
    pd.testing.assert_frame_equal(load_collection(loaded, allow_missing=True), loaded)


NAMES = st.one_of(st.sampled_from([*COLUMN, *ALIASES]), st.sampled_from(["mine", "Width", "7", "name"]))


@st.composite
def named(draw):
    """Return a table with known columns, published or ours, both or neither, and others, in any order."""
    names = draw(st.lists(NAMES, max_size=12, unique=True))
    rng, columns = np.random.default_rng(draw(st.integers(0, 99))), {}
    for name in names:
        is_label = ALIASES.get(name, name) in label_columns()
        columns[name] = rng.choice(["large", "small", "batch", "width"], 4) if is_label else rng.uniform(2, 100, 4)
    return pd.DataFrame(columns, index=[3, 1, 1, 0])


@given(named(), st.randoms())
def test_canonical_tables_stay_as_they_are_and_orders_do_not_matter(frame, random):
    frame.attrs["name"] = "mine"
    once = canonicalize(frame)
    pd.testing.assert_frame_equal(canonicalize(once), once)
    assert once.attrs == {"name": "mine"}
    assert not set(once) & set(ALIASES)
    assert set(once) == {ALIASES.get(name, name) for name in frame}
    for name in set(frame) & set(COLUMN):  # the descriptive name wins
        pd.testing.assert_series_equal(once[name], frame[name])
    moved = canonicalize(frame[random.sample(list(frame), len(list(frame)))])
    pd.testing.assert_frame_equal(moved[list(once)], once)


GARBAGE = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4), st.just([]))
COLUMNS = ["width", "batch_size", "bs", "data_fraction", "data", "learning_rate", "optimizer", "augment", "train_error"]
COLUMNS += ["test_error", "test_acc", "label_size", "rfi_width", "mine", ""]


@settings(max_examples=200)
@given(st.lists(st.sampled_from(COLUMNS), max_size=6, unique=True), st.integers(0, 4), st.booleans(), st.data())
def test_any_table_is_loaded_or_refused_in_one_sentence(names, rows, allow_missing, data):
    numbers = st.one_of(st.sampled_from([1, 2, 4, 0.5, 50.0]), GARBAGE) if data.draw(st.booleans()) else GARBAGE
    names = data.draw(st.permutations([*names, *({"width", "test_error"} - set(names))]))
    frame = pd.DataFrame({n: pd.Series([data.draw(numbers) for _ in range(rows)], dtype=object) for n in names})
    loaded, message = answer_of(load_collection, frame, allow_missing=allow_missing)
    if message:
        return
    errors = loaded["test_error"].to_numpy(float)
    assert (errors >= 0).all()  # of a regression it can exceed 100 %


@pytest.mark.parametrize(
    "content", [b"", b"\x00\xff\xfe", b"a,b\n1,2,3,4\n", b"PAR1", b'"', b"\n\n\n", b"width,width\n1,2\n"]
)
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_files_that_hold_no_table(tmp_path, content, ending):
    path = tmp_path / f"table.{ending}"
    path.write_bytes(content)
    assert answer_of(load_collection, path)[1]
