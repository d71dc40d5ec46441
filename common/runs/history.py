"""What a run has recorded, read back; from runs before it, how long the rest may take."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .folder import Run
from .stage import STAGES, Stage

LOOKED_AT = 20
"""How many of the newest runs beside one are asked for their times."""


def read_events(folder: Path) -> list[dict[str, Any]]:
    """The events of a run's folder, oldest first; lines that were cut off are left out."""
    try:
        lines = (folder / "events.jsonl").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and "event" in event:
            found.append(event)
    return found


def work_of(run: Run, stage: Stage) -> str:
    """A short name that two runs share if a step of the stage takes the same work in both."""
    config = stage.config(run.config)
    told = config.model_dump_json(exclude={"steps", "checkpoint_every", "prompt", "text"})
    return hashlib.blake2b(f"{run.config.device}|{told}".encode(), digest_size=8).hexdigest()


def seconds_after(run: Run, stage: str) -> float | None:
    """Seconds that follow a run's stage, by what the like work took in a run beside it.

    None where none of the newest runs beside it has done all of that.
    """
    names = [each.name for each in STAGES]
    if stage not in names:
        return 0.0
    later = STAGES[names.index(stage) + 1 :]
    for folder in _newest_beside(run.folder):
        seconds = _seconds_of(read_events(folder), run, later)
        if seconds is not None:
            return seconds
    return None


def _newest_beside(folder: Path) -> list[Path]:
    """The folders beside one that have events, the last used first."""
    stamps = []
    for file in folder.resolve().parent.glob("*/events.jsonl"):
        try:
            stamps.append((file.stat().st_mtime, file.parent))
        except OSError:
            continue  # removed meanwhile
    stamps.sort(reverse=True)
    return [found for _, found in stamps[:LOOKED_AT]]


def _seconds_of(
    events: Sequence[dict[str, Any]], run: Run, stages: Sequence[Stage]
) -> float | None:
    total = 0.0
    for stage in stages:
        ended = [
            e
            for e in events
            if e["event"] == "stage finished"
            and e.get("stage") == stage.name
            and e.get("work") == work_of(run, stage)
            and e.get("steps")
        ]
        if not ended:
            return None
        total += stage.config(run.config).steps * ended[-1]["seconds"] / ended[-1]["steps"]
        if stage.name == "fine":
            total += sum(e["seconds"] for e in events if e["event"] == "hand-off")
    exports = [e for e in events if e["event"] == "exported"]
    if not exports:
        return None
    seconds = exports[-1].get("seconds")
    return total + (sum(seconds.values()) if isinstance(seconds, dict) else float(seconds or 0.0))
