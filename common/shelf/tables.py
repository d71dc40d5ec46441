"""What the commands of the shelf print: plain tables, and the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config.differences import differing, from_default, told_value
from ..config.presets import PRESETS
from ..config.reading import DEFAULT_CONFIG, SHIPPED, shipped_configs
from ..errors import UserError, nearest
from ..runs.folder import CLEANED, Run, open_run
from .settings import Setting, all_settings
from .summary import (
    Summary,
    runs_in,
    summarize,
    told_age,
    told_seconds,
    told_size,
)


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines, each column as wide as its widest cell; the first row is the head."""
    if not rows:
        return []
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def list_lines(root: str) -> list[str]:
    """A line a run: prompt, stage, age, size, scores, poster."""
    found = [summarize(folder) for folder in runs_in(root)]
    if not found:
        return [f'no runs in {root}; make one: maquette run "a red mushroom"']
    rows = [["run", "prompt", "seed", "stage", "age", "size", "scores", "poster"]]
    return columns([*rows, *(_row(each) for each in newest_first(found))])


def newest_first(found: Sequence[Summary]) -> list[Summary]:
    """Summaries by age."""
    return sorted(found, key=lambda each: -each.created)


def _row(found: Summary) -> list[str]:
    return [
        str(found.run),
        found.prompt,
        "" if found.seed is None else str(found.seed),
        found.stage,
        told_age(found.created),
        told_size(found.size),
        told_scores(found.scores),
        "" if found.poster is None else str(found.poster),
    ]


def told_scores(scores: dict[str, float]) -> str:
    """`psnr 41.3, f_score 0.93`: the scores that say most."""
    names = [name for name in ("psnr", "f_score", "iou", "fronts_behind") if name in scores]
    return ", ".join(f"{name} {scores[name]:.3g}" for name in names)


def list_json(root: str) -> str:
    """The same as a JSON list."""
    found = newest_first([summarize(folder) for folder in runs_in(root)])
    return json.dumps([each.as_json() for each in found], indent=2)


def show_data(folder: str) -> dict[str, Any]:
    """All that is known of a run: summary, settings that differ from the default, report."""
    run = open_run(folder)
    summary = summarize(run.folder)
    changed = {key: values[1] for key, values in from_default(run.config).items()}
    return {
        **summary.as_json(),
        "settings": changed,
        "report": read_json(run.export / "report.json"),
        "hand_off": read_json(run.fine / "handoff.json"),
        "cleaned": (run.folder / CLEANED).is_file(),
    }


def show_lines(folder: str) -> list[str]:
    """The same for people."""
    run, data = open_run(folder), show_data(folder)
    summary = summarize(run.folder)
    told = [
        f"{run.folder}: {run.config.prompt}",
        f"stage: {summary.stage}{' (cleaned)' if data['cleaned'] else ''}",
        f"made: {told_age(summary.created)} ago, {told_size(summary.size)}",
        f"times: {told_seconds(summary.seconds) or 'none yet'}",
        f"scores: {told_scores(summary.scores) or 'none yet'}",
    ]
    if summary.poster is not None:
        told.append(f"poster: {summary.poster}")
    told.append(f"settings that differ from {DEFAULT_CONFIG}:")
    told += [f"  {key}={told_value(value)}" for key, value in data["settings"].items()] or [
        "  none"
    ]
    if data["report"]:
        told.append("report:")
        told += [f"  {key}: {told_value(v)}" for key, v in data["report"].items() if key != "psnr"]
    return told


def compare_data(folders: Sequence[str]) -> dict[str, Any]:
    """Settings in which runs differ, and their summaries. Raises UserError for fewer than two."""
    if len(folders) < 2:
        raise UserError("compare takes two runs or more; give their folders")
    runs: list[Run] = [open_run(folder) for folder in folders]
    return {
        "runs": [summarize(run.folder).as_json() for run in runs],
        "settings": differing([run.config for run in runs]),
    }


def compare_lines(folders: Sequence[str]) -> list[str]:
    """A table: a column a run, rows for stage, times, scores and what differs."""
    data = compare_data(folders)
    runs = data["runs"]
    rows = [["", *(each["run"] for each in runs)]]
    rows.append(["stage", *(each["stage"] for each in runs)])
    for part in ("seconds", "scores"):
        for name in dict.fromkeys(name for each in runs for name in each[part]):
            values = [each[part].get(name) for each in runs]
            rows.append([f"{name}, s" if part == "seconds" else name, *map(told_value, values)])
    rows += [[key, *map(told_value, values)] for key, values in data["settings"].items()]
    if not data["settings"]:
        rows.append(["settings", *("the same" for _ in runs)])
    return columns(rows)


def settings_lines(words: str | None) -> list[str]:
    """The settings whose key or line has all the words. Raises UserError if there is none."""
    found = [row for row in all_settings() if not words or row.matches(words)]
    if not found:
        known = {part for row in all_settings() for part in row.key.split(".")}
        hints = nearest(words or "", known)
        hint = f"; did you mean {' or '.join(hints)}?" if hints else ""
        raise UserError(f"no setting has '{words}' in its name or its line{hint}")
    return [line for row in found for line in _setting_lines(row)]


def _setting_lines(row: Setting) -> list[str]:
    own = f", {row.own} in {DEFAULT_CONFIG}" if row.own else ""
    bounds = f", {row.range}" if row.range else ""
    return [
        f"{row.key}  ({row.type}{bounds}; {row.default}{own})",
        f"    {row.line} [{row.source}]",
    ]


def configs_lines() -> list[str]:
    """The shipped configurations, then the presets, a line each."""
    rows = [["configuration", "what it is"]]
    rows += [[name, first_comment(SHIPPED / f"{name}.yaml")] for name in shipped_configs()]
    presets = [["preset", "what it is"], *([name, each.line] for name, each in PRESETS.items())]
    return [*columns(rows), "", *columns(presets), *measured_lines()]


MEASURED = SHIPPED / "presets.json"
"""What `benchmarks/presets.py` has measured, by prior and preset."""


def measured_lines() -> list[str]:
    """A table of what the presets cost and bring, as far as it has been measured."""
    found = read_json(MEASURED) or {}
    rows = [
        [name, prior, *(f"{each[key]:g}" for key in ("cpu", "f_score", "iou", "psnr"))]
        for prior, presets in found.items()
        for name, each in presets.items()
    ]
    head = ["measured", "prior", "processor seconds", "F-score at 0.03", "IoU", "PSNR, dB"]
    return ["", *columns([head, *rows])] if rows else []


def first_comment(path: Path) -> str:
    """The first sentence of the comment at the top of a file."""
    words: list[str] = []
    for line in path.read_text("utf-8").splitlines():
        if not line.startswith("#"):
            break
        words.append(line.lstrip("# ").strip())
    text = " ".join(words)
    end = text.find(". ")
    return text if end < 0 else text[: end + 1]


def read_json(path: Path) -> Any:
    """A JSON file's data; None where it is missing or damaged."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
