"""What is seen while a sweep runs: a progress bar, one line per finished cohort, TensorBoard scalars on request."""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from mdtree_jax.checks import UserError
from mdtree_jax.store.tables import OK


def duration(seconds: float) -> str:
    """Return `seconds` in words, to two figures or so.

    >>> duration(3.14), duration(200), duration(7300), duration(200_000), duration(1e9)
    ('3.1 s', '3.3 min', '2.0 h', '2.3 days', '32 years')
    """
    for limit, size, unit in ((100, 1, "s"), (5400, 60, "min"), (1.5e5, 3600, "h"), (4e7, 86400, "days")):
        if seconds < limit:
            return f"{seconds / size:.{1 if seconds / size < 10 else 0}f} {unit}"
    return f"{seconds / 31_557_600:.0f} years"


def amount(number: float) -> str:
    """Return a number of bytes, operations or the like with a decimal prefix, to three figures.

    >>> amount(480), amount(11173962), amount(7e19)
    ('480', '11.2 M', '70 E')
    """
    for prefix in ("", "k", "M", "G", "T", "P", "E"):
        if abs(number) < 999.5 or prefix == "E":
            return f"{number:.3g} {prefix}".strip()
        number /= 1000
    raise AssertionError("unreachable")


def plan_table(plan: pd.DataFrame, title: str) -> Table:
    """Return the plan of `make_plan` as a table, a row per width and the total; measuring in percent of training."""
    table = Table(
        title=f"{title}: {len(plan)} cohorts, {plan['finished'].sum()} finished",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )  # so that it fits 80 columns
    for heading in ("width", "parameters", "cohorts", "networks", "FLOPs", "measure", "on disk", "time here"):
        table.add_column(heading, justify="right", no_wrap=True)
    for width, rows in [*plan.groupby("width"), ("all", plan)]:
        left = rows[~rows["finished"]]
        table.add_row(
            str(width),
            "" if width == "all" else f"{rows['num_parameters'].iloc[0]:,}".replace(",", " "),
            str(len(rows)),
            str(rows["num_members"].sum()),
            amount(rows["train_flops"].sum()),
            f"{100 * rows['measure_flops'].sum() / rows['train_flops'].sum():.0f} %",
            f"{amount(rows['checkpoint_bytes'].sum())}B",
            duration(left["estimated_seconds"].sum()) if len(left) else "done",
            end_section=width == plan["width"].max(),
        )
    return table


class Monitor:
    """Shows the progress of a sweep on `console`; a context manager.

    `estimated_seconds` gives an estimate for each cohort of which something is still to be done; only their
    proportions matter, the time left is scaled by what the finished ones took. On a terminal a bar follows the blocks
    of the running cohort; one line per finished cohort is printed anywhere.
    """

    def __init__(self, console: Console, estimated_seconds: dict[str, float], num_finished: int = 0):
        self._console = console
        self._estimated = dict(estimated_seconds)
        self._estimated_left = sum(self._estimated.values())
        self._total = num_finished + len(estimated_seconds)
        self._num_finished = num_finished
        self._estimated_done = self._actual_done = 0.0
        self._current: tuple[str, float] | None = None
        self._fraction = 0.0
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[left]}"),
        )
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._cohorts = self._bar.add_task("cohorts", total=self._total, completed=num_finished, left="")
        self._blocks = self._bar.add_task("", total=1.0, left="", visible=False)

    def __enter__(self) -> Monitor:
        if not self._bar.disable:
            self._bar.start()
        return self

    def __exit__(self, *exception) -> None:
        if not self._bar.disable:  # stopping a bar that was never shown prints an empty line before rich 15
            self._bar.stop()

    def say(self, line: str) -> None:
        """Print a line."""
        self._console.print(line, highlight=False, soft_wrap=True)

    def start_cohort(self, key: str) -> None:
        """The cohort `key` begins."""
        self._current, self._fraction = (key, time.perf_counter()), 0.0
        self._bar.update(self._blocks, description=key, completed=0.0, left="", visible=True)

    def progress(self, fraction: float, message: str = "") -> None:
        """A block of the running cohort is done; `fraction` of the whole cohort is, in [0, 1]."""
        self._fraction = fraction
        self._bar.update(self._blocks, completed=fraction, left=message)
        self._bar.update(self._cohorts, left=self._left_text())

    def finish_cohort(self, rows: pd.DataFrame) -> None:
        """The running cohort is finished with these `rows` of the per-seed table."""
        assert self._current is not None  # it was started
        key, start = self._current
        seconds = time.perf_counter() - start
        estimated = self._estimated.pop(key, 0.0)
        self._estimated_done += estimated
        self._estimated_left = max(self._estimated_left - estimated, 0.0) if self._estimated else 0.0
        self._actual_done += seconds
        self._num_finished += 1
        self._current = None
        num_failed = int((rows["status"] != OK).sum())
        failed = f", {num_failed} diverged" if num_failed else ""
        good = rows[rows["status"] == OK]["test_error"]
        errors = f", test error {good.min():.1f} to {good.max():.1f} %" if len(good) else ""
        left = self._left_text()
        self._bar.update(self._cohorts, completed=self._num_finished, left=left)
        self._console.print(
            f"{self._num_finished}/{self._total} {key}: {len(rows)} networks{failed}{errors}, {duration(seconds)}"
            + (f"; {left}" if left else ""),
            highlight=False,
        )

    def seconds_left(self) -> float | None:
        """Return the estimated time until the sweep is done, None before anything is known."""
        done, actual = self._estimated_done, self._actual_done
        if self._current is not None:
            key, start = self._current
            done += self._estimated.get(key, 0.0) * self._fraction
            actual += time.perf_counter() - start
        if done <= 0.0:
            return None
        running = self._estimated.get(self._current[0], 0.0) * self._fraction if self._current else 0.0
        return (self._estimated_left - running) * actual / done

    def _left_text(self) -> str:
        left = self.seconds_left()
        return f"{duration(left)} left" if left else ""


class ScalarLog:
    """TensorBoard scalars: per finished cohort its mean errors and losses, seconds, and diverged members."""

    def __init__(self, folder: Path):
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError as error:
            raise UserError("tensorboard=true needs the package tensorboard; run pip install tensorboard") from error
        # Protobuf makes the classes at import, where no type checker sees them.
        self._event = event_pb2.Event  # pyright: ignore[reportAttributeAccessIssue]
        self._summary = summary_pb2.Summary  # pyright: ignore[reportAttributeAccessIssue]
        self._writer = EventFileWriter(str(folder))

    def write(self, step: int, rows: pd.DataFrame) -> None:
        """Write the scalars of one finished cohort as number `step`."""
        good = rows[rows["status"] == OK]
        scalars = {column: good[column].mean() for column in ("train_error", "test_error", "train_loss", "test_loss")}
        scalars |= {"cohort_seconds": rows["train_seconds"].sum(), "num_diverged": len(rows) - len(good)}
        values = [self._summary.Value(tag=tag, simple_value=float(value)) for tag, value in scalars.items()]
        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=self._summary(value=values)))
        self._writer.flush()
