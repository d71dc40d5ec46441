"""What the user sees while a stage runs: stage, step of total, time left, numbers by name."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from .. import ranks

console = Console(stderr=True, highlight=False, soft_wrap=True)


def say(message: str) -> None:
    """One line for the user on standard error, where progress goes."""
    if not ranks.now().first:
        return
    console.print(message, markup=False)


class Meter(Protocol):
    """Reports the steps of one stage."""

    def update(self, step: int, numbers: Mapping[str, float] | None = None) -> None:
        """`step` steps are done."""
        ...


class _Bar:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def update(self, step: int, numbers: Mapping[str, float] | None = None) -> None:
        self._progress.update(self._task, completed=step, numbers=_told(numbers))


class _Silent:
    """What another process than the first shows."""

    def update(self, step: int, numbers: Mapping[str, float] | None = None) -> None:
        pass


class _Lines:
    """A line every twentieth of the stage, for logs and pipes."""

    def __init__(self, stage: str, total: int, start: int) -> None:
        self._stage, self._total, self._start = stage, total, start
        self._every, self._began = max(1, total // 20), time.monotonic()

    def update(self, step: int, numbers: Mapping[str, float] | None = None) -> None:
        if step % self._every and step != self._total:
            return
        each = (time.monotonic() - self._began) / max(1, step - self._start)
        left = clock(each * (self._total - step))
        words = [self._stage, f"{step}/{self._total}", f"{left} left", _told(numbers)]
        print("  ".join(filter(None, words)), file=sys.stderr, flush=True)


@contextmanager
def stage_progress(stage: str, total: int, start: int = 0) -> Iterator[Meter]:
    """Show the progress of a stage that begins at step `start` of `total`."""
    if not ranks.now().first:
        yield _Silent()
        return
    if not console.is_terminal:
        yield _Lines(stage, total, start)
        return
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[numbers]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(stage, total=total, completed=start, numbers="")
        yield _Bar(progress, task)


def _told(numbers: Mapping[str, float] | None) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in (numbers or {}).items())


def clock(seconds: float) -> str:
    """Seconds as m:ss, or h:mm:ss from an hour on."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
