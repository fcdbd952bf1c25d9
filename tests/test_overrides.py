"""Overrides of the command line: a value reads back as written; any other text ends in one sentence."""

import random
import re

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mdtree_jax import cli
from mdtree_jax.checks import UserError
from mdtree_jax.config import MOST_SEEDS, check_of_use, parse_seeds, schema_of
from mdtree_jax.recipe.schema import check_settings
from tests.refusals import answer_of

#: What means something to Hydra, OmegaConf, YAML or a shell, and some letters.
PIECES = [
    *"=(){}[],:;'\"\\$~+@#*%&|<>?!.- ab1éλ漢\n\t",
    "${",
    "null",
    "true",
    "nan",
    "1e3",
    "grid",
    "out",
    "hydra",
    "${out}",
]
texts = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)


def bare(text):
    """Return what `quoted` is a quoting of: it takes values that stand in quotes, or within blanks, already."""
    return text.strip().strip("\"'")


def is_plain(text):
    return "${" not in text  # a reference to another setting, also within quotes


@settings(max_examples=400)
@given(texts)
@example('ends in \\"')
@example('"a\\\n"')
def test_a_quoted_value_is_read_as_the_text_that_it_is(text):
    value = text[1:] if text[:1] == "[" else text  # a list is quoted item by item
    override = OverridesParser.create().parse_override(f"name={cli.quoted(value)}")
    assert not override.is_sweep_override()
    assert override.value() == bare(value)


items = texts.map(lambda t: bare(t.translate(str.maketrans("", "", "\"'\\")))).filter(bool)


@settings(max_examples=30)
@given(
    texts.filter(is_plain),
    st.lists(items.filter(is_plain), max_size=4),
    st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([-0.0, 5e-324, -1e308, 1e22])),
    st.one_of(st.integers(), st.integers(-(10**40), 10**40)),
)
def test_values_arrive_in_a_configuration_as_they_were_written(text, checkpoints, number, count):
    value = text.removeprefix("[")
    listed = "[" + ",".join(f"'{item}'" if "," in item else item for item in checkpoints) + "]"
    config = cli.compose(
        "diagnose",
        [
            f"name={cli.quoted(value)}",
            f"checkpoints={cli.quoted(listed)}",
            f"training.learning_rate={number!r}",
            f"max_images={count}",
            f"select.weight_decay={number!r}",
        ],
    )
    assert config.name == bare(value)
    assert config.checkpoints == checkpoints
    assert (config.training.learning_rate, config.select.weight_decay) == (number, number)
    assert config.max_images == count


def end_of(command, overrides, capsys):
    """Run a command that does nothing but check its settings; return its exit code, and check what it printed."""

    def main(config):
        if command == "sweep":
            check_settings(config)
        if command == "transfer":
            parse_seeds(config.seeds)

    code = cli.run(command, "", main, overrides)
    out, err = capsys.readouterr()
    assert out == ""
    assert code in (0, cli.EXIT_USER_ERROR)
    assert len(err.splitlines()) == (code != 0), err
    return code


BASE = {"transfer": [], "diagnose": [], "reference": [], "sweep": ["+grid=digits_tiny"]}


@pytest.mark.parametrize("command", BASE)
def test_garbage_is_one_sentence(command, capsys):
    codes = []

    @settings(max_examples=15)
    @given(texts, st.sampled_from(["", "out=", "+grid=", "plugins=", "~", "seeds=", "training=", "select.width="]))
    @example("\n=\r\x0b", "out=")
    @example("${out}", "select=")
    def check(text, start):
        codes.append(end_of(command, [*BASE[command], start + text], capsys))

    check()
    assert codes.count(cli.EXIT_USER_ERROR) > len(codes) / 4


HOSTILE = [
    "",
    "null",
    "true",
    "[]",
    "[[]]",
    "{}",
    "{a: 1}",
    "[{a: 1}]",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "-1",
    "0",
    "[null]",
]
HOSTILE += [
    str(10**30),
    "[nan,inf]",
    "'x y'",
    "'a\nb'",
    "${out}",
    "${nothing}",
    "${oc.env:HOME}",
    "???",
    "a,b",
    "[a,b]",
]
HOSTILE += ["range(1,3)", "choice(a,b)", "'[1'", "1:99999999999", "-0.0", "é"]


@pytest.mark.parametrize("command", BASE)
def test_hostile_values_of_every_key_are_one_sentence(command, capsys):
    rng, codes = random.Random(0), []
    for key in [path for path, _ in cli._all_fields(schema_of(command))]:
        for value in rng.sample(HOSTILE, 2 if command in ("transfer", "reference") else 1):
            codes.append(end_of(command, [*BASE[command], f"{key}={value}"], capsys))
    assert 0 < codes.count(0) < len(codes)


