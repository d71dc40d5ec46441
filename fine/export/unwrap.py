"""UV unwrapping that always ends: flat charts, packed by xatlas in a child process or by us.

xatlas makes charts as well, but many: of the same 20,000 faces 358, where charts by direction are
20. Every seam is a place where smaller mip levels mix what lies far apart on the surface.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...common.scene.mesh import Mesh, vertex_normals
from .charts import Charts, doubly_covered, flat_charts, separate
from .clean import face_components

LEAST_PADDING = 4  # texels between charts: room for bilinear lookups and the first mipmap
PADDING_SHARE = 100  # one part of the texture's width in so many, so that four levels stay clean
GAPS = 0.3
ATTEMPTS = 3  # at packing without a fold
LARGEST = 16384
Method = Literal["xatlas", "fallback", "own"]
TEMPORARY = "maquette-unwrap-"  # then the process, so that what it left can be told
CHILD = ("-m", "maquette.fine.export.atlas")
ROOT = Path(__file__).resolve().parents[2]  # the folder that holds the package `fine`


@dataclass(frozen=True)
class Unwrapped:
    """A mesh whose vertices are doubled along seams, with a texture position each.

    vertices: float32 `[W, 3]`, world. faces: int64 `[F, 3]`, in the order of the source mesh.
    uv: float32 `[W, 2]` in [0, 1], V runs bottom-up. source_vertex: int64 `[W]`, the vertex of the
    source mesh each one is a copy of. method: who made it ("own": the mesh came with them).
    reason: why it was not xatlas, or "". fan: int64 `[W]`, vertices that share a normal have the
    same; None is the source vertex, so that the whole surface is smooth (see `creases`).
    """

    vertices: Tensor
    faces: Tensor
    uv: Tensor
    source_vertex: Tensor
    method: Method
    reason: str = ""
    fan: Tensor | None = None

    def welded(self) -> Mesh:
        """The mesh without seams: copies of a vertex are one again; vertices of no face vanish."""
        used, vertex = torch.unique(self.source_vertex, return_inverse=True)
        positions = self.vertices.new_zeros(used.shape[0], 3)
        positions[vertex] = self.vertices
        return Mesh(positions, vertex[self.faces])

    def welded_vertex(self) -> Tensor:
        """The vertex of `welded()` that each vertex is a copy of, int64 `[W]`."""
        return torch.unique(self.source_vertex, return_inverse=True)[1]

    def fans(self) -> Tensor:
        """The fan of each vertex, int64 `[W]`, counted from 0; without hard edges the vertex of
        `welded()`."""
        if self.fan is None:
            return self.welded_vertex()
        return torch.unique(self.fan, return_inverse=True)[1]

    def fan_normals(self) -> Tensor:
        """The unit normal of each fan, `[N, 3]`."""
        fans = self.fans()
        places = self.vertices.new_zeros(int(fans.max()) + 1, 3)
        places[fans] = self.vertices
        normals = vertex_normals(places, fans[self.faces])
        # Where faces cancel each other out there is no normal; files want a unit vector even so.
        lost = normals.square().sum(dim=1, keepdim=True) < 0.25
        return torch.where(lost, normals.new_tensor([0.0, 0.0, 1.0]), normals)

    def normals(self) -> Tensor:
        """Unit normals `[W, 3]`, equal on both sides of a seam, and not on those of a hard edge."""
        return self.fan_normals()[self.fans()]

    def charts(self) -> Tensor:
        """The chart of each face, int64 `[F]`, counted from 0: faces that share a vertex of the
        texture, whether or not an edge between them is hard."""
        place = self.uv.contiguous().view(torch.int32).long()
        key = torch.cat([self.source_vertex[:, None], place], dim=1)
        point = torch.unique(key, dim=0, return_inverse=True)[1]
        parts = face_components(point[self.faces].numpy(), len(point))
        return torch.from_numpy(parts)


def unwrap(mesh: Mesh, time_limit_s: float = 45.0, texture_size: int = 2048) -> Unwrapped:
    """Give a mesh texture coordinates, with charts that do not overlap, and none mirrored.

    xatlas may take `time_limit_s` seconds to pack the charts; after that, or if it fails, they are
    set on shelves. texture_size: texels a side, which the distance between charts depends on.
    """
    if mesh.faces.shape[0] == 0:
        raise ValueError("mesh: expected at least one face, got none")
    if texture_size < 16:
        raise ValueError(f"texture_size: expected at least 16 texels, got {texture_size}")
    vertices = np.ascontiguousarray(mesh.vertices.detach().cpu().float().numpy())
    faces = np.ascontiguousarray(mesh.faces.cpu().numpy())
    exact = vertices.astype(np.float64)
    alone = np.zeros(0, dtype=np.int64)
    for attempt in range(ATTEMPTS):
        room, charts = _charts(exact, faces, texture_size, alone)
        found = _run_xatlas(charts, time_limit_s, room)
        if isinstance(found, str):
            break
        # Between texels of the shelves a chart may cover itself; another place can show it.
        folded = np.nonzero(doubly_covered(found * room, charts.faces, room))[0]
        if folded.size == 0:
            return _unwrapped(vertices, found, charts.faces, charts.source, "xatlas", "")
        if attempt == ATTEMPTS - 1:
            apart = separate(exact, found, charts.faces, charts.source, room)
            if apart is not None:
                return _unwrapped(vertices, *apart, "xatlas", "")
            found = "xatlas' charts cover each other"
        alone = np.union1d(alone, folded)
    uv = charts.texels / room
    return _unwrapped(vertices, uv, charts.faces, charts.source, "fallback", str(found))


def _charts(
    vertices: NDArray[np.float64],
    faces: NDArray[np.int64],
    size: int,
    alone: NDArray[np.int64],
) -> tuple[int, Charts]:
    """The charts, and the texels a side that they were set apart in: those of the texture, or more
    where it has too few for all charts. ValueError where even LARGEST are too few."""
    while True:
        try:
            return size, flat_charts(vertices, faces, size, alone)
        except ValueError:
            if size >= LARGEST:
                raise
            size *= 2


def padding_for(size: int, charts: Charts | None = None) -> int:
    """Texels between charts in a texture of `size` texels; fewer where there are many charts, so
    that the gaps don't take more than GAPS of the texture."""
    padding = max(size // PADDING_SHARE, LEAST_PADDING)
    if charts is not None:
        starts = np.nonzero(np.diff(charts.chart_of, prepend=-1))[0]
        low = np.minimum.reduceat(charts.texels, starts)
        high = np.maximum.reduceat(charts.texels, starts)
        around = float((high - low).sum())
        padding = min(padding, max(int(GAPS * size * size / max(around, 1.0)), LEAST_PADDING))
    return padding


def _run_xatlas(charts: Charts, time_limit_s: float, size: int) -> NDArray[np.float64] | str:
    """The coordinates `[W, 2]` of the child process, or why there are none."""
    if not time_limit_s > 0.0:
        return "xatlas was given no time"
    if not sys.executable:
        return "there is no Python interpreter to start xatlas in"
    clear_abandoned()
    with tempfile.TemporaryDirectory(prefix=f"{TEMPORARY}{os.getpid()}-") as name:
        folder = Path(name)
        # As they are set on shelves: xatlas takes charts that lie on each other for one.
        np.save(folder / "flat.npy", charts.texels)
        np.save(folder / "faces.npy", charts.faces)
        np.save(folder / "charts.npy", charts.chart_of)
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        padding = padding_for(size, charts)
        command = [sys.executable, *CHILD, name, str(size), str(padding), str(os.getpid())]
        try:
            ended = subprocess.run(
                command, env=environment, capture_output=True, timeout=time_limit_s, check=False
            )
        except subprocess.TimeoutExpired:
            return f"xatlas took longer than {time_limit_s:g} s"
        if ended.returncode != 0:
            lines = ended.stderr.decode(errors="replace").strip().splitlines()
            return f"xatlas ended with code {ended.returncode}: {lines[-1] if lines else 'no word'}"
        uv = np.load(folder / "uv.npy")
    if not _is_sound(uv, charts):
        return "xatlas made an atlas that does not fit the mesh"
    return uv.astype(np.float64)


def clear_abandoned() -> None:
    """Remove the folders of unwrappings whose process was killed within them."""
    for folder in Path(tempfile.gettempdir()).glob(f"{TEMPORARY}*"):
        owner = folder.name.removeprefix(TEMPORARY).partition("-")[0]
        if owner.isdecimal() and int(owner) != os.getpid() and not _is_running(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


def _is_running(process: int) -> bool:
    """Whether there is a process of that number; on Windows, where asking ends it, always."""
    if os.name == "nt":
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # another user's
    return True


def _is_sound(uv: NDArray, charts: Charts) -> bool:
    """Whether coordinates give every vertex of the charts a place in [0, 1]."""
    if uv.shape != charts.flat.shape or not np.isfinite(uv).all():
        return False
    return bool(uv.min() >= 0.0 and uv.max() <= 1.0)


def _unwrapped(
    vertices: NDArray[np.float32],
    uv: NDArray,
    faces: NDArray,
    source: NDArray,
    method: Method,
    reason: str,
) -> Unwrapped:
    return Unwrapped(
        torch.from_numpy(vertices[source]),
        torch.from_numpy(np.ascontiguousarray(faces, dtype=np.int64)),
        torch.from_numpy(np.ascontiguousarray(uv, dtype=np.float32)),
        torch.from_numpy(np.ascontiguousarray(source, dtype=np.int64)),
        method,
        reason,
    )
