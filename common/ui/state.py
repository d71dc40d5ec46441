"""How a job of the desk is, as JSON and in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..runs.progress import clock
from ..shelf.summary import poster_of
from .desk import Desk

_SUFFIXES = (".obj", ".mtl", ".png", ".glb", ".stl", ".ply", ".3mf", ".usdz", ".usdc", ".zip")


def state_of(desk: Desk, name: str) -> dict[str, Any]:
    """How a job is, as JSON: what the API's `/status` answers.

    id, prompt, state, ahead (jobs before it), error, progress (as in docs/watch.md), preview and
    model (paths or null), files.
    """
    desk.turn()
    ticket = desk.ticket(name)
    folder = desk.root / ticket.folder
    poster = poster_of(folder)
    files = files_of(folder)
    return {
        "id": ticket.id,
        "prompt": ticket.prompt,
        "state": ticket.state,
        "ahead": desk.ahead(name),
        "error": ticket.error,
        "progress": dict(desk.progress(ticket)),
        "preview": next((str(path) for path in (latest(folder), poster) if path), None),
        "model": next((file for file in files if file.endswith(".glb")), None),
        "files": files,
    }


def files_of(folder: Path) -> list[str]:
    """The exported files of a run, once all of them are there."""
    if not (folder / "export" / "report.json").is_file():
        return []
    return [str(path) for path in sorted((folder / "export").iterdir()) if path.suffix in _SUFFIXES]


def latest(folder: Path) -> Path | None:
    """The newest grid of previews."""
    found = [path for stage in ("coarse", "fine") for path in (folder / stage / "growth").glob("*")]
    grids = [path for path in found if path.suffix == ".png" and path.stem.isdigit()]
    return max(grids, key=lambda path: path.stat().st_mtime, default=None)


def told(state: dict[str, Any]) -> str:
    """A job's state for people."""
    head = f"**{state['prompt']}**: {state['state']}"
    if state["state"] == "queued":
        return f"{head}, {state['ahead']} before it"
    if state["error"]:
        return f"{head}: {state['error']}"
    progress = state["progress"]
    if state["state"] != "running" or not progress:
        return head
    if "doing" in progress:
        return f"{head}, {progress['stage']}: {progress['doing']}"
    left = progress.get("run_seconds_left") or progress.get("stage_seconds_left")
    more = "" if left is None else f", {clock(left)} left"
    return f"{head}, {progress['stage']} {progress['step']}/{progress['total']}{more}"
