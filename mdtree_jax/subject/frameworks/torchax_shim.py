"""torchax, imported so that it works beside the newest PyTorch. JAX, PyTorch.

torchax 0.0.13 names overloads of operators that PyTorch no longer has, and fails at once. While it is imported, a
missing overload is answered with a placeholder that no model can call. It also registers a device, to which PyTorch's
own `DataParallel` would then move every model; it is said not to be available.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

from mdtree_jax.checks import UserError


class _Missing:
    """An overload that there is not; its attributes are missing too."""

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, name: str) -> _Missing:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Missing(f"{self._name}.{name}")

    def name(self) -> str:
        """Return what was asked for."""
        return self._name


@functools.cache
def environment() -> Any:
    """Return torchax's environment.

    Raises:
        UserError: torchax or PyTorch is not installed, or they do not go together.
    """
    try:
        import torch  # pyright: ignore[reportMissingImports]

        with _answered(torch._ops.OpOverloadPacket, torch._ops._OpNamespace):
            import torchax  # pyright: ignore[reportMissingImports]

            torchax.device_module.is_available = lambda: False
            return torchax.default_env()
    except ImportError as error:
        raise UserError(
            "a PyTorch model is run by JAX through torchax, which is not installed: pip install 'mdtree-jax[torch]'"
        ) from error
    except AttributeError as error:
        raise UserError(f"the installed torchax does not go with the installed PyTorch ({error})") from error


def operator_not_found() -> type[Exception]:
    """Return the exception of torchax for an operator that it does not have."""
    from torchax.tensor import OperatorNotFound  # pyright: ignore[reportMissingImports]

    return OperatorNotFound


@contextlib.contextmanager
def _answered(*kinds: Any) -> Iterator[None]:
    """Answer for attributes that objects of these types do not have, while inside."""
    originals = [kind.__getattr__ for kind in kinds]

    def answering(original: Any) -> Any:
        def getter(self: Any, name: str) -> Any:
            try:
                return original(self, name)
            except AttributeError:
                if name.startswith("_"):
                    raise
                return _Missing(f"{self}.{name}")

        return getter

    for kind, original in zip(kinds, originals, strict=True):
        kind.__getattr__ = answering(original)
    try:
        yield
    finally:
        for kind, original in zip(kinds, originals, strict=True):
            kind.__getattr__ = original
