"""What a run's folder says of itself, read from its files alone: for lists, pages and reports."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..runs.history import read_events
from ..runs.progress import clock

SCORES = "scores.json"


@dataclass(frozen=True)
class Summary:
    """One run, as its folder tells it.

    stage: `coarse 50/500`, `fine done`, `exported` and so on. created: seconds since 1970. size:
    bytes of its folder. scores: psnr (dB, of the files read back against the model) and what
    `maquette evaluate` found. poster: its best picture so far, relative to nothing, or None.
    seconds: by stage.
    """

    run: Path
    prompt: str
    seed: int | None
    stage: str
    created: float
    size: int
    scores: dict[str, float] = field(default_factory=dict)
    poster: Path | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether its files are there."""
        return self.stage == "exported"

    def as_json(self) -> dict[str, Any]:
        """Plain data; paths as texts."""
        poster = None if self.poster is None else str(self.poster)
        return {**asdict(self), "run": str(self.run), "poster": poster}


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run."""
    return (folder / "config.yaml").is_file() and (folder / "events.jsonl").is_file()


def runs_in(root: str) -> list[Path]:
    """The folders of the runs in a folder, by name. Raises UserError if there is no such folder."""
    place = Path(root)
    if not place.is_dir():
        raise UserError(f"no folder '{root}'; give the folder that holds the runs, such as runs")
    return sorted(folder for folder in place.iterdir() if is_run(folder))


def summarize(folder: Path) -> Summary:
    """The summary of a run's folder; what isn't there yet is left out."""
    events = read_events(folder)
    created: dict[str, Any] = next((e for e in events if e["event"] == "created"), {})
    return Summary(
        run=folder,
        prompt=str(created.get("prompt", "")),
        seed=created.get("seed"),
        stage=stage_told(folder, events),
        created=float(created.get("time", 0.0)),
        size=size_of(folder),
        scores=scores_of(folder, events),
        poster=poster_of(folder),
        seconds=seconds_of(events),
    )


def stage_told(folder: Path, events: Sequence[dict[str, Any]]) -> str:
    """How far a run is, in two words."""
    if (folder / "export" / "report.json").is_file():
        return "exported"
    told, total = "new", 0
    for event in events:
        match event["event"]:
            case "stage started":
                total = event.get("total", 0)
                told = f"{event.get('stage')} {event.get('step', 0)}/{total}"
            case "checkpoint":
                told = f"{event.get('stage')} {event.get('step', 0)}/{total or '?'}"
            case "stage finished":
                told = f"{event.get('stage')} done"
            case "hand-off":
                told = "handed off"
    return told


def seconds_of(events: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Seconds of each stage; of one that was cut off and resumed, all its parts that ended."""
    found: dict[str, float] = {}
    for event in events:
        match event["event"]:
            case "stage finished":
                name = str(event.get("stage"))
                found[name] = round(found.get(name, 0.0) + event["seconds"], 2)
            case "hand-off":
                found["hand-off"] = event["seconds"]
            case "exported":
                found["export"] = round(sum(event["seconds"].values()), 2)
    return found


def scores_of(folder: Path, events: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Numbers that say how good a run is."""
    found: dict[str, float] = {}
    behind = [e for e in events if e["event"] == "seen from behind"]
    if behind and behind[-1].get("unsure") != behind[-1].get("looked"):
        found["fronts_behind"] = float(behind[-1].get("fronts", 0))
    exported = [e for e in events if e["event"] == "exported"]
    if exported:
        found["psnr"] = float(exported[-1]["psnr"])
    try:
        own = json.loads((folder / SCORES).read_text("utf-8"))
    except (OSError, ValueError):
        return found
    numbers = {k: v for k, v in own.items() if isinstance(v, int | float) and k != "psnr"}
    return {**found, **{name: float(value) for name, value in numbers.items()}}


def poster_of(folder: Path) -> Path | None:
    """The best picture of a run so far."""
    for name in ("fine/poster.png", "coarse/poster.png", "fine/preview.png", "coarse/preview.png"):
        if (folder / name).is_file():
            return folder / name
    return max((folder / "coarse" / "growth").glob("*.png"), default=None)


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue  # removed meanwhile
    return total


def told_size(count: float) -> str:
    """Bytes for people: `12 MiB`."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def told_age(created: float, now: float | None = None) -> str:
    """How long ago, for people: `5 min`, `3 h`, `12 d`; nothing for a time that isn't known."""
    if not created:
        return ""
    seconds = max(0.0, (time.time() if now is None else now) - created)
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} d"


def told_seconds(seconds: dict[str, float]) -> str:
    """`coarse 0:44, fine 1:12`."""
    return ", ".join(f"{name} {clock(value)}" for name, value in seconds.items())
