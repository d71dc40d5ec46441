"""What the user sees while a run works: stage, step of total, time left, numbers by name.

Three forms: `rich` bars on a terminal, plain lines elsewhere, or one JSON object a line
(`docs/watch.md`). Messages and progress go to standard error, results to standard output; with JSON
everything goes to standard output.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
)

from .. import ranks
from .watching import watching

console = Console(stderr=True, highlight=False, soft_wrap=True)


def say(message: str, *, important: bool = False) -> None:
    """One line for the user on standard error, where progress goes.

    important: what is told even where little is wanted. Of several processes the first one speaks.
    """
    if not ranks.now().first:
        return
    match watching().output:
        case "json":
            emit("message", text=message)
        case "quiet" if not important:
            pass
        case _:
            console.print(message, markup=False)


def result(path: Path | str) -> None:
    """A file or folder that a command was asked for: a line of standard output."""
    if watching().output == "json":
        emit("result", path=str(path))
    else:
        print(path, flush=True)


def heard(line: Mapping[str, Any]) -> None:
    """What a run has just recorded in its events; told if everything is to be told."""
    if watching().output == "json":
        emit(**line)
    elif watching().verbose and line.get("event") != "warning":  # that one is told anyway
        rest = {k: v for k, v in line.items() if k not in ("time", "event")}
        say(f"{line.get('event')}: {json.dumps(rest)}")


def emit(event: str, **values: Any) -> None:
    """One JSON object, as a line of standard output."""
    print(json.dumps({"event": event, "time": round(time.time(), 3), **values}), flush=True)


_preface: list[str] = []
_stages: list[str] = []


def preface(lines: Sequence[str], stages: Sequence[str] = ()) -> None:
    """Lines to be told once work really begins: what is wrong with the input comes alone.

    stages: the names of all that the command goes through, in order.
    """
    _preface[:], _stages[:] = lines, stages


def place(stage: str) -> tuple[int | None, int | None]:
    """Which stage of how many one is, from 1 on; nothing where no command has named them."""
    return (_stages.index(stage) + 1, len(_stages)) if stage in _stages else (None, None)


def told_place(stage: str) -> str:
    """`stage 1 of 3`, or nothing."""
    number, count = place(stage)
    return "" if number is None else f"stage {number} of {count}"


def named(stage: str) -> str:
    """`coarse  stage 1 of 3`, or its name alone."""
    return "  ".join(filter(None, (stage, told_place(stage))))


def _begin() -> None:
    lines, _preface[:] = list(_preface), []
    for line in lines:
        say(line)


class Meter(Protocol):
    """Reports the steps of one stage."""

    def update(
        self, step: int, numbers: Mapping[str, float] | None = None, preview: Path | None = None
    ) -> None:
        """`step` steps are done. preview: the latest picture."""
        ...


RECENT = 50
"""Over how many of the last steps the pace is taken."""


class Pace:
    """Seconds a step, and what is left of the stage and of the run.

    later: seconds of what follows the stage; None where nobody knows.
    """

    def __init__(self, total: int, start: int, later: float | None = 0.0) -> None:
        self._total, self._later, self._at = total, later, start
        self._times: deque[tuple[int, float]] = deque([(start, time.monotonic())], maxlen=RECENT)
        self._first = True

    def at(self, step: int) -> None:
        """Take note of the time at which so many steps are done."""
        if step <= self._at:
            return
        self._at = step
        self._times.append((step, time.monotonic()))
        if self._first and len(self._times) == 3:
            self._times.popleft()  # the first step compiles, and says little of the others
            self._first = False

    @property
    def each(self) -> float | None:
        """Seconds a step of late; None before the first one."""
        (step, began), (last, now) = self._times[0], self._times[-1]
        return (now - began) / (last - step) if last > step else None

    @property
    def left(self) -> float | None:
        """Seconds left of the stage."""
        return None if self.each is None else self.each * (self._total - self._at)

    @property
    def run_left(self) -> float | None:
        """Seconds left of the whole run; None where what follows isn't known."""
        return None if self.left is None or self._later is None else self.left + self._later

    def told(self) -> str:
        """`0.12 s/step  run 2:10 left, stage 0:40 left`, as far as it is known."""
        if self.each is None or self.left is None:
            return ""
        words = f"{self.each:.2g} s/step  "
        if self._later != 0.0:
            run = clock(self.run_left) if self.run_left is not None else f"{clock(self.left)}+"
            words += f"run {run} left, stage "
        return f"{words}{clock(self.left)} left"


