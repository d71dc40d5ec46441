"""What is pictured at the end of a stage, and of a run: poster, turntable, strip, film, curves."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..runs.folder import Run
from ..runs.stage import STAGES
from ..runs.watching import watching
from ..scene.cameras import orbit
from ..scene.images import save_png
from .curves import CURVES, write_curves
from .films import Frame, frames_of, hold, scaled, write_film
from .growth import SCALARS, SIZE, VIEWS, pictures
from .looks import Subject

POSTER, STRIP, TURNTABLE, FILM = "poster.png", "strip.png", "turntable", "growth"
TURNS, RATE = 16, 8.0
"""Views of a turntable, and how many of them a second."""
_AT_ONCE = 4
"""Views rendered together: a surface is found once for them, and they fit where a step does."""
_SHOWN = 8
"""Most grids in a strip."""


@torch.no_grad()
def picture_end(folder: Path, subject: Subject, resolution: int) -> None:
    """Poster, turntable and strip of a stage that is complete, in its folder.

    resolution: pixels a side of the turntable.
    """
    cameras = orbit(TURNS)
    # An eighth of a turn from the front shows front and side.
    corner = cameras[TURNS // 8 : TURNS // 8 + 1]
    save_png(subject.pictured(corner, 2 * resolution).color[0], folder / POSTER)
    if watching().films:
        parts = [cameras[i : i + _AT_ONCE] for i in range(0, TURNS, _AT_ONCE)]
        views = [subject.pictured(part, resolution).color.cpu() for part in parts]
        write_film(folder / TURNTABLE, frames_of(torch.cat(views)), RATE)
    write_strip(folder)


_DAMAGED = (OSError, SyntaxError, ValueError)
"""What the library raises for a picture that is missing or damaged; a film does without it."""


def write_strip(folder: Path) -> None:
    """The first column of some grids of a stage side by side: how one view came to be."""
    found = pictures(folder)
    if not found:
        return
    chosen = [found[round(i)] for i in np.linspace(0, len(found) - 1, min(_SHOWN, len(found)))]
    columns = []
    for path in chosen:
        with suppress(*_DAMAGED), Image.open(path) as grid:
            column = np.array(grid.convert("RGB"))[:, :SIZE]
            blank = np.full((VIEWS * SIZE - column.shape[0], SIZE, 3), 255, dtype=np.uint8)
            columns.append(np.concatenate([column, blank]))
    if columns:
        save_png(torch.from_numpy(np.concatenate(columns, axis=1)), folder / STRIP)


def finish_pictures(run: Run) -> None:
    """The film of the whole growth and the curves, in the run's folder.

    What is newer than what it is made of stays as it is.
    """
    scalars = [stage.folder(run) / SCALARS for stage in STAGES]
    if older(run.folder / CURVES, scalars):
        write_curves(run)
    turn = run.fine / f"{TURNTABLE}.webp"
    if watching().films and older(run.folder / f"{FILM}.webp", [turn]):
        frames = film_frames(run)
        if frames:
            write_film(run.folder / FILM, frames, RATE)


def older(path: Path, sources: Sequence[Path]) -> bool:
    """Whether a file is missing, or older than one of those it is made of."""
    if not path.is_file():
        return True
    made = path.stat().st_mtime_ns
    return any(source.is_file() and source.stat().st_mtime_ns > made for source in sources)


def film_frames(run: Run) -> list[Frame]:
    """Four views, colour above normals, as they grew in both stages; then a turn of the end."""
    width, height = VIEWS * SIZE, 2 * SIZE
    frames = []
    for stage in STAGES:
        for path in pictures(stage.folder(run)):
            with suppress(*_DAMAGED), Image.open(path) as grid:
                frames.append(np.array(grid.convert("RGB"))[:height, :width])
    frames += hold(frames, 4)
    return frames + _turn(run, width, height)


def _turn(run: Run, width: int, height: int) -> list[Frame]:
    """The fine stage's turntable, as large as it fits before white."""
    path = run.fine / f"{TURNTABLE}.webp"
    frames: list[Frame] = []
    with suppress(*_DAMAGED), Image.open(path) as film:
        for index in range(getattr(film, "n_frames", 1)):
            film.seek(index)
            frame = np.full((height, width, 3), 255, dtype=np.uint8)
            left = (width - height) // 2
            frame[:, left : left + height] = scaled(film, height, height)
            frames.append(frame)
    return frames
