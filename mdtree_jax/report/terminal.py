"""The terminal: a console for results, and progress with time left on standard error where a person is watching."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from mdtree_jax.checks import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


@functools.cache
def _console_type() -> type[Console]:
    from rich.console import Console

    class PlainConsole(Console):
        """Takes nothing in a text as markup or as a terminal's command: paths and names are the user's."""

        def render_str(self, text: str, **options: Any) -> Text:  # pyright: ignore[reportIncompatibleMethodOverride]
            return super().render_str("\n".join(map(printable, text.split("\n"))), **options)

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # `cli.run` ends the program

    return PlainConsole


def plain_console(**options: Any) -> Console:
    """Return a console that prints text as it is, without markup; `options` are those of rich."""
    return _console_type()(markup=False, emoji=False, **options)


def make_console() -> Console:
    """Return the console that results are printed to; wide where the output goes to a file or a pipe."""
    console = plain_console()
    return console if console.is_terminal else plain_console(width=140)


@contextlib.contextmanager
def progress(total: float, what: str = "experiments") -> Iterator[Callable[[float], None]]:
    """Yield `advance(amount)`; the bar shows only on a terminal, and only once the work takes more than a moment."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = plain_console(stderr=True)
    if not console.is_terminal:
        yield lambda amount: None
        return
    columns = (TextColumn(what), BarColumn(), TextColumn("{task.percentage:3.0f} %"), TimeElapsedColumn(),
               TextColumn("left"), TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda amount: bar.advance(task, amount)


@contextlib.contextmanager
def stages(what: str) -> Iterator[Callable[[float, str], None]]:
    """Yield `report(fraction, message)` for work in stages; where nobody is watching, a line for each new message."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = plain_console(stderr=True)
    if not console.is_terminal:
        said: list[str] = []

        def say(fraction: float, message: str) -> None:
            if said[-1:] != [message]:
                said.append(message)
                console.print(f"{what}: {message} ({100 * fraction:.0f} %)", highlight=False)

        yield say
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.percentage:3.0f} %"),
               TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=1.0)
        yield lambda fraction, message: bar.update(task, completed=fraction, description=f"{what}: {message}")
