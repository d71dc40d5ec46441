"""The export stage of a run: from its fine checkpoint to files in the run's `export/`."""

from __future__ import annotations

import json

import typer

from ..common.config.models import ExportConfig
from ..common.config.reading import changed
from ..common.runs.checkpoints import checkpoint_path, checksum
from ..common.runs.folder import Run, slug
from ..common.runs.origin import Origin, changes, finish, outputs_whole, told
from ..common.runs.progress import say
from .export.export import export
from .train import load_finished


def finish_export(run: Run) -> None:
    """Export a finished run as it is configured, unless that is done; print the two paths."""
    try:
        report = json.loads((run.export / "report.json").read_text("utf-8"))
        paths = [run.export / report["obj"], run.export / report["turntable"]]
    except (OSError, ValueError, KeyError, TypeError):
        paths = []  # not exported yet, or cut off
    found = changes(run.export, _origin(run, run.config.export))
    if found and paths:
        say(f"{told('export', found)}; exporting again")
    whole = all(path.is_file() for path in paths) and outputs_whole(run.export)
    if not paths or found or not whole:
        run_export(run)
        return
    for path in paths:
        typer.echo(path)


def _origin(run: Run, config: ExportConfig) -> Origin:
    """What an export is made of: its settings, and the model that the fine stage ended with."""
    given = {}
    last = checkpoint_path(run.fine, run.config.fine.steps)
    if last.is_file():
        given["the fine stage's result"] = checksum(last)
    return Origin(config.model_dump(mode="json"), given)


def run_export(run: Run, faces: int | None = None, texture_size: int | None = None) -> None:
    """Export a finished run and print where the OBJ and the turntable picture lie.

    faces, texture_size: other limits than the run's own. Raises UserError if the fine stage isn't
    finished or a limit is out of range.
    """
    limits = {"faces": faces, "texture_size": texture_size}
    config = changed(run.config, "export", limits).export
    model = load_finished(run)
    say(f"export: at most {config.faces} faces, {config.texture_size} px texture")
    report = export(
        model.mesh(),
        model.albedo,
        run.export,
        slug(run.config.fine_prompt),
        faces=config.faces,
        texture_size=config.texture_size,
        unwrap_limit_s=config.unwrap_limit,
        speck_share=config.speck_share,
    )
    made = (report.obj, report.mtl, report.texture, report.glb, report.turntable)
    outputs = [path.name for path in made]
    finish(run.export, _origin(run, config), *outputs, "report.json")
    run.event("exported", faces=report.faces_out, psnr=report.psnr_mean, seconds=report.seconds)
    if report.unwrap_reason:
        run.warn(f"unwrapped without xatlas: {report.unwrap_reason}")
    say(
        f"exported {report.faces_out} faces; read back at {report.psnr_mean:.1f} dB of the model "
        f"(worst view {report.psnr_min:.1f} dB)"
    )
    typer.echo(report.obj)
    typer.echo(report.turntable)
