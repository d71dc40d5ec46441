"""One page that shows one run or compares several; it needs no network and no other file.

Everything is in the page itself, so that it can never show a former model: the addresses of its
pictures are their contents.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from ..config.differences import differing, flat, from_default, told_value
from ..config.reading import DEFAULT_CONFIG
from ..errors import UserError
from ..files import write_whole
from ..runs.folder import Run, open_run
from ..shelf.summary import summarize, told_age, told_seconds, told_size
from ..shelf.tables import read_json, told_scores
from .three import three_js

PAGE, COMPARED = "view.html", "compare.html"
MOST = 8
"""Runs on a page: browsers give out so many drawing contexts without taking old ones back."""
_HERE = Path(__file__).parent
_KINDS = {".png": "image/png", ".webp": "image/webp", ".mp4": "video/mp4"}
_PICTURES = (
    ("fine/handoff.png", "Hand-off: the coarse scene above, the first mesh below"),
    ("coarse/strip.png", "The coarse stage: colour, normals, opacity, what the prior wants"),
    ("fine/strip.png", "The fine stage: colour, normals, opacity, what the prior wants"),
    ("curves.png", "Curves"),
    ("export/turntable.png", "The exported files, read back"),
)


def write_page(folders: Sequence[str]) -> Path:
    """Write the page of one run into its folder, or that of several into the first one's parent.

    Raises UserError for what is no run, and for more runs than a page can hold.
    """
    if not 1 <= len(folders) <= MOST:
        raise UserError(f"view takes 1 to {MOST} runs on a page, got {len(folders)}")
    runs = [open_run(folder) for folder in folders]
    single = len(runs) == 1
    path = runs[0].folder / PAGE if single else runs[0].folder.resolve().parent / COMPARED
    try:
        write_whole(path, page(runs))
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror})") from None
    return path


def page(runs: Sequence[Run]) -> str:
    """The page's text."""
    models = [model_of(run) for run in runs]
    title = runs[0].config.fine_prompt if len(runs) == 1 else f"{len(runs)} runs compared"
    return Template((_HERE / "page.html").read_text("utf-8")).substitute(
        title=escape(title),
        models="".join(_model(run, index, models[index]) for index, run in enumerate(runs)),
        sections="".join(_sections(runs)),
        data=_json({"models": models}),
        library=three_js(),
        program=(_HERE / "page.js").read_text("utf-8"),
    )


def model_of(run: Run) -> str | None:
    """A run's GLB as base64; None if it isn't exported."""
    report = read_json(run.export / "report.json")
    name = report.get("glb") if isinstance(report, dict) else None
    path = run.export / str(name)
    return base64.b64encode(path.read_bytes()).decode() if name and path.is_file() else None


def _json(data: Any) -> str:
    """JSON that may stand in a page: no text in it can end the script that holds it."""
    return json.dumps(data).replace("<", "\\u003c")


def _model(run: Run, index: int, model: str | None) -> str:
    found = summarize(run.folder)
    shown = (
        f'<canvas data-run="{index}" aria-label="the model, drag to turn it"></canvas>'
        if model is not None
        else f'<div class="none">no exported model yet: {escape(found.stage)}</div>'
    )
    facts = [found.stage, told_scores(found.scores), told_seconds(found.seconds)]
    facts += [told_size(found.size), f"made {told_age(found.created)} before this page"]
    told = " · ".join(escape(fact) for fact in facts if fact)
    name = f"{escape(run.folder.name)}: {escape(run.config.fine_prompt)}, seed {run.config.seed}"
    return f'<div class="model"><h3>{name}</h3>{shown}<p class="facts">{told}</p></div>'


def _sections(runs: Sequence[Run]) -> Iterator[str]:
    if len(runs) > 1:
        yield "<h2>Settings that differ</h2>"
        yield _table(["setting", *_names(runs)], differing([run.config for run in runs]), "differs")
    films = [(run, path) for run in runs for path in [_film(run)] if path is not None]
    if films:
        yield '<h2>Growth</h2><div class="media">'
        yield from (_figure(path, _label(run, runs, "how it grew")) for run, path in films)
        yield "</div>"
    for name, caption in _PICTURES:
        found = [run for run in runs if (run.folder / name).is_file()]
        if found:
            yield f'<h2>{escape(caption)}</h2><div class="media">'
            yield from (_figure(run.folder / name, _label(run, runs, "")) for run in found)
            yield "</div>"
    if len(runs) == 1:
        yield from _details(runs[0])
    else:
        yield "<h2>Times in seconds and scores</h2>"
        yield _table(["", *_names(runs)], _numbers(runs))


def _details(run: Run) -> Iterator[str]:
    changed = {key: [values[1]] for key, values in from_default(run.config).items()}
    yield f"<h2>Settings that differ from {DEFAULT_CONFIG}</h2>"
    yield _table(["setting", "value"], changed) if changed else "<p>none</p>"
    seconds = {name: [value] for name, value in summarize(run.folder).seconds.items()}
    yield "<h2>Times</h2>"
    yield _table(["stage", "seconds"], seconds)
    report = read_json(run.export / "report.json")
    if isinstance(report, dict):
        yield "<h2>Report of the export</h2>"
        yield _table(["", ""], {key: [value] for key, value in report.items()})
    every = {key: [value] for key, value in flat(run.config.model_dump(mode="json")).items()}
    yield "<details><summary>All settings</summary>"
    yield f"{_table(['setting', 'value'], every)}</details>"


def _numbers(runs: Sequence[Run]) -> dict[str, list[Any]]:
    found = [summarize(run.folder) for run in runs]
    rows = {}
    for part in ("seconds", "scores"):
        for name in dict.fromkeys(name for each in found for name in getattr(each, part)):
            rows[name] = [getattr(each, part).get(name) for each in found]
    return rows


def _names(runs: Sequence[Run]) -> list[str]:
    return [run.folder.name for run in runs]


def _label(run: Run, runs: Sequence[Run], words: str) -> str:
    return words if len(runs) == 1 else f"{run.folder.name} {words}".strip()


def _table(head: Sequence[str], rows: dict[str, list[Any]], mark: str = "") -> str:
    told = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = [f"<tr>{told}</tr>"]
    for key, values in rows.items():
        cells = "".join(f"<td>{escape(told_value(value))}</td>" for value in values)
        kind = f' class="{mark}"' if mark else ""
        lines.append(f"<tr{kind}><td>{escape(key)}</td>{cells}</tr>")
    return f"<table>{''.join(lines)}</table>"


def _film(run: Run) -> Path | None:
    for name in ("growth.mp4", "growth.webp"):
        if (run.folder / name).is_file():
            return run.folder / name
    return None


def _figure(path: Path, caption: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    source = f"data:{_KINDS[path.suffix]};base64,{data}"
    if path.suffix == ".mp4":
        shown = f'<video src="{source}" controls loop autoplay muted playsinline></video>'
    else:
        shown = f'<img src="{source}" alt="{escape(caption)}">'
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{shown}{below}</figure>"
