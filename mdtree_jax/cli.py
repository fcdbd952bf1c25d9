"""Shared by all commands: compose and check the configuration, run the command, and report errors in one sentence.

Plugins are imported first (`mdtree_jax.registry.plugins`), so that their entries can be chosen and appear in the help.

Hydra's compose interface is used instead of `hydra.main`: a run leaves no `outputs/` folder and no log file behind.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
import typing
from collections.abc import Callable
from pathlib import Path

from omegaconf import MISSING

from mdtree_jax.checks import UserError, nearest
from mdtree_jax.config import schema_of
from mdtree_jax.provenance import __version__
from mdtree_jax.recipe.setting import meaning_of
from mdtree_jax.registry.architectures import ARCHITECTURES
from mdtree_jax.registry.datasets import DATASETS
from mdtree_jax.registry.objectives import OBJECTIVES
from mdtree_jax.registry.plugins import load_plugins
from mdtree_jax.registry.table import Table
from mdtree_jax.stopping import EXIT_STOPPED, Stopped

EXIT_USER_ERROR, EXIT_INTERRUPTED = 2, 130
#: Where the meaning of a setting begins in the help, as in the files of `conf`.
_HELP_COLUMN = 44
#: Settings whose values are entries of a table, or `package.module:function`; the help lists the entries.
_TABLES: dict[str, Table[typing.Any]] = {"model": ARCHITECTURES, "dataset": DATASETS, "objective": OBJECTIVES}


def conf_dir() -> Path:
    """Return the folder of the configuration files: in an installed package, or beside the package in a checkout."""
    package = Path(__file__).resolve().parent
    return next(path for path in (package / "conf", package.parent / "conf") if (path / "transfer.yaml").is_file())


def compose(name: str, overrides: list[str]):
    """Return the configuration object of a command, after its plugins are imported.

    Raises:
        UserError: an unknown key or group, a value of the wrong type, bad grammar, or a plugin that fails.
    """
    load_plugins(_listed(overrides, "plugins"))
    import hydra
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    schema = schema_of(name)
    _check_grammar(overrides, schema)
    _check_groups_chosen(schema, overrides)
    ConfigStore.instance().store(name=f"{name}_schema", node=schema)
    try:
        with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            config = hydra.compose(name, overrides)
        _check_known(config, schema)
        return OmegaConf.to_object(config)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain_hydra_error(error, overrides, schema)) from error


def _listed(overrides: list[str], setting: str) -> list[str]:
    """Return the names that a setting is given, as a list or as one value, the last ones where it is given again.

    >>> _listed(["out=a", "plugins=[mine.rings, 'mine.tiny']"], "plugins"), _listed(["+grid=digits"], "grid")
    (['mine.rings', 'mine.tiny'], ['digits'])
    """
    given = [value for key, _, value in (o.lstrip("+").partition("=") for o in overrides) if key == setting]
    items = given[-1].strip("[]").split(",") if given else []
    return [item for item in (item.strip(" \"'") for item in items) if item]


def _check_known(config: typing.Any, schema: type) -> None:
    """Raise `UserError` for a key that `+key=value` added and no schema knows, at any depth."""
    keys = _keys(schema)
    strange = [key for key in config if key not in keys]
    if strange:
        raise UserError(_unknown_setting(strange[0], keys))
    for key, inner in _groups(schema).items():
        if not hasattr(config[key], "keys"):  # ${…} of another setting
            names = ", ".join(f"{key}.{name}" for name in _keys(inner))
            raise UserError(f"'{key}' takes no value itself; available: {names}")
        _check_known(config[key], inner)


def _check_grammar(overrides: list[str], schema: type) -> None:
    """Parse each override by itself, so that the one that cannot be read can be named."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser, keys = OverridesParser.create(), _keys(schema)
    texts = {path for path, field in _all_fields(schema) if "str" in str(field.type) and "list" not in str(field.type)}
    for override in overrides:
        try:
            swept = parser.parse_override(override).is_sweep_override()
        except HydraException:
            swept = "=" in override
            if not swept:
                known = ", ".join(keys)
                raise UserError(f"'{override}' is not a setting; write key=value; valid keys: {known}") from None
        key, _, value = override.partition("=")
        if override.startswith("~") or key.lstrip("+").split(".")[0] == "hydra":
            raise UserError(f"'{override}' is not accepted; write key=value; valid keys: {', '.join(keys)}")
        if key not in texts and re.fullmatch(r"[\w.+-]+(,[\w.+-]+)+", value):
            raise UserError(f"'{override}' cannot be read; a list is written '{key}=[{value}]'")
        if swept:
            shown = f": '{key}={quoted(value)}'" if not value.startswith("{") else ""
            raise UserError(
                f"'{override}' cannot be read; a value with one of = ( ) {{ }} , : or a blank in it needs quotes "
                f"within the quotes{shown}"
            )


