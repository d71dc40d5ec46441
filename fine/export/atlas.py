"""The child process that runs xatlas: `python -m maquette.fine.export.atlas FOLDER ...`.

It reads `vertices.npy` and `faces.npy` in FOLDER and writes `uv.npy`, `atlas_faces.npy` and
`source_vertex.npy` there. It stands alone (numpy and xatlas only) so that it starts at once, and it
is a process of its own because xatlas can neither be given a time limit nor be interrupted. It ends
with the process that started it.
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

PIECE_FACES = 8000
SCALE = 1000.0
NO_CHART = 2**32 - 1


def pieces(vertices: NDArray[np.float32], faces: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The faces in spatial pieces of at most PIECE_FACES, as lists of face indices.

    xatlas' time grows faster than linearly with the faces of one mesh (on rough surfaces nearly
    with their square), so a big mesh is given to it in pieces, halved at the median of their
    longest side. The price is a seam along each cut.
    """
    middles = vertices[faces].mean(axis=1)
    done: list[NDArray[np.int64]] = []
    waiting = [np.arange(faces.shape[0])]
    while waiting:
        piece = waiting.pop()
        if piece.size <= PIECE_FACES:
            done.append(piece)
            continue
        own = middles[piece]
        order = np.argsort(own[:, np.ptp(own, axis=0).argmax()], kind="stable")
        half = piece.size // 2
        waiting += [piece[order[half:]], piece[order[:half]]]
    return done


def atlas(
    vertices: NDArray[np.float32], faces: NDArray[np.int64], resolution: int, padding: int
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Unwrap with xatlas: uv `[W, 2]`, faces `[F, 3]` in the order given, source vertex `[W]`."""
    import xatlas

    charts, packing = xatlas.ChartOptions(), xatlas.PackOptions()
    charts.max_iterations = 1  # more rounds of chart growing cost time and save a few seams
    packing.resolution, packing.padding = resolution, padding
    packing.bilinear, packing.blockAlign = True, True  # in whole 4x4 blocks
    packing.bruteForce = False
    whole = xatlas.Atlas()
    parts = pieces(vertices, faces)
    names = []
    for part in parts:
        used, local = np.unique(faces[part], return_inverse=True)
        names.append(used)
        # Scaled, since xatlas ignores faces below a fixed area.
        whole.add_mesh(vertices[used] * SCALE, local.reshape(-1, 3).astype(np.uint32))
    whole.generate(charts, packing, False)
    out_faces = np.empty_like(faces)
    uv, source, charted, count = [], [], [], 0
    for index, part in enumerate(parts):
        origin, local, coordinates = whole.get_mesh(index)
        out_faces[part] = local.astype(np.int64).reshape(-1, 3) + count
        uv.append(coordinates)
        source.append(names[index][origin])
        charted.append(whole.get_mesh_vertex_assignment(index)[1] != NO_CHART)
        count += len(origin)
    return place_loose_faces(
        np.concatenate(uv).astype(np.float32),
        out_faces,
        np.concatenate(source),
        np.concatenate(charted),
    )


def place_loose_faces(
    uv: NDArray[np.float32],
    faces: NDArray[np.int64],
    source: NDArray[np.int64],
    charted: NDArray[np.bool_],
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Give faces without a chart the texture point of a neighbour; the atlas as in `atlas`.

    charted: which vertices `[W]` have a chart. xatlas leaves faces that hardly have an area at the
    corner of the texture; each becomes a single texture point where one of its vertices lies.
    """
    loose = np.nonzero(~charted[faces].all(axis=1))[0]
    anchor = np.full(int(source.max()) + 1, -1)
    known = np.nonzero(charted)[0]
    anchor[source[known]] = known
    corner = source[faces[loose]]  # [L, 3]
    point = anchor[corner].max(axis=1)  # -1 where no vertex of the face is on any chart
    uv = np.concatenate([uv, np.repeat(uv[point], 3, axis=0)])
    new_faces = faces.copy()
    new_faces[loose] = source.size + np.arange(3 * loose.size).reshape(-1, 3)
    source = np.concatenate([source, corner.reshape(-1)])
    used, compact = np.unique(new_faces, return_inverse=True)
    return uv[used], compact.reshape(-1, 3), source[used]


def main(folder: Path, resolution: int, padding: int) -> None:
    """Read the mesh in `folder`, unwrap it, write the atlas beside it."""
    vertices, faces = np.load(folder / "vertices.npy"), np.load(folder / "faces.npy")
    uv, atlas_faces, source = atlas(vertices, faces, resolution, padding)
    np.save(folder / "uv.npy", uv)
    np.save(folder / "atlas_faces.npy", atlas_faces)
    np.save(folder / "source_vertex.npy", source)


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
