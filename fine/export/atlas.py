"""The child process in which xatlas packs charts: `python -m maquette.fine.export.atlas FOLDER`.

It reads `flat.npy`, `faces.npy` and `charts.npy` in FOLDER and writes `uv.npy` there. It stands
alone (numpy and xatlas only) so that it starts at once, and it is a process of its own because
xatlas can neither be given a time limit nor be interrupted.
It ends with the process that started it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

NO_CHART = 2**32 - 1


def packed(
    flat: NDArray[np.float64],
    faces: NDArray[np.int64],
    chart_of: NDArray[np.int64],
    resolution: int,
    padding: int,
) -> NDArray[np.float64]:
    """Texture coordinates `[W, 2]` in [0, 1] of flat charts, packed by xatlas.

    flat: `[W, 2]`, charts at one scale, apart from each other. faces: `[F, 3]`. chart_of: of each
    vertex, `[W]`. padding: texels between charts. Charts are moved and scaled alike.
    """
    import xatlas

    packing, charting = xatlas.PackOptions(), xatlas.ChartOptions()
    packing.resolution, packing.padding = resolution, padding
    packing.bilinear, packing.bruteForce = True, False
    # Its turns by quarters swap the axes, which mirrors; normal maps want charts as they are.
    packing.rotate_charts = packing.rotate_charts_to_axis = False
    whole = xatlas.Atlas()
    whole.add_uv_mesh(flat.astype(np.float32), faces.astype(np.uint32))
    whole.generate(charting, packing, False)
    origin, _, uv = whole.get_mesh(0)
    known = whole.get_mesh_vertex_assignment(0)[1] != NO_CHART
    out = np.full((len(flat), 2), np.nan)
    out[origin[known]] = uv[known]
    return placed_like_their_charts(flat, chart_of, out)


def placed_like_their_charts(
    flat: NDArray[np.float64], chart_of: NDArray[np.int64], uv: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Places for vertices that have none (NaN), where their chart's others show them to be.

    xatlas leaves out faces without an area. A chart of such faces alone goes to the corner.
    """
    lost = np.isnan(uv[:, 0])
    uv = uv.copy()
    for chart in np.unique(chart_of[lost]):
        here = np.nonzero(chart_of == chart)[0]
        known, rest = here[~lost[here]], here[lost[here]]
        if known.size < 3:
            uv[rest] = uv[known[0]] if known.size else 0.0
            continue
        frame = np.column_stack([flat[known], np.ones(known.size)])
        motion = np.linalg.lstsq(frame, uv[known], rcond=None)[0]
        uv[rest] = np.column_stack([flat[rest], np.ones(rest.size)]) @ motion
    return uv.clip(0.0, 1.0)


def main(folder: Path, resolution: int, padding: int) -> None:
    """Read the charts in `folder`, pack them, write the coordinates beside them."""
    flat, faces, chart_of = (np.load(folder / f"{n}.npy") for n in ("flat", "faces", "charts"))
    np.save(folder / "uv.npy", packed(flat, faces, chart_of, resolution, padding))


def die_with(parent: int) -> None:
    """End this process when its parent does, however that ends; on Linux alone.

    Elsewhere the parent's time limit ends it, unless the parent was killed.
    """
    if sys.platform != "linux":
        return
    set_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before that was asked for
        sys.exit(1)


if __name__ == "__main__":
    die_with(int(sys.argv[4]))
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