@pytest.mark.parametrize(
    ("command", "override", "message"),
    [
        ("diagnose", "select=${out}", "'select' takes no value itself; available: select.width, "),
        ("diagnose", "training=${out}", "'training' takes no value itself; available: training.batch_size, "),
        ("sweep", "grid.measure=${oc.env:HOME}", "'measure' takes no value itself; available: measure.metrics, "),
        ("sweep", "grid=nan", "there is no configuration 'grid/nan'; available: cifar, "),
        ("sweep", "grid=[[]]", "no grid is given"),
        ("sweep", "grid=[null]", "no grid is given"),
        ("sweep", "grid=[{a: 1}]", "there is no configuration 'grid/{a: 1}'"),
        ("transfer", "a\nb=1", "unknown setting|cannot be read|is not a setting"),
    ],
)
def test_what_once_ended_in_a_traceback(command, override, message):
    with pytest.raises(UserError, match=message) as error:
        cli.compose(command, [*BASE[command], override])
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("command", "override", "message"),
    [
        ("sweep", "grid.measure.curve_stepz=1", "unknown setting 'curve_stepz' \\(did you mean 'curve_steps'"),
        ("sweep", "+grid.widht=1", "unknown setting 'widht' \\(did you mean 'width'"),
        ("diagnose", "+training.learning_rat=1", "'learning_rat' \\(did you mean 'learning_rate'"),
        ("diagnose", "select.widht=8", "'widht' \\(did you mean 'width'"),
        ("diagnose", "metrics.x=1", "'metrics.x' is not a setting; 'metrics' is one, and takes one value"),
        ("diagnose", "measure.effort=fast", "'measure' is one, given as a whole: 'measure={effort: …}'"),
        ("diagnose", "name=" + "[" * 50 + "]" * 50, "more than 20 lists in one another"),
        ("diagnose", "max_images=" + "9" * 4000, "numbers of more than 300 digits"),
    ],
)
def test_a_setting_that_does_not_exist_names_the_nearest(command, override, message):
    with pytest.raises(UserError, match=message):
        cli.compose(command, [*BASE[command], override])


@pytest.mark.parametrize(
    ("settings_given", "message"),
    [
        ("metrics=a.csv measure={effort: fast}", "measure= is of no use with metrics="),
        ("metrics=a.csv model=mlp", "model= is of no use with metrics=; give it with checkpoints="),
        ("metrics=a.csv select.width=8", "select= is of no use with metrics=; give it with run="),
        ("metrics=a.csv max_images=5", "max_images= is of no use"),
        ("run=a units=percent", "units= is of no use with run=; give it with metrics="),
        ("run=a weights=ema", "weights= is of no use"),
        ("run=a history=h.csv", "history= is of no use with run="),
    ],
)
def test_settings_that_contradict_are_refused(settings_given, message):
    config = cli.compose("diagnose", re.split(r" (?=\w+[=.])", settings_given))
    with pytest.raises(UserError, match=message):
        check_of_use(config, settings_given.partition("=")[0])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("grid.num_seeds=4294967296", "expected at most 1000000"),
        ("grid.width=[[1]]", "grid.width must be list"),
        ("grid.width=[9223372036854775808]", "at most 2\\^31 - 1"),
        ("grid.measure.curve_steps=99999999999", "at most 10000000"),
        ("grid.eval_batch_size=99999999999", "below 2\\^31"),
        ("num_devices=100000", "1 to 1024"),
        ("verify_seed=3", "verify_seed=3 is of no use without verify="),
    ],
)
def test_counts_are_bounded_with_the_limit_in_the_sentence(override, message):
    config = cli.compose("sweep", ["+grid=digits_tiny", override])
    with pytest.raises(UserError, match=message):
        check_settings(config)


ranges = st.tuples(st.integers(0, 10**12), st.integers(0, 10**12)).map(lambda ends: f"{ends[0]}:{ends[1]}")
lists = st.lists(st.integers(-3, 2**33), max_size=4)


@settings(max_examples=200)
@given(st.one_of(st.integers(), st.integers(0, 10**6), texts, lists, ranges))
@example(10**30)
@example(f"0:{2**32}")
@example("²:3")
def test_seeds_are_few_different_and_in_range(given_seeds):
    seeds, message = answer_of(parse_seeds, given_seeds)
    if message:
        assert not isinstance(given_seeds, int) or not 0 < given_seeds <= MOST_SEEDS
        return
    assert 0 < len(seeds) == len(set(seeds)) <= MOST_SEEDS
    assert all(0 <= seed < 2**32 for seed in seeds)
    if isinstance(given_seeds, str):
        first, last = map(int, given_seeds.split(":"))
        assert seeds == list(range(first, last))
    else:
        assert seeds == (list(range(given_seeds)) if isinstance(given_seeds, int) else list(dict.fromkeys(given_seeds)))
