"""Looking on while a stage grows: a grid of four views every few steps, numbers at every one.

A grid is four columns, the views at 0, 90, 180 and 270 degrees, and four rows: colour, normals,
opacity, and what the prior wants to see there. It is `growth/STEP.png` in the stage's folder.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import ranks
from ..errors import UserError
from ..files import remove_parts, write_whole
from ..guidance.faces import first_prior
from ..guidance.judges import Panel
from ..guidance.score import ScoreDistillation
from ..guidance.wanted import wanted_views
from ..runs.checkpoints import steps_on_disk
from ..runs.folder import Run
from ..runs.stage import Stage
from ..runs.watching import watching
from ..scene.cameras import orbit
from ..scene.images import png_bytes, strip
from .loggers import Logger, Picture, open_logger
from .looks import Subject, normal_colors

T = TypeVar("T")
VIEWS = 4
SIZE = 96
"""Pixels of a view in a grid; one of a coarser stage is enlarged to that."""
GROWTH, SCALARS = "growth", "scalars.jsonl"


class Allowance:
    """How often something may be done so that it takes a share of the time at most.

    most: how often in a stage of `total` steps. share: of the stage's time, in [0, 1]. What it
    takes is measured, so that after the first time the rest are spread over what is left.
    """

    def __init__(self, total: int, most: int, share: float) -> None:
        self._total, self._most, self._share = total, most, share
        self._next = max(1, total // most) if most > 0 else total + 1
        self._spent = 0.0

    def due(self, step: int) -> bool:
        """Whether it is time for it after `step` steps."""
        return step >= self._next

    def used(self, step: int, seconds: float, stage_seconds: float) -> None:
        """Note that it took `seconds`, at a step at which the stage had run for `stage_seconds`."""
        self._spent += seconds
        # What looking took is no part of the time that it is a share of.
        whole = max(stage_seconds - self._spent, 0.0) / max(1, step) * self._total
        affordable = (self._share * whole - self._spent) / max(seconds, 1e-9)
        left = self._total - step
        spacing = left if affordable < 1.0 else left / affordable
        self._next = step + max(1, round(max(spacing, self._total / self._most)))
        if affordable < 1.0:
            self._next = self._total + 1


class Growth:
    """Takes pictures and numbers of one stage; a `Watcher` of its loop."""

    def __init__(
        self, run: Run, stage: str, folder: Path, total: int, start: int, resolution: int = SIZE
    ) -> None:
        """start: the step that the stage goes on from; what is recorded beyond it is dropped.

        resolution: of the stage's own views; nothing is looked at more closely.
        """
        self._run, self._stage, self._folder, self._total = run, stage, folder, total
        self._start, self._began = start, time.monotonic()
        self._size = min(SIZE, resolution)
        options = watching()
        # Half of the time each: what the prior wants costs as much as a step, a view far less.
        self._views = Allowance(total - start, options.previews, options.share / 2)
        self._wanted = Allowance(total - start, options.previews, options.share / 2)
        self._subject: Subject | None = None
        self._judge: ScoreDistillation | None = None
        self._logger: Logger = open_logger(run, stage, start)
        drop_after(folder, start)
        self._lines: list[str] = []

    def shows(self, subject: Subject, judges: Panel) -> Growth:
        """Look at this, and ask the prior among these judges."""
        self._subject = subject
        self._judge = first_prior(judges)
        return self

    def after(self, step: int, numbers: Mapping[str, float]) -> Path | None:
        """Record the numbers of a step, and take a picture if one is due; its path."""
        line = {"step": step, "seconds": round(time.monotonic() - self._began, 3), **numbers}
        self._lines.append(json.dumps(line) + "\n")
        self._logger.numbers(step, numbers)
        path = None
        if self._subject is not None and self._views.due(step - self._start):
            path = self._try_picture(step)
        if len(self._lines) >= 50 or step == self._total or path is not None:
            self._flush()
        return path

    def _try_picture(self, step: int) -> Path | None:
        """A picture, or a line on why there are none from here on, such as a full GPU."""
        try:
            return self.picture(step)
        except (RuntimeError, UserError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            self._run.warn(f"no more previews of the {self._stage} stage: {reason}")
            self._subject = None
            return None

    def picture(self, step: int) -> Path:
        """Write the grid of a step."""
        assert self._subject is not None
        subject, done, at = self._subject, step - self._start, step - 1
        wanted, judge = None, self._judge
        if judge is not None and self._wanted.due(done):
            seen = orbit(VIEWS)
            wanted = self._timed(
                self._wanted, done, lambda: wanted_views(judge, subject.judged(seen, at), at)
            )
            if wanted is None:
                self._judge = None  # it will have no answer later either
        path = self._folder / GROWTH / f"{step:06d}.png"
        self._timed(self._views, done, lambda: self._keep(step, path, subject, wanted))
        return path

    def _keep(self, step: int, path: Path, subject: Subject, wanted: Tensor | None) -> None:
        """Write a grid, encoded once and in a hurry."""
        look = subject.pictured(orbit(VIEWS), self._size)
        rows = [look.color, normal_colors(look), look.opacity[..., None].expand_as(look.color)]
        rows += [] if wanted is None else [wanted.float()]
        tiles = torch.cat([resized(row, SIZE).cpu() for row in rows])
        grid = strip(tiles, VIEWS)
        png = png_bytes(grid, effort=1)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, png)
        self._logger.picture(step, Picture(png, grid.shape[1], grid.shape[0]))

    def __enter__(self) -> Growth:
        return self

    def __exit__(self, *_: object) -> None:
        """Write what is left, however the stage ended."""
        self._flush()
        self._logger.close()

    def _timed(self, allowance: Allowance, done: int, make: Callable[[], T]) -> T:
        began = time.monotonic()
        with torch.no_grad(), torch.random.fork_rng([]):
            made = make()
        now = time.monotonic()
        allowance.used(done, now - began, now - self._began)
        return made

    def _flush(self) -> None:
        if self._lines:
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / SCALARS).open("a", encoding="utf-8") as file:
                file.writelines(self._lines)
            self._lines = []


class Unwatched:
    """What stands in a `Growth`'s place in all processes of a run but the first."""

    def shows(self, subject: Subject, judges: Panel) -> Unwatched:
        """Nothing is looked at."""
        return self

    def after(self, step: int, numbers: Mapping[str, float]) -> Path | None:
        """Nothing is recorded."""
        return None

    def __enter__(self) -> Unwatched:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def watching_growth(run: Run, stage: Stage) -> Growth | Unwatched:
    """What looks on while a run's stage goes on from its last checkpoint."""
    if not ranks.now().first:
        return Unwatched()
    config, folder = stage.config(run.config), stage.folder(run)
    done = max(steps_on_disk(folder), default=0)
    return Growth(run, stage.name, folder, config.steps, done, config.resolution)


