"""Runs that a benchmark keeps: begun once, finished where they were left, and scored once."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from maquette.coarse.train import run_coarse
from maquette.common.begin import Choices, begin
from maquette.common.errors import UserError
from maquette.common.files import write_whole
from maquette.common.runs.checkpoints import steps_on_disk
from maquette.common.runs.coarse_result import read_result
from maquette.common.runs.folder import Run
from maquette.fine.train import hand_off

SCORES = "scores.json"


def begun(prompt: str, folder: Path, choices: Choices) -> Run:
    """The run in a folder, begun now or before; UserError if it cannot be had at all.

    Ends the program, in one line, if what lies there is of other settings, or damaged.
    """
    try:
        return begin(prompt, dataclasses.replace(choices, out=str(folder)))
    except UserError as error:
        if folder.exists():
            raise SystemExit(f"{error}\nRemove {folder}, or give another --runs.") from None
        raise


def handed_over(run: Run) -> Run:
    """The run with its coarse stage finished and handed to the fine one. Raises UserError."""
    run_coarse(run)
    if not steps_on_disk(run.fine):
        hand_off(run, read_result(run))
    return run


def kept(run: Run, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What is said of a run, as JSON beside it; it is made and written where it isn't there yet."""
    path = run.folder / SCORES
    if not path.is_file():
        write_whole(path, json.dumps(make(), indent=1) + "\n")
    return json.loads(path.read_text("utf-8"))


@contextmanager
def failing_in_one_line(what: str) -> Iterator[None]:
    """Ends the program with what failed and why in place of a traceback, if it is a UserError."""
    try:
        yield
    except UserError as error:
        raise SystemExit(f"{what}: {error}") from None
