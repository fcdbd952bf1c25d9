"""Which columns are axes, and which moves, causes and cells follow from them."""

import numpy as np
import pandas as pd
import pytest

from mdtree_jax.checks import UserError
from mdtree_jax.collection.load import load_collection
from mdtree_jax.collection.moves import AXES, axes_of, causes_of_moves, cell_axes, knobs_of_moves, moves_of
from mdtree_jax.registry.causes import CAUSES, Cause
from mdtree_jax.registry.knobs import KNOBS, Knob, Words


def product(**axes):
    """Return the complete lattice over axes, with a test error for each row."""
    index = pd.MultiIndex.from_product(list(axes.values()), names=list(axes))
    frame = index.to_frame(index=False)
    return frame.assign(test_error=np.random.default_rng(len(frame)).permutation(np.linspace(5, 60, len(frame))))


CLASSIC = {"width": [2, 4, 8], "batch_size": [16, 32, 64], "data_fraction": [0.5, 1.0]}
RATES = {"learning_rate": [0.1, 0.2, 0.4], "weight_decay": [0.0, 1e-4]}
BATCHES = {"width": [4], "batch_size": [4, 8, 16, 32, 64], "data_fraction": [1.0]}


def tuned(frame):
    """Return the table with a learning rate that was tuned for every configuration on its own."""
    return frame.assign(learning_rate=np.random.default_rng(0).random(len(frame)))


CASES = {
    "classic": (product(**CLASSIC), AXES),
    "rates alone": (product(**RATES), ("learning_rate", "weight_decay")),
    "rates of one network": (product(**RATES).assign(width=4, batch_size=8, data_fraction=1.0), (*AXES, *RATES)),
    "optimizers": (product(optimizer=["sgd", "adamw"], learning_rate=[0.1, 0.2]), ("learning_rate", "optimizer")),
    "rates scaled with the batch": (product(**CLASSIC).assign(learning_rate=lambda f: f.batch_size / 100), AXES),
    "rates scaled on one line": (product(**BATCHES).assign(learning_rate=lambda f: f.batch_size**-0.5), AXES),
    "rates tuned for every configuration": (tuned(product(**CLASSIC)), AXES),
    "the same with holes": (tuned(product(**CLASSIC)).drop(index=[0, 7, 9]), AXES),
    "epochs that follow the rate": (product(**RATES).assign(train_epochs=lambda f: 1 / f.learning_rate), tuple(RATES)),
    "a random search": (tuned(product(**BATCHES)).assign(weight_decay=[3.0, 1, 4, 2, 5]), (*AXES, *RATES)),
}


@pytest.mark.parametrize("name", CASES)
def test_axes_are_the_knobs_that_vary_on_their_own(name):
    frame, expected = CASES[name]
    assert set(axes_of(frame)) == set(expected)
    order = list(KNOBS)
    assert list(axes_of(frame)) == sorted(expected, key=order.index)
    loaded = load_collection(frame, allow_missing=True)
    tied = [knob for knob in ("learning_rate", "train_epochs") if knob in frame and knob not in expected]
    assert [note for note in loaded.attrs["notes"] if "does not count as an axis" in note] == [
        f"{knob} of collection 'DataFrame' is determined by the other knobs and does not count as an axis"
        for knob in tied
    ]


def test_what_other_knobs_do_changes_no_number_of_a_classic_collection():
    frame = product(**CLASSIC)
    ours = [c for c in load_collection(frame) if c.startswith(("rfi_", "label_"))]
    assert ours[:4] == ["rfi_batch_down", "rfi_batch_up", "rfi_width", "rfi_data"]
    for other in (tuned(frame), frame.assign(learning_rate=frame.batch_size / 100, optimizer="sgd", augment=True)):
        pd.testing.assert_frame_equal(load_collection(other)[ours], load_collection(frame)[ours])


def test_moves_follow_the_causes_and_then_the_knobs():
    moves = moves_of(("width", "batch_size", "learning_rate", "weight_decay", "optimizer", "augment"))
    assert [move.rfi for move in moves] == [
        *("rfi_batch_down", "rfi_learning_rate_up", "rfi_batch_up", "rfi_learning_rate_down", "rfi_width"),
        *("rfi_weight_decay_up", "rfi_augment_up", "rfi_weight_decay_down", "rfi_augment_down"),
    ]
    assert causes_of_moves(moves) == (
        *("temperature_too_low", "temperature_too_high", "model_too_small"),
        *("too_little_regularization", "too_much_regularization", "none"),
    )
    assert knobs_of_moves(moves) == ("batch_size", "learning_rate", "width", "weight_decay", "augment")
    assert cell_axes(("width", "batch_size", "learning_rate", "optimizer")) == ("width", "optimizer")


def test_a_knob_and_a_cause_of_ones_own():
    CAUSES.register(Cause("too_shallow", "the network is too shallow", "too shallow"))
    KNOBS.register(Knob("depth", "layers", "layers", "build", is_static=True, words=Words("depth"), up="too_shallow"))
    try:
        frame = load_collection(product(depth=[1, 2, 4], batch_size=[8, 16]))
        assert frame.attrs["axes"] == ["batch_size", "depth"]
        assert list(frame.columns[-6:-3]) == ["rfi_batch_down", "rfi_batch_up", "rfi_depth_up"]
        best = frame.groupby("batch_size").test_error.transform("min")
        shallow = frame.depth == 1
        assert frame.rfi_depth_up[shallow].tolist() == pytest.approx((frame.test_error - best)[shallow].tolist())
    finally:
        KNOBS.unregister("depth")
        CAUSES.unregister("too_shallow")


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (product(**RATES).iloc[:1], "learning_rate, weight_decay of the table has only one value"),
        (product(**RATES)[["test_error"]], "has no column 'width'.* so it is not a grid of configurations"),
        (product(**RATES).replace({"learning_rate": {0.1: -0.1}}), r"learning_rate=-0.1 in row 1; it must be above 0"),
        (product(**RATES).replace({"weight_decay": {0.0: -1.0}}), "weight_decay=-1 in row 1; it must be at least 0"),
        (product(label_smoothing=[0.0, 1.5]), r"label_smoothing=1.5 in row 2; it must be \[0, 1\)"),
        (product(**RATES).replace({"learning_rate": {0.1: np.nan}}), "column 'learning_rate' holds 'nan'"),
        (
            product(**RATES).drop(index=[1, 2]),
            "3 x 2 = 6 configurations lacks 2: learning_rate=0.1, weight_decay=0.0001",
        ),
        (pd.concat([product(**RATES)] * 2), "learning_rate=0.1, weight_decay=0 stands twice, in rows 1 and 7"),
        (
            product(learning_rate=[0.1, 0.2], widht=[1, 2]),
            "unknown column 'widht' .did you mean 'width'..; rename it, or remove it",
        ),
    ],
)
def test_tables_that_are_no_collections(frame, message):
    with pytest.raises(UserError, match=message):
        load_collection(frame)
