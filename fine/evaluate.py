"""Scoring runs against the toybox's truth."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
import typer

from ..common.errors import UserError, one_line
from ..common.files import write_whole
from ..common.rasterize import Raster, interpolate
from ..common.runs.folder import Run, open_run, run_around
from ..common.toybox.grammar import parse
from ..common.toybox.objects import build
from ..common.toybox.recognize import LOOKS, recognize
from ..common.toybox.score import Scores, Textured, score
from .model import AnyModel
from .train import first_model, load_finished

Stage = Literal["handoff", "fine"]
SCORES = "scores.json"
"""In a run's folder: what was found last."""


def evaluate_runs(folders: list[str], json_file: str | None) -> None:
    """Print a line of scores for each run, and write them to `json_file` if given.

    Raises UserError for a run without a finished fine stage or with a prompt outside the toybox.
    """
    if json_file is not None:
        _check_writable(Path(json_file))
    runs = [open_run(folder) for folder in folders]
    rows: list[dict[str, Any]] = []
    for run in runs:
        caption, model = parse(run.config.fine_prompt), textured(load_finished(run))
        scores, seen = score(model, build(caption)), recognize(model, caption)
        told = {"run": str(run.folder), "prompt": run.config.fine_prompt}
        rows.append({**told, **asdict(scores), **asdict(seen)})
        with suppress(OSError):  # a run that can be read and not written to is scored all the same
            write_whole(run.folder / SCORES, json.dumps(rows[-1], indent=2) + "\n")
        typer.echo(
            f"{run.config.fine_prompt}: F-score {scores.f_score:.3f}  "
            f"chamfer {scores.chamfer:.4f}  IoU {scores.iou:.3f}  PSNR {scores.psnr:.1f} dB  "
            f"taken for {seen.taken_for}  Janus views {seen.janus_views} of {LOOKS}"
        )
    if json_file is not None:
        _write_json(Path(json_file), rows)


def evaluate_run(run: Run, stage: Stage = "fine") -> Scores:
    """Scores of a run's mesh: the finished one, or the one the hand-off made."""
    caption = parse(run.config.fine_prompt)
    model = load_finished(run) if stage == "fine" else first_model(run)
    return score(textured(model), build(caption))


def textured(model: AnyModel) -> Textured:
    """A model as the scores want it."""
    mesh = model.mesh()

    def colors(raster: Raster) -> torch.Tensor:
        return model.albedo(interpolate(mesh.vertices, raster))

    return Textured(mesh, colors)


def _check_writable(path: Path) -> None:
    """Scores take a while: a file that cannot be written is told before."""
    told = one_line(str(path), 120)
    try:
        fits = path.parent.is_dir() and (path.is_file() or not path.exists())
        around = run_around(path)
    except (OSError, ValueError, RuntimeError):
        fits, around = False, None
    if not fits:
        raise UserError(f"cannot write {told}; give --json a file in a folder that exists")
    if around is not None:
        raise UserError(f"--json: cannot write {told} into a run's own folder; choose another")


def _write_json(path: Path, rows: list[dict[str, Any]]) -> None:
    try:
        write_whole(path, json.dumps(rows, indent=2) + "\n")
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror}); choose another --json FILE"
        ) from None
