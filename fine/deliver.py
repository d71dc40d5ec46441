"""The export stage of a run: from its fine checkpoint to files in the run's `export/`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..common.config.export import ExportConfig
from ..common.config.reading import changed, validated
from ..common.errors import UserError
from ..common.files import write_whole
from ..common.runs.checkpoints import checkpoint_path, stored_digest
from ..common.runs.failure import failures, fronts
from ..common.runs.folder import Run, slug
from ..common.runs.origin import Origin, changes, default_settings, finish, told
from ..common.runs.progress import doing, result, say
from ..common.runs.whole_folder import replaced, settle, unchanged
from ..common.watch.ends import finish_pictures
from .export.export import REPORT, ExportReport, export
from .export.placement import Pose, formats_of
from .export.usdz import require_usd
from .meshes.begin import read_start
from .meshes.keep import kept_layout
from .train import load_finished

OPTIONS = "export.json"
"""The options of the last export that was asked for, in the run's folder."""


def finish_export(run: Run) -> None:
    """Export a finished run, unless that is done, as it was asked for last; print the two paths."""
    settle(run.export, REPORT)
    options = _asked(run)
    report = _report(run.export)
    if not _is_done(run, report, options):
        if report and (found := changes(run.export, _origin(run, options))):
            say(f"{told('export', found)}; exporting again")
        _deliver(run, options)
        return
    _print_paths(run, report)


def run_export(run: Run, options: Mapping[str, Any] | None = None) -> None:
    """Export a finished run and print where the model and the turntable picture lie.

    options: settings of `export` other than the run's own; None means unchanged. Raises UserError
    if the fine stage isn't finished or a setting is out of range.
    """
    config = changed(run.config, "export", options or {}).export
    if "usdz" in formats_of(config):
        require_usd()
    _deliver(run, config)


def _deliver(run: Run, config: ExportConfig) -> None:
    model = load_finished(run)
    _remember(run, config)
    start = read_start(run) if run.config.mesh is not None else None
    kept, notes = None, []
    if start is not None and run.config.mesh is not None and run.config.mesh.keep:
        kept, reason = kept_layout(start, config.unwrap_limit, config.texture_size)
        notes = [f"the mesh's texture coordinates are made anew: {reason}"] if reason else []
        say(f"export: the mesh's own faces, {config.texture_size} px texture")
    else:
        most = "as many faces as the shape needs"
        if config.faces is not None:
            most = f"at most {config.faces} faces"
        say(f"export: {most}, {config.texture_size} px texture")
    with doing("export") as tell, replaced(run.export, REPORT) as folder:
        report = export(
            model.mesh() if kept is None else kept.welded(),
            model.albedo,
            folder,
            slug(run.config.title),
            on_step=tell,
            config=config,
            pose=Pose() if start is None else start.pose,
            kept=kept,
            notes=notes,
            made_of=_mark(run, config),
            finish=model.texture.finish(),
            failures=failures(run),
            fronts=fronts(run),
        )
        finish(folder, _origin(run, config))
    run.event("exported", faces=report.faces_out, psnr=report.psnr_mean, seconds=report.seconds)
    if report.unwrap_reason:
        run.warn(f"unwrapped without xatlas: {report.unwrap_reason}")
    for note in report.notes:
        run.warn(note)
    for line in closing_lines(report):
        say(line)
    finish_pictures(run)
    _print_paths(run, json.loads(report.to_json()))


def _origin(run: Run, config: ExportConfig) -> Origin:
    """What an export is made of: its settings, and the model that the fine stage ended with."""
    last = stored_digest(checkpoint_path(run.fine, run.config.fine.steps))
    given = {"the fine stage's result": last}
    return Origin(config.model_dump(mode="json"), given, default_settings(config))


def closing_lines(report: ExportReport) -> list[str]:
    """What is said of an export at its end."""
    shape, atlas = report.shape, report.atlas
    kind = report.formats[0]
    size = " x ".join(f"{side:g}" for side in report.size[kind])
    parts = f"{shape.components} part{'' if shape.components == 1 else 's'}"
    handles = "" if shape.genus is None else f", genus {shape.genus}"
    sound = "closed" if shape.closed else f"{shape.border_edges} open edges"
    manifold = "manifold" if shape.manifold else "not manifold"
    mixed = f", {atlas.mixed[3]:.2%} mixed at level 3" if len(atlas.mixed) > 3 else ""
    used = f"{atlas.charts} charts, {atlas.use:.0%} used"
    files = ", ".join(f"{name} {_bytes(count)}" for name, count in report.bytes.items())
    asked = "" if report.faces_asked is None else f" of at most {report.faces_asked}"
    return [
        f"exported {report.faces_out} faces{asked}; read back at "
        f"{report.psnr_mean:.1f} dB of the model (worst view {report.psnr_min:.1f} dB)",
        f"  {kind}: {size}; {sound}, {manifold}, {parts}{handles}",
        f"  texture: {used}, stretch {atlas.stretch:.2f}{mixed}",
        f"  files: {files}",
        "  seconds: " + ", ".join(f"{step} {value:.1f}" for step, value in report.seconds.items()),
    ]


def _bytes(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.0f} KiB"


def _print_paths(run: Run, report: Mapping[str, Any]) -> None:
    names = [report["obj"] or report["glb"] or _first_model(report), report["turntable"]]
    for name in names:
        result(run.export / name)


def _first_model(report: Mapping[str, Any]) -> str:
    kind = report["formats"][0]
    return next(name for name in report["bytes"] if name.endswith(f".{kind}"))


def _remember(run: Run, config: ExportConfig) -> None:
    """Write down what was asked for, so that an export that is cut off is finished like that."""
    if config != _asked(run):
        text = json.dumps(config.model_dump(mode="json"), indent=2) + "\n"
        write_whole(run.folder / OPTIONS, text)


def _asked(run: Run) -> ExportConfig:
    """The options of the last export that was asked for; the run's own if there was none."""
    try:
        tree = json.loads((run.folder / OPTIONS).read_text("utf-8"))
    except FileNotFoundError:
        return run.config.export
    except (OSError, ValueError):
        tree = None
    if not isinstance(tree, dict):
        raise UserError(
            f"{run.folder / OPTIONS} is damaged; delete it to export with the run's own settings"
        )
    return validated(ExportConfig, tree, OPTIONS)


def _mark(run: Run, config: ExportConfig) -> str:
    """What tells whether files were made of this fine result, with these options."""
    made_of = json.dumps(dataclasses.asdict(_origin(run, config)), sort_keys=True)
    return hashlib.blake2b(made_of.encode(), digest_size=16).hexdigest()


def _report(folder: Path) -> dict[str, Any]:
    """What the report of a finished export says; nothing if there is none that can be read."""
    try:
        report = json.loads((folder / REPORT).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return report if isinstance(report, dict) else {}


def _is_done(run: Run, report: Mapping[str, Any], options: ExportConfig) -> bool:
    """Whether `export/` holds what the fine result makes with these options, whole."""
    digests = report.get("digests")
    if not isinstance(digests, dict) or report.get("made_of") != _mark(run, options):
        return False
    return unchanged(run.export, digests)
