"""What is told of a batch: a live table or lines, and a report with a contact sheet at the end."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from ..files import write_whole
from ..runs.progress import clock, console, emit, say
from ..runs.watching import watching
from ..shelf.summary import Summary, stage_told, summarize
from ..shelf.tables import told_scores
from .pool import Progress, Tell

TILE = 256
_LABEL = 34


@contextmanager
def telling() -> Iterator[Tell]:
    """How a batch's progress is told: a table on a terminal, else a line for each change."""
    if watching().output == "people" and console.is_terminal:
        from rich.live import Live

        with Live(console=console, refresh_per_second=2) as live:
            yield lambda found: live.update(table(found))
        return
    yield _Changes()


class _Changes:
    """A line, or a JSON object, whenever a job's state changes."""

    def __init__(self) -> None:
        self._told: dict[Path, tuple[str, int]] = {}

    def __call__(self, found: Sequence[Progress]) -> None:
        count = Counter(each.state for each in found)
        for each in found:
            now = (each.state, each.tries)
            if self._told.get(each.job.folder, ("waiting", 0)) == now:
                continue
            self._told[each.job.folder] = now
            if watching().output == "json":
                emit("job", **row(each), finished=count["finished"], total=len(found))
            else:
                say(f"{count['finished']}/{len(found)}  {each.job.name}: {words(each)}")


def words(each: Progress) -> str:
    """A job's state in a few words."""
    match each.state:
        case "finished" if each.skipped:
            return "finished before"
        case "finished":
            return f"finished in {clock(each.seconds)}"
        case "failed":
            return f"failed: {each.error}"
        case "waiting" if each.tries:
            return f"to be tried again: {each.error}"
        case "running" if each.tries > 1:
            return f"begun again, try {each.tries}"
        case state:
            return state


def table(found: Sequence[Progress]) -> Any:
    """A `rich` table of all jobs."""
    from rich.table import Table

    from ..runs.history import read_events

    count = Counter(each.state for each in found)
    made = Table(title=f"{count['finished']} of {len(found)} finished, {count['failed']} failed")
    for head in ("job", "state", "stage", "tries"):
        made.add_column(head)
    for each in found:
        folder = each.job.folder
        stage = stage_told(folder, read_events(folder)) if each.state == "running" else ""
        made.add_row(each.job.name, words(each), stage, str(each.tries))
    return made


def row(each: Progress) -> dict[str, Any]:
    """A job as plain data."""
    return {
        "job": each.job.name,
        "prompt": each.job.prompt,
        "folder": str(each.job.folder),
        "state": each.state,
        "tries": each.tries,
        "seconds": each.seconds,
        "skipped": each.skipped,
        "error": each.error,
    }


def write_report(root: Path, found: Sequence[Progress], began: float, workers: int) -> list[Path]:
    """Write batch.json, batch.md and contact.png into a batch's folder; their paths.

    began: `time.monotonic()` when the batch was begun.
    """
    root.mkdir(parents=True, exist_ok=True)
    seconds = round(time.monotonic() - began, 1)
    summaries = [summarize(each.job.folder) for each in found]
    rows = [
        {**row(each), "stage": s.stage, "scores": s.scores}
        for each, s in zip(found, summaries, strict=True)
    ]
    data = {"seconds": seconds, "workers": workers, "jobs": rows}
    paths = [root / "batch.json", root / "batch.md", root / "contact.png"]
    write_whole(paths[0], json.dumps(data, indent=2) + "\n")
    write_whole(paths[1], markdown(found, summaries, seconds, workers))
    labels = [
        f"{each.job.name}\n{told_scores(s.scores) or each.state}"
        for each, s in zip(found, summaries, strict=True)
    ]
    write_whole(paths[2], contact_png([s.poster for s in summaries], labels))
    return paths


def markdown(
    found: Sequence[Progress], summaries: Sequence[Summary], seconds: float, workers: int
) -> str:
    """The report for people."""
    count = Counter(each.state for each in found)
    lines = [
        f"# {len(found)} jobs: {count['finished']} finished, {count['failed']} failed",
        "",
        f"{clock(seconds)} with {workers} workers.",
        "",
        "![contact sheet](contact.png)",
        "",
        "| job | prompt | state | tries | seconds | scores |",
        "|---|---|---|---:|---:|---|",
    ]
    for each, summary in zip(found, summaries, strict=True):
        cells = [each.job.name, each.job.prompt, words(each), str(each.tries)]
        cells += [f"{each.seconds:.0f}", told_scores(summary.scores)]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def contact_png(posters: Sequence[Path | None], labels: Sequence[str], columns: int = 4) -> bytes:
    """Pictures in rows, each above its label of at most two lines, as a PNG's bytes."""
    import io

    count = max(1, len(posters))
    columns = min(columns, count)
    rows = -(-count // columns)
    sheet = Image.new("RGB", (columns * TILE, rows * (TILE + _LABEL)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for index, (poster, label) in enumerate(zip(posters, labels, strict=True)):
        left, top = index % columns * TILE, index // columns * (TILE + _LABEL)
        if poster is not None:
            with Image.open(poster) as picture:
                square = picture.convert("RGB").resize((TILE, TILE), Image.Resampling.BICUBIC)
            sheet.paste(square, (left, top))
        for line, text in enumerate(label.splitlines()[:2]):
            draw.text((left + 4, top + TILE + 2 + 15 * line), text[:42], "black", font)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    return buffer.getvalue()
