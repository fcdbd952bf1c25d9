"""Random axes to configurations and cohorts, against the product written out."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdtree_jax.checks import UserError
from mdtree_jax.recipe.axes import Grid, configurations, make_cohorts
from mdtree_jax.recipe.schema import grid_schema, make_grid, resolved_config
from mdtree_jax.registry.knobs import KNOBS
from tests.refusals import answer_of

NUM_TRAIN = 1000


def values_of(knob):
    """Return a strategy for one value of a knob that it takes."""
    if knob.choices:
        return st.sampled_from(knob.choices)
    if knob.kind is bool:
        return st.booleans()
    if knob.kind is int:
        return st.integers(int(knob.low), 40 if knob.name == "batch_size" else 10**6)
    low, high = (0.1 if knob.name == "data_fraction" else knob.low), min(knob.high, 1e6)
    numbers = st.one_of(st.floats(low, high), st.sampled_from([0.1, 0.1 + 1e-9, 1 / 3, 1e-300, 0.5, 5e-4, 0.25]))
    return numbers.filter(lambda v: low <= v <= high and not (knob.excludes_low and v == low)
                          and not (knob.excludes_high and v == high))  # fmt: skip


@st.composite
def axes(draw):
    """Return values of width and batch size and of some other knobs, in any order of the knobs."""
    names = draw(st.lists(st.sampled_from([n for n in KNOBS if KNOBS[n].default is not None]), max_size=4, unique=True))
    names = draw(st.permutations([*(n for n in KNOBS if KNOBS[n].default is None), *names]))
    return {name: draw(st.lists(values_of(KNOBS[name]), min_size=1, max_size=3, unique=True)) for name in names}


@settings(max_examples=150)
@given(axes(), st.integers(1, 3), st.integers(0, 2**31 - 4))
def test_every_combination_is_trained_exactly_once(given_axes, num_seeds, seed):
    grid = Grid(**given_axes, num_seeds=num_seeds, seed=seed)
    points, cohorts = configurations(grid, NUM_TRAIN), make_cohorts(grid, NUM_TRAIN)
    names = list(given_axes)
    wanted = set(itertools.product(*given_axes.values(), range(seed, seed + num_seeds)))

    found, keys = [], set()
    for cohort in cohorts:
        assert cohort.members
        assert cohort.key not in keys
        assert "/" not in cohort.key
        keys.add(cohort.key)
        for member in cohort.members:
            values = points[member.index].values
            for name, knob in KNOBS.items():
                kept_by, other = (cohort, member) if knob.is_static else (member, cohort)
                assert kept_by.value(name) == values.get(name, knob.default)
                assert name not in vars(other)
                assert name not in dict(other.knobs)
            assert member.num_samples == round(member.data_fraction * NUM_TRAIN) >= cohort.batch_size
            found.append((*(values.get(name, KNOBS[name].default) for name in names), member.seed))
    assert len(found) == len(wanted) == grid.num_configurations * num_seeds
    assert set(found) == wanted
    static = [name for name in names if KNOBS[name].is_static]
    assert len(cohorts) == len(set(itertools.product(*(given_axes[name] for name in static))))
    assert [p.index for p in points] == list(range(grid.num_configurations))


@settings(max_examples=100)
@given(axes())
def test_a_grid_is_recorded_and_read_back(given_axes):
    config = grid_schema()(name="mine", **given_axes)
    grid = make_grid(config)
    assert grid.axes == Grid(**given_axes).axes
    assert make_grid(grid_schema()(name="other", **resolved_config(config))) == grid
    assert make_cohorts(grid, NUM_TRAIN) == make_cohorts(Grid(**given_axes), NUM_TRAIN)


HOSTILE = [
    None,
    "",
    "a/b",
    "../x",
    "nan",
    -1,
    0,
    10**30,
    0.5,
    1e999,
    -1e999,
    float("nan"),
    True,
    [],
    [[]],
    {},
    "x" * 300,
]


@settings(max_examples=200)
@given(
    st.sampled_from(list(KNOBS)), st.one_of(st.sampled_from(HOSTILE), st.lists(st.sampled_from(HOSTILE), max_size=3))
)
def test_what_is_no_axis_is_one_sentence(name, values):
    config = grid_schema()(name="mine", **{"width": [2], "batch_size": [8]} | {name: values})
    grid, message = answer_of(make_grid, config)
    if message:
        assert name in message
        return
    knob = KNOBS[name]
    assert all(type(value) is knob.kind for value in grid.axes[name])
    assert len(set(grid.axes[name])) == len(grid.axes[name]) > 0
    if knob.kind is str:
        assert not any({"/", "", ".."} & set(value) for value in grid.axes[name])
    else:
        assert all(knob.low <= value <= knob.high for value in grid.axes[name])


@pytest.mark.parametrize("fraction", [0.1, 0.03])
def test_a_batch_that_fits_no_subset_is_refused_whatever_else_varies(fraction):
    grid = Grid((2,), (8, 64), data_fraction=(1.0, fraction), label_smoothing=(0.0, 0.1))
    if fraction * NUM_TRAIN >= 64:
        assert len(configurations(grid, NUM_TRAIN)) == 8
    else:
        with pytest.raises(UserError, match=r"batch_size=64 is larger than the subset of data_fraction=0\.03"):
            configurations(grid, NUM_TRAIN)