class _Bar:
    def __init__(self, progress: Progress, task: TaskID, pace: Pace) -> None:
        self._progress, self._task, self._pace = progress, task, pace
        self._preview: Path | None = None

    def update(
        self, step: int, numbers: Mapping[str, float] | None = None, preview: Path | None = None
    ) -> None:
        self._pace.at(step)
        self._preview = preview or self._preview
        words = [self._pace.told(), _told(numbers), told_memory()]
        words += [] if self._preview is None else [str(self._preview)]
        told = "  ".join(filter(None, words))
        self._progress.update(self._task, completed=step, numbers=told)


class _Lines:
    """A line every twentieth of the stage, for logs and pipes."""

    def __init__(self, stage: str, total: int, pace: Pace) -> None:
        self._stage, self._total, self._pace = stage, total, pace
        self._every = max(1, total // 20)
        self._preview: Path | None = None

    def update(
        self, step: int, numbers: Mapping[str, float] | None = None, preview: Path | None = None
    ) -> None:
        self._pace.at(step)
        self._preview = preview or self._preview
        if step % self._every and step != self._total:
            return
        words = [self._stage, f"{step}/{self._total}", told_place(self._stage), told_memory()]
        words += [self._pace.told(), _told(numbers)]
        words += [] if self._preview is None else [str(self._preview)]
        self._preview = None  # each is told once
        print("  ".join(filter(None, words)), file=sys.stderr, flush=True)


class _Objects:
    """A JSON object every twentieth of the stage, and for each new picture."""

    def __init__(self, stage: str, total: int, pace: Pace) -> None:
        self._stage, self._total, self._pace = stage, total, pace
        self._every = max(1, total // 20)

    def update(
        self, step: int, numbers: Mapping[str, float] | None = None, preview: Path | None = None
    ) -> None:
        self._pace.at(step)
        if step % self._every and step != self._total and preview is None:
            return
        number, count = place(self._stage)
        emit(
            "progress",
            stage=self._stage,
            stage_number=number,
            stages=count,
            step=step,
            total=self._total,
            seconds_a_step=_rounded(self._pace.each),
            stage_seconds_left=_rounded(self._pace.left),
            run_seconds_left=_rounded(self._pace.run_left),
            numbers={name: float(f"{value:.6g}") for name, value in (numbers or {}).items()},
            memory_mib=memory_mib(),
            preview=None if preview is None else str(preview),
        )


class _Silence:
    def update(
        self, step: int, numbers: Mapping[str, float] | None = None, preview: Path | None = None
    ) -> None:
        pass


@contextmanager
def stage_progress(
    stage: str, total: int, start: int = 0, later: float | None = 0.0
) -> Iterator[Meter]:
    """Show the progress of a stage that begins at step `start` of `total`.

    later: seconds of what follows the stage; None where nobody knows, 0 if nothing does.
    """
    _begin()
    pace = Pace(total, start, later)
    if watching().output == "quiet" or not ranks.now().first:
        yield _Silence()
    elif watching().output == "json":
        yield _Objects(stage, total, pace)
    elif not console.is_terminal:
        yield _Lines(stage, total, pace)
    else:
        columns = (
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
        )
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(named(stage), total=total, completed=start, numbers="")
            yield _Bar(progress, task, pace)


@contextmanager
def doing(stage: str) -> Iterator[Callable[[str], None]]:
    """Show the parts of work that has no steps to count, such as an export; each as it begins."""
    _begin()
    output, number = watching().output, 0
    name = named(stage)
    if output == "people" and console.is_terminal:
        with console.status(f"[bold]{name}") as status:
            yield lambda part: status.update(f"[bold]{name}[/]  {part}")
        return

    def tell(part: str) -> None:
        nonlocal number
        number += 1
        if output == "json":
            which, count = place(stage)
            emit(
                "progress", stage=stage, stage_number=which, stages=count,
                doing=part, number=number, memory_mib=memory_mib(),
            )  # fmt: skip
        elif output == "people":
            print(f"{name}  {part}", file=sys.stderr, flush=True)

    yield tell


def memory_mib() -> int | None:
    """What the process holds, in MiB: of a GPU if it uses one, else resident; None if untold."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.memory_allocated() >> 20
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") >> 20
    except (OSError, ValueError, IndexError, AttributeError):
        return None  # not Linux


def told_memory() -> str:
    """`412 MiB`, or nothing."""
    found = memory_mib()
    return "" if found is None else f"{found} MiB"


def _told(numbers: Mapping[str, float] | None) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in (numbers or {}).items())


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def clock(seconds: float) -> str:
    """Seconds as m:ss, or h:mm:ss from an hour on."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
