"""Resolve a setting: an entry of a table, or a user's function given as `package.module:function`. No JAX.

Modules are also searched in the working directory. They are the user's own code: importing them runs it.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from mdtree_jax.checks import UserError, check_choice
from mdtree_jax.registry.table import Entry, Table


def is_own(name: str) -> bool:
    """Return whether a setting names a user's own function.

    >>> is_own("resnet8"), is_own("mypackage.models:build")
    (False, True)
    """
    return ":" in name


def find_entry(table: Table[Entry], name: str) -> Entry:
    """Return the entry of that name; raises a `UserError` that lists the names and the form of a function."""
    try:
        return table[check_choice(table.kind, name, table)]
    except UserError as error:
        raise UserError(f"{error}, or your own as package.module:function") from None


def import_own(module_name: str, setting: str) -> ModuleType:
    """Import a user's module, also searching the working directory.

    Args:
        module_name: `package.module`.
        setting: the setting that names it, for the message: `model=package.module:function`.

    Raises:
        UserError: the module does not exist, or its import fails.
    """
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        return importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a user's code may raise anything
        raise UserError(f"{setting}: the module '{module_name}' cannot be imported ({_why(error)})") from error
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(here)


def resolve(spec: str, setting: str) -> Callable[..., Any]:
    """Return the function that `package.module:function` names.

    Args:
        spec: the name.
        setting: the setting that holds it, for the message: `model`.

    Raises:
        UserError: there is no such module or function, or the module fails.
    """
    module_name, _, name = spec.partition(":")
    module = import_own(module_name, f"{setting}={spec}")
    function = getattr(module, name, None)
    if not callable(function):
        there = [n for n, value in vars(module).items() if inspect.isfunction(value)]
        raise UserError(f"{setting}={spec}: '{module_name}' has no function '{name}'; available: {', '.join(there)}")
    return function


def takes(function: Callable[..., Any], name: str) -> bool:
    """Return whether a function can be called with an argument of that name.

    >>> takes(lambda width: None, "width"), takes(lambda width: None, "dtype"), takes(lambda **settings: None, "dtype")
    (True, False, True)
    """
    parameters = _parameters(function)
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def required_arguments(function: Callable[..., Any]) -> list[str]:
    """Return the arguments that a function must be called with.

    >>> required_arguments(lambda width, num_classes=10: None)
    ['width']
    """
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = _parameters(function)
    return [n for n, p in parameters.items() if p.default is p.empty and p.kind not in variadic]


def call_with(function: Callable[..., Any], settings: Mapping[str, Any], what: str) -> Any:
    """Call a user's function with those of `settings` that it accepts, or with all if it takes `**settings`.

    Args:
        function: the function, called with keyword arguments.
        settings: the available settings, by name.
        what: the function, for the message: `model=package.module:function`.

    Raises:
        UserError: the function needs an argument that is not in `settings`, or it fails; its own `UserError` passes
            through.
    """
    if unknown := [name for name in required_arguments(function) if name not in settings]:
        there = ", ".join(settings) or "none"
        raise UserError(
            f"{what}: the function needs the argument '{unknown[0]}', which is not available; available: {there}"
        )
    given = {name: value for name, value in settings.items() if takes(function, name)}
    try:
        return function(**given)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # a user's code may raise anything
        how = f"with {', '.join(given)}" if given else "without arguments"
        raise UserError(f"{what}: the function, called {how}, failed ({_why(error)})") from error


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # of some built-in functions nothing is known
        return {}


def _why(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
