"""Runs that a benchmark keeps: finished where they were left, and scored once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from maquette.coarse.train import run_coarse
from maquette.common.files import write_whole
from maquette.common.runs.checkpoints import steps_on_disk
from maquette.common.runs.coarse_result import read_result
from maquette.common.runs.folder import Run
from maquette.fine.train import hand_off


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The JSON object in a file; it is made and written where it isn't there yet."""
    if not path.is_file():
        write_whole(path, json.dumps(make(), indent=1) + "\n")
    return json.loads(path.read_text("utf-8"))


def handed_over(run: Run) -> Run:
    """The run with its coarse stage finished and handed to the fine one. Raises UserError."""
    run_coarse(run)
    if not steps_on_disk(run.fine):
        hand_off(run, read_result(run))
    return run