def resized(images: Tensor, size: int) -> Tensor:
    """Images `[B, H, W, 3]` at `[B, size, size, 3]`."""
    if images.shape[1:3] == (size, size):
        return images
    pixels = images.permute(0, 3, 1, 2)
    small = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
    return small.permute(0, 2, 3, 1)


def drop_after(folder: Path, step: int) -> None:
    """Drop numbers and pictures of a stage beyond a step: they are made again."""
    growth = folder / GROWTH
    if growth.is_dir():
        remove_parts(growth)
        for path in pictures(folder):
            if int(path.stem) > step:
                path.unlink(missing_ok=True)
    file = folder / SCALARS
    if file.is_file():
        kept = [line for line in read_scalars(folder) if line["step"] <= step]
        file.write_text("".join(json.dumps(line) + "\n" for line in kept), "utf-8")


def pictures(folder: Path) -> list[Path]:
    """The grids of a stage's folder, oldest first."""
    return sorted(path for path in (folder / GROWTH).glob("*.png") if path.stem.isdigit())


def read_scalars(folder: Path) -> list[dict[str, float]]:
    """The numbers of each step of a stage; lines that were cut off are left out."""
    try:
        lines = (folder / SCALARS).read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found: dict[int, dict[str, float]] = {}
    for line in lines:
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, dict) and isinstance(values.get("step"), int):
            found[values["step"]] = values  # a step that was done again counts as it was then
    return [found[step] for step in sorted(found)]
