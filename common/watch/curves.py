"""The curves of a run's numbers as one PNG, by matplotlib."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from ..files import write_whole
from ..runs.folder import Run
from ..runs.progress import say
from ..runs.stage import STAGES
from .growth import read_scalars

CURVES = "curves.png"
_NOT_DRAWN = ("step", "seconds")


def write_curves(run: Run) -> Path | None:
    """Draw `curves.png` of a run: a row a stage, a panel a number; None if nothing was recorded."""
    found = {stage.name: read_scalars(stage.folder(run)) for stage in STAGES}
    found = {name: rows for name, rows in found.items() if rows}
    if not found:
        return None
    try:
        data = curves_png(found)
    except ImportError:
        say("curves.png isn't drawn: pip install matplotlib", important=True)
        return None
    path = run.folder / CURVES
    write_whole(path, data)
    return path


def curves_png(stages: dict[str, list[dict[str, float]]]) -> bytes:
    """The curves of some stages' numbers, each as it is and smoothed, as a PNG's bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = {
        stage: [key for key in rows[-1] if key not in _NOT_DRAWN] for stage, rows in stages.items()
    }
    columns = max(1, *(len(each) for each in names.values()))
    figure = Figure(figsize=(5.0 * columns, 2.8 * len(stages)), dpi=80)
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(stages), columns, squeeze=False)
    for line, (stage, rows) in zip(axes, stages.items(), strict=True):
        for panel in line[len(names[stage]) :]:
            panel.set_axis_off()
        for panel, name in zip(line, names[stage], strict=False):
            steps = [row["step"] for row in rows if name in row]
            values = [row[name] for row in rows if name in row]
            panel.plot(steps, values, linewidth=0.6, alpha=0.35, color="tab:blue")
            panel.plot(steps, smoothed(values), linewidth=1.5, color="tab:blue")
            panel.set_title(f"{stage}: {name}", fontsize=10)
            panel.set_xlabel("step", fontsize=8)
            panel.tick_params(labelsize=8)
            panel.grid(alpha=0.3)
    rows, wide = len(stages), 5.0 * columns
    # Room for titles and numbers, in inches; matplotlib's own search for it takes half a second.
    figure.subplots_adjust(
        left=0.7 / wide, right=1.0 - 0.2 / wide, wspace=0.25,
        bottom=0.5 / (2.8 * rows), top=1.0 - 0.3 / (2.8 * rows), hspace=0.45,
    )  # fmt: skip
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def smoothed(values: Sequence[float], keep: float = 0.9) -> list[float]:
    """An average that forgets, started without a bias: `sum keep^k v_(n-k) / sum keep^k`."""
    total = weight = 0.0
    found = []
    for value in values:
        total, weight = keep * total + value, keep * weight + 1.0
        found.append(total / weight)
    return found
