"""Schemas of the configurations: what may be set, and of which type. No JAX here, so that --help answers at once."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields, make_dataclass
from typing import Any, get_type_hints

from mdtree_jax.checks import UserError
from mdtree_jax.recipe.schema import SweepConfig, sweep_schema
from mdtree_jax.registry.knobs import KNOBS
from mdtree_jax.registry.objectives import DEFAULT_OBJECTIVE

#: Of classes that are made here: where they are looked up.
_HERE = {"__module__": __name__}


@dataclass
class TransferConfig:
    """`python -m mdtree_jax.transfer`; the meaning of each key stands beside its value in conf/transfer.yaml."""

    mode: str = "all"
    collection: str | None = None
    train: str | None = None
    test: str | None = None
    seeds: Any = field(default_factory=list)
    fit: str = "published"
    tasks: Any = None
    methods: Any = None
    k: Any = None
    scale: str = "raw"
    figures: bool = True
    axes: Any = None
    out: str | None = None
    published_dir: str | None = None
    allow_missing: bool = False
    plugins: list[str] = field(default_factory=list)


@dataclass
class DiagnoseConfig:
    """`python -m mdtree_jax.diagnose`; the meaning of each key stands beside its value in conf/diagnose.yaml.

    `select` says which networks of a run folder, by values of knobs, and `training` how the networks were trained;
    `diagnose_schema` gives both their keys.
    """

    metrics: str | None = None
    units: str | None = None
    run: str | None = None
    select: Any = None
    model: str | None = None
    model_width: int | None = None
    checkpoints: list[str] = field(default_factory=list)
    step: int | None = None
    weights: str | None = None
    frozen: list[str] = field(default_factory=list)
    dataset: str | None = None
    data_dir: str | None = None
    data_file: str | None = None
    objective: str = DEFAULT_OBJECTIVE
    training: Any = None
    history: Any = None
    cost: Any = None
    evidence: str = "all"
    initial: list[str] = field(default_factory=list)
    improved: str | None = None
    measure: Any = None
    max_images: int = 10_000
    memory_gb: float | None = None
    max_minutes: float | None = None
    reference: str | None = None
    name: str | None = None
    fail_on: Any = None
    compare: str | None = None
    format: str = "text"
    out: str | None = None
    plugins: list[str] = field(default_factory=list)


@dataclass
class MeasureModelConfig:
    """`python -m mdtree_jax.measure`; the meaning of each key stands beside its value in conf/measure.yaml."""

    model: str | None = None
    model_width: int | None = None
    checkpoints: list[str] = field(default_factory=list)
    step: int | None = None
    weights: str | None = None
    frozen: list[str] = field(default_factory=list)
    dataset: str | None = None
    data_dir: str | None = None
    data_file: str | None = None
    objective: str = DEFAULT_OBJECTIVE
    width: float | None = None
    batch_size: int | None = None
    data_fraction: float | None = None
    columns: Any = None
    measure: Any = None
    max_images: int = 10_000
    memory_gb: float | None = None
    max_minutes: float | None = None
    append_to: str | None = None
    plugins: list[str] = field(default_factory=list)


@dataclass
class ReferenceConfig:
    """`python -m mdtree_jax.reference`; the meaning of each key stands beside its value in conf/reference.yaml."""

    collection: str | None = None
    test: str | None = None
    name: str | None = None
    out: str = "reference.json"
    published_dir: str | None = None
    plugins: list[str] = field(default_factory=list)


#: Settings of a diagnosis that only some of its sources use, with these; the others use every setting.
_OF_USE_WITH = {
    "units": ("metrics",),
    "select": ("run",),
    "dataset": ("metrics", "checkpoints"),
    **dict.fromkeys(("data_dir", "data_file", "cost"), ("run", "checkpoints")),
    **dict.fromkeys(("measure", "max_images", "memory_gb", "max_minutes"), ("run", "checkpoints")),
    **dict.fromkeys(("model", "model_width", "step", "weights", "frozen", "objective"), ("checkpoints",)),
    **dict.fromkeys(("history", "improved", "initial"), ("checkpoints",)),
}


def check_of_use(config: DiagnoseConfig, source: str) -> None:
    """Raise `UserError` for a setting that a diagnosis of this source would ignore."""
    for one in fields(config):
        with_these = _OF_USE_WITH.get(one.name, (source,))
        value = getattr(config, one.name)
        default = one.default if one.default_factory is MISSING else one.default_factory()
        if source not in with_these and value != default:
            raise UserError(
                f"{one.name}= is of no use with {source}=; give it with {'= or '.join(with_these)}=, or leave it out"
            )


@dataclass
class ExploreConfig:
    """`python -m mdtree_jax.explore`; the meaning of each key stands beside its value in conf/explore.yaml."""

    collection: Any = None
    out: str = "explorer.html"
    fit: str = "published"
    diagnoses: bool = True
    published_dir: str | None = None
    plugins: list[str] = field(default_factory=list)


def diagnose_schema() -> type[DiagnoseConfig]:
    """Return the schema of a diagnosis, with the knobs that there are now; one that is not given is not asked."""
    from mdtree_jax.diagnosis.cost import Training  # the tables that it needs would slow every other command down

    known = get_type_hints(Training)
    keys = {
        "select": {name: knob.kind | None for name, knob in KNOBS.items()},
        # On a command line an optimizer is a name, and there is no state of one.
        "training": {name: kind for name, kind in known.items() if name != "opt_state"} | {"optimizer": str | None},
    }
    groups = {
        name: make_dataclass(
            f"{name.capitalize()}Config", [(key, kind, None) for key, kind in kinds.items()], namespace=_HERE
        )
        for name, kinds in keys.items()
    }
    own = [(name, group, field(default_factory=group)) for name, group in groups.items()]
    return make_dataclass("DiagnoseConfig", own, bases=(DiagnoseConfig,), namespace=_HERE)


SCHEMAS = {
    "transfer": TransferConfig,
    "sweep": SweepConfig,
    "diagnose": DiagnoseConfig,
    "reference": ReferenceConfig,
    "measure": MeasureModelConfig,
    "explore": ExploreConfig,
}
_WITH_KNOBS = {"sweep": sweep_schema, "diagnose": diagnose_schema}


def schema_of(command: str) -> type:
    """Return the schema of a command: of `SCHEMAS`, with a key for every knob that there is now where it takes them."""
    return _WITH_KNOBS[command]() if command in _WITH_KNOBS else SCHEMAS[command]


def as_list(value: Any) -> list | None:
    """Return a list for a list or a single value, None for None.

    >>> as_list(3), as_list(["a"]), as_list(None)
    ([3], ['a'], None)
    """
    if value is None:
        return None
    if isinstance(value, (list, tuple)) and not value:
        raise UserError("an empty list [] names nothing; leave the setting out for all")
    return list(value) if isinstance(value, (list, tuple)) else [value]


#: Largest number of repetitions of an experiment; a mistyped count would fill the memory.
MOST_SEEDS = 100_000


def parse_seeds(seeds: Any) -> list[int]:
    """Return the seeds that a count n (0 … n-1), a list, or a range `a:b` (b excluded) names.

    Raises:
        UserError: anything else, none, more than `MOST_SEEDS`, or a seed outside [0, 2**32).

    >>> parse_seeds(3), parse_seeds("200:203"), parse_seeds([42, 90])
    ([0, 1, 2], [200, 201, 202], [42, 90])
    """
    meaning = "seeds are a count (50), a list ([42,90]) or a range (200:250)"
    if isinstance(seeds, str) and seeds.count(":") == 1 and all(part.isdecimal() for part in seeds.split(":")):
        first, last = map(int, seeds.split(":"))
        found = range(first, last)
    elif isinstance(seeds, int) and not isinstance(seeds, bool):
        found = range(seeds)
    elif isinstance(seeds, (list, tuple)) and all(isinstance(s, int) and not isinstance(s, bool) for s in seeds):
        found = list(dict.fromkeys(seeds))
    else:
        raise UserError(f"seeds={seeds!r}; {meaning}")
    ends = (found[0], found[-1]) if isinstance(found, range) and found else found
    if not found or min(ends) < 0 or max(ends) >= 2**32:
        raise UserError(f"seeds={seeds!r} names no seed in [0, 2**32); {meaning}")
    if len(found) > MOST_SEEDS:
        raise UserError(f"seeds={seeds!r} names {len(found)} seeds; expected at most {MOST_SEEDS}")
    return list(found)