def quoted(value: str) -> str:
    """Return a value with the quotes that Hydra's grammar asks for, around each item of a list.

    >>> quoted("a=1.csv"), quoted("[a=1.pt,'b,c']")
    ('"a=1.csv"', '["a=1.pt","b,c"]')
    """

    def one(text: str) -> str:
        inside = re.sub(r'(\\*)"', r'\1\1\\"', text.strip().strip("\"'"))
        return '"' + re.sub(r"(\\+)\Z", r"\1\1", inside) + '"'  # Hydra reads backslashes before a quote in pairs

    if value.startswith("[") and value.endswith("]"):
        items = re.findall(r"\s*(?:\"[^\"]*\"|'[^']*'|[^,]+)", value[1:-1])
        return "[" + ",".join(map(one, items)) + "]"
    return one(value)


def explain_hydra_error(error: Exception, overrides: list[str], schema: type) -> str:
    """Return one sentence that explains an error of Hydra or OmegaConf and says what is accepted."""
    chain: list[BaseException] = [error]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(cause)
    text = " ".join(" ".join(str(part) for part in chain).split())
    keys = _keys(schema)
    unknown = re.search(r"Key '([^']+)' (?:is not|not) in", text)
    if unknown:
        full = re.search(r"full_key: (\S+)", text)
        for key in full.group(1).split(".")[:-1] if full else []:
            schema = _groups(schema).get(key, schema)
        return _unknown_setting(unknown.group(1), _keys(schema))
    group = re.search(r"Could not override '([^']+)'\. No match in the defaults list", text)
    if group:
        name = group.group(1)
        if name not in _chosen_groups(schema):
            return _unknown_setting(name, keys)
        return f"'{name}' is chosen with a plus sign: +{name}=NAME"
    absent = re.search(r"Could not find '([^']+)'", text) or re.search(r"In '[^']+': Could not load '([^']+)'", text)
    if absent:
        options = re.search(r"Available options in '[^']*': (.*?)(?: Config search path|$)", text)
        listed = "; available: " + ", ".join(options.group(1).split()) if options else ""
        return f"there is no configuration '{absent.group(1)}'{listed}"
    typed = re.search(r"(?:Value '([^']*)'|Invalid value) .*?full_key: (\S+)", text)
    if typed:
        key = typed.group(2).partition("[")[0]
        given = next((o for o in overrides[::-1] if o.lstrip("+").startswith(key + "=")), key)
        kinds = {path: field.type for path, field in _all_fields(schema)}
        return f"{given} has the wrong type: {key} must be {kinds.get(key, 'of another type')}"
    merged = re.search(r"Error merging override (\S+)", text)
    if merged:
        return f"{merged.group(1)} has the wrong type"
    twice = re.search(r"Could not append to config\. An item is already at '([^']+)'", text)
    if twice:
        return f"'{twice.group(1)}' is already a setting; write it without the plus sign"
    wrong = re.search(r"full_key: (\S+)", text)
    if wrong:
        return f"{wrong.group(1)}: {' '.join(str(error).split()).split(' full_key:')[0]}"
    return " ".join(str(error).split())


def _keys(schema: type) -> list[str]:
    return [field.name for field in dataclasses.fields(schema)]


def _groups(schema: type) -> dict[str, type]:
    """Return the settings of a schema that are schemas themselves."""
    kinds = typing.get_type_hints(schema)
    return {key: kind for key, kind in kinds.items() if isinstance(kind, type) and dataclasses.is_dataclass(kind)}


def _chosen_groups(schema: type) -> dict[str, type]:
    """Return those of `_groups` that come from files of a folder, chosen as +group=NAME."""
    return {key: kind for key, kind in _groups(schema).items() if (conf_dir() / key).is_dir()}


