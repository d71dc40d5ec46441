"""Removing runs, and what of a finished run isn't needed to export it again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from ..errors import UserError
from ..files import sole_writer, write_whole
from ..runs.folder import CLEANED, Run, open_run
from .summary import is_run, size_of


def delete_run(folder: Path) -> int:
    """Remove a run with all its files; the bytes that were freed.

    Raises UserError for a folder that holds no run, is a link, or is being written to.
    """
    check_run(folder)
    freed = size_of(folder)
    with sole_writer(folder):
        for path in folder.iterdir():
            if path.name == ".lock":
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    shutil.rmtree(folder)
    return freed


def check_run(folder: Path) -> None:
    """Raise UserError unless a folder is a run's own."""
    if folder.is_symlink():
        raise UserError(f"{folder} is a link; give the run's own folder")
    if not is_run(folder):
        raise UserError(f"'{folder}' is no run folder; nothing was removed")


def clean_run(folder: str) -> int:
    """Drop what a finished run doesn't need to be exported again; the bytes that were freed.

    What stays: settings, events, exported files, posters, films and curves, and of the fine stage
    the first shape and the last checkpoint. A mark says that the rest was dropped on purpose.
    Raises UserError for a run that isn't finished.
    """
    run = open_run(folder)
    if not (run.export / "report.json").is_file():
        raise UserError(f"{folder} isn't exported yet; finish it first: maquette resume {folder}")
    with sole_writer(run.folder):
        dropped = droppable(run)
        freed = sum(size_of(path) if path.is_dir() else path.stat().st_size for path in dropped)
        if dropped:
            names = [path.relative_to(run.folder).as_posix() for path in dropped]
            write_whole(run.folder / CLEANED, json.dumps({"dropped": names}, indent=2) + "\n")
        for path in dropped:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    return freed


def droppable(run: Run) -> list[Path]:
    """The files and folders of a finished run that only training and watching needed."""
    last = f"step-{run.config.fine.steps:06d}.safetensors"
    found = [*sorted(run.coarse.glob("*.safetensors"))]
    found += [path for path in sorted(run.fine.glob("step-*.safetensors")) if path.name != last]
    found += sorted(run.fine.glob("text-*.safetensors"))
    for place in (run.coarse / "growth", run.fine / "growth", run.folder / "tensorboard"):
        found += [place] if place.is_dir() else []
    return found
