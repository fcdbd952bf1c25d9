"""The schema of a grid follows from the knobs; what a run records of them."""

import dataclasses

import pytest

from mdtree_jax.checks import UserError
from mdtree_jax.cli import compose, help_text
from mdtree_jax.files import record_names
from mdtree_jax.recipe.schema import COLUMNS, check_settings, grid_schema, make_grid, make_recipe, resolved_config
from mdtree_jax.registry.knobs import KNOBS, Knob, Words, register_knob
from mdtree_jax.registry.measurements import MEASUREMENTS
from mdtree_jax.store.manifest import check_same_config, config_hash
from mdtree_jax.store.record import read_record
from mdtree_jax.store.tables import MEMBER_COLUMNS


def composed(*overrides):
    return compose("sweep", ["+grid=digits_tiny", *overrides]).grid


def test_every_knob_is_a_key_with_a_list_or_one_value():
    grid = composed("grid.label_smoothing=[0,0.1]", "grid.optimizer=[sgd,adamw]", "grid.augment=true", "grid.width=3")
    axes = make_grid(grid).axes
    assert axes["label_smoothing"] == (0.0, 0.1)
    assert axes["optimizer"] == ("sgd", "adamw")
    assert axes["augment"] == (True,)
    assert axes["width"] == (3,)
    assert {name: type(values[0]) for name, values in axes.items()} == {n: knob.kind for n, knob in KNOBS.items()}
    text = help_text("sweep", "")
    assert all(f"grid.{name}:" in text and knob.meaning in text for name, knob in KNOBS.items())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("grid.width=[a]", "grid.width=[a] has the wrong type: grid.width must be list[int], or one int"),
        ("grid.width=2.5", "grid.width=2.5 has the wrong type: grid.width must be list[int], or one int"),
        (
            "grid.momentum=fast",
            "grid.momentum=fast has the wrong type: grid.momentum must be list[float], or one float",
        ),
        (
            "grid.augment=[maybe]",
            "grid.augment=[maybe] has the wrong type: grid.augment must be list[bool], or one bool",
        ),
        ("grid.width=[]", "the axis width of the grid is empty"),
        ("grid.augment=[1,true]", "the axis augment=[True, True] contains a duplicate value"),
    ],
)
def test_values_of_another_type_are_one_sentence(override, message):
    with pytest.raises(UserError) as caught:
        make_grid(composed(override))
    assert message in str(caught.value)


@pytest.mark.parametrize("name", record_names())
def test_shipped_grids_are_recorded_as_they_were(name):
    there = dict(read_record(name).about["config"])
    del there["data_hash"]
    here = resolved_config(compose("sweep", [f"+grid={name}"]).grid)
    assert config_hash(here) == config_hash(there)


def test_a_knob_that_is_not_used_is_not_recorded_and_is_no_difference():
    plain = resolved_config(composed())
    assert "label_smoothing" not in plain
    assert (plain["optimizer"], plain["width"]) == ("sgd", [1, 3, 8])
    assert resolved_config(composed("grid.label_smoothing=0", "grid.optimizer=[sgd]", "grid.width=[1,3,8]")) == plain
    both = resolved_config(composed("grid.label_smoothing=[0,0.1]", "grid.optimizer=[sgd,adamw]"))
    assert (both["label_smoothing"], both["optimizer"]) == ([0.0, 0.1], ["sgd", "adamw"])
    with pytest.raises(UserError) as caught:
        check_same_config("runs/mine", plain, both)
    assert "label_smoothing is [0.0] there, [0.0, 0.1] here" in str(caught.value)
    check_same_config("runs/mine", plain, plain | {"label_smoothing": [0.0]})


def test_a_validation_set_is_another_recipe_and_recording_is_not():
    plain, half = resolved_config(composed()), resolved_config(composed("grid.validation_fraction=0.5"))
    assert half == plain | {"validation_fraction": 0.5}
    assert resolved_config(composed("grid.history_points=8")) == plain
    with pytest.raises(UserError, match=r"validation_fraction is 0.0 there, 0.5 here"):
        check_same_config("runs/mine", plain, half)
    for override, message in (("history_points=33", "0 to 32"), ("validation_fraction=1", r"in \[0, 1\)")):
        with pytest.raises(UserError, match=f"is out of range; it must be {message}"):
            check_settings(compose("sweep", ["+grid=digits_tiny", f"grid.{override}"]))
    recipe = make_recipe(composed("grid.validation_fraction=0.5"), 10, (10, 10, 1))
    assert [recipe.recorded_points(has_validation=has) for has in (True, False)] == [32, 0]


def test_a_knob_registered_later_is_a_key_and_one_in_the_way_is_refused():
    toy = Knob("toy", "1", "what a test varies", "inputs", is_static=False, default=0.0, low=0.0, words=Words("toy"))
    config = composed()
    register_knob(toy, lambda x, key, value: x)
    try:
        assert "grid.toy: [0.0]" in help_text("sweep", "")
        assert "axis: what a test varies" in help_text("sweep", "")
        assert make_grid(composed("grid.toy=[0,2]")).axes["toy"] == (0.0, 2.0)
        assert make_grid(config).axes["toy"] == (0.0,)  # composed before there was such a knob
        assert resolved_config(config) == resolved_config(composed())
        assert compose("diagnose", ["select.toy=2"]).select.toy == 2.0
    finally:
        KNOBS.unregister("toy")
    assert set(MEMBER_COLUMNS) <= {*COLUMNS, *KNOBS, *MEASUREMENTS}
    for name, what in (("num_seeds", "setting"), ("status", "column of a sweep"), ("cka", "column of a sweep")):
        register_knob(dataclasses.replace(toy, name=name), lambda x, key, value: x)
        try:
            with pytest.raises(UserError, match=f"the knob '{name}' has the name of another {what}; choose another"):
                grid_schema()
        finally:
            KNOBS.unregister(name)