def _all_fields(schema: type, prefix: str = "") -> list[tuple[str, dataclasses.Field]]:
    """Return every setting with its dotted name, those within groups included."""
    found, groups = [], _groups(schema)
    for one in dataclasses.fields(schema):
        path = prefix + one.name
        found.append((path, one))
        if one.name in groups:
            found += _all_fields(groups[one.name], f"{path}.")
    return found


def _group_names(group: str) -> list[str]:
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


def _check_groups_chosen(schema: type, overrides: list[str]) -> None:
    """Raise `UserError` if a group is missing or unknown; the message lists the available ones."""
    for group in _chosen_groups(schema):
        names, chosen = _group_names(group), _listed(overrides, group)
        if not chosen or "null" in chosen:
            raise UserError(f"no {group} is given; add +{group}=NAME, one of: {', '.join(names)}")
        for name in chosen:
            if name.removesuffix(".yaml") not in names:
                raise UserError(f"there is no configuration '{group}/{name}'; available: {', '.join(names)}")


def _unknown_setting(key: str, keys: list[str]) -> str:
    return f"unknown setting '{key}'{nearest(key, keys)}; available: {', '.join(keys)}"


def help_text(name: str, what: str) -> str:
    """Return the help of a command: what it does, and its settings with their defaults and meanings."""
    lines = (conf_dir() / f"{name}.yaml").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("  - _self_")) + 1
    settings = "\n".join(lines[start:]).strip("\n")
    text = f"{what.strip()}\n\nSettings, as key=value, with their defaults:\n\n{settings}\n"
    schema = schema_of(name)
    for group, inner in _chosen_groups(schema).items():
        names = ", ".join(_group_names(group))
        text += f"\n+{group}=NAME, one of: {names}.\n"
        text += "Its settings can be overridden; settings that it leaves out have these defaults:\n\n"
        text += "\n".join(_help_lines(inner, f"{group}.")) + "\n"
    return text + "".join(_table_lines(path) for path, _ in _all_fields(schema))


def _table_lines(path: str) -> str:
    """Return the entries that a setting chooses from, if it does."""
    table = _TABLES.get(path.rpartition(".")[2])
    if table is None:
        return ""
    lines = [f"{name:{_HELP_COLUMN}}  # {entry.meaning}" for name, entry in table.items()]
    return f"\n{path}=NAME, or your own {path}=package.module:function. Available:\n\n" + "\n".join(lines) + "\n"


def _help_lines(schema: type, prefix: str) -> list[str]:
    """Return a line for every setting of a group, those of groups within it included: name, default, meaning."""
    inner = {prefix + key for key in _groups(schema)}
    shown = [(path, one) for path, one in _all_fields(schema, prefix) if path not in inner]
    heads = [f"{path}: {_default_text(one)}" for path, one in shown]
    return [f"{head:{_HELP_COLUMN}}  # {meaning_of(one)}" for head, (_, one) in zip(heads, shown, strict=True)]


def _default_text(one: dataclasses.Field) -> str:
    default = one.default if one.default_factory is dataclasses.MISSING else one.default_factory()
    return "" if default == MISSING else json.dumps(default).replace('"', "")


def run(name: str, what: str | None, main: Callable[[typing.Any], int | None], argv: list[str] | None = None) -> int:
    """Run a command: parse, call `main(config)`, return the exit code.

    A `UserError` becomes one sentence on standard error and exit code 2; a signal that asked to stop becomes 75, an
    interruption 130.
    """
    argv = sys.argv[1:] if argv is None else argv
    if "--version" in argv:
        print(f"mdtree-jax {__version__}")
        return 0
    try:
        if {"-h", "--help"} & set(argv):
            load_plugins(_listed(argv, "plugins"))
            print(help_text(name, what or ""))
            return 0
        return main(compose(name, argv)) or 0
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except Stopped as stopped:
        print(f"{name}: {stopped}", file=sys.stderr)
        return EXIT_STOPPED
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def leave(code: int) -> typing.NoReturn:
    """End the process with an exit code; at once where it was stopped, for a thread may compile for minutes."""
    if code in (EXIT_STOPPED, EXIT_INTERRUPTED):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
