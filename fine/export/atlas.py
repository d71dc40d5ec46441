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
TRIES = 6  # at packing few charts, each time turned otherwise
FEW = 100  # charts; more of them fill a texture as well as any turn would
ENOUGH = 0.6  # of the texture covered: no more is tried
PLACES = 512  # texels a side of the coarser texture on which few charts are tried everywhere
MORE = 2  # texels of that, by which its charts lie farther apart


def packed(
    flat: NDArray[np.float64],
    faces: NDArray[np.int64],
    chart_of: NDArray[np.int64],
    resolution: int,
    padding: int,
) -> NDArray[np.float64]:
    """Texture coordinates `[W, 2]` in [0, 1] of flat charts, packed by xatlas.

    flat: `[W, 2]`, charts at one scale, apart from each other. faces: `[F, 3]`. chart_of: of each
    vertex, `[W]`. padding: texels between charts. Charts are moved and scaled alike, and turned by
    quarters: how well few large ones fit is a matter of luck, so several ways are tried.
    """
    best, most, few = None, -1.0, int(chart_of.max()) < FEW
    if few and resolution > PLACES:
        padding = -(-padding * PLACES // resolution) + MORE
        resolution = PLACES
    for turn in range(TRIES if few else 1):
        place = turned(flat, chart_of, turn) if turn else flat
        uv = _packed(place, faces, chart_of, resolution, padding, everywhere=few)
        a, b, c = np.moveaxis(uv[faces], 1, 0)
        one, two = b - a, c - a
        use = 0.5 * float(np.abs(one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]).sum())
        if use > most:
            best, most = uv, use
        if most >= ENOUGH:
            break
    assert best is not None
    return best


def turned(
    flat: NDArray[np.float64], chart_of: NDArray[np.int64], seed: int
) -> NDArray[np.float64]:
    """Charts `[W, 2]` turned by quarters at random, apart from each other in a square grid."""
    count = int(chart_of.max()) + 1
    quarters = np.random.default_rng(seed).integers(0, 4, count)[chart_of]
    cosine, sine = np.array([1, 0, -1, 0])[quarters], np.array([0, 1, 0, -1])[quarters]
    x, y = flat.T
    flat = np.stack([cosine * x - sine * y, sine * x + cosine * y], axis=1)
    low, high = np.full((count, 2), np.inf), np.full((count, 2), -np.inf)
    np.minimum.at(low, chart_of, flat)
    np.maximum.at(high, chart_of, flat)
    cell = float((high - low).max()) * 1.05 + 4.0
    side = int(np.ceil(np.sqrt(count)))
    corner = cell * np.stack([np.arange(count) % side, np.arange(count) // side], axis=1)
    return flat - low[chart_of] + corner[chart_of]


def _packed(
    flat: NDArray[np.float64],
    faces: NDArray[np.int64],
    chart_of: NDArray[np.int64],
    resolution: int,
    padding: int,
    everywhere: bool,
) -> NDArray[np.float64]:
    import xatlas

    packing, charting = xatlas.PackOptions(), xatlas.ChartOptions()
    packing.resolution, packing.padding = resolution, padding
    packing.bilinear, packing.bruteForce = True, everywhere
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
