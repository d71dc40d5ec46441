"""A mesh as a file has it: geometry, texture coordinates, materials; and what may be wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ...common.config.export import Axis
from ...common.errors import UserError

SMALLEST, LARGEST = 1e-6, 1e6  # file units: beyond, a unit or an exponent went wrong
MOST_PARTS = 100_000
GREY = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Material:
    """color: sRGB in [0, 1]. texture: uint8 `[H, W, 3]`, row 0 on top; the colour is then white, or
    what it is multiplied with."""

    color: tuple[float, float, float] = GREY
    texture: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class UserMesh:
    """A triangle mesh in a file's own axes and unit.

    vertices: float64 `[V, 3]`. faces: int64 `[F, 3]`, wound however the file has them. uv: float32
    `[F, 3, 2]`, V bottom-up, of each corner, NaN where there is none, or None. materials,
    material_of: `[F]`, an index into them. colors: float32 `[V, 3]`, sRGB, or None. up: the axis
    the format points up with. metre: metres a unit if the file says so. lost: what of the file
    isn't kept, in words.
    """

    vertices: NDArray[np.float64]
    faces: NDArray[np.int64]
    up: Axis
    uv: NDArray[np.float32] | None = None
    materials: Sequence[Material] = (Material(),)
    material_of: NDArray[np.int64] | None = None
    colors: NDArray[np.float32] | None = None
    metre: float | None = None
    lost: list[str] = field(default_factory=list)

    @property
    def colored(self) -> bool:
        """Whether the file says anything about colours."""
        plain = len(self.materials) == 1 and self.materials[0] == Material()
        return self.colors is not None or not plain

    def colors_at(
        self, face: NDArray[np.int64], weights: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """sRGB colours `[N, 3]` at points of faces `[N]`, by barycentrics `[N, 3]`."""
        out = np.empty((len(face), 3), dtype=np.float32)
        of = np.zeros(len(face), np.int64) if self.material_of is None else self.material_of[face]
        for index, material in enumerate(self.materials):
            here = np.nonzero(of == index)[0]
            if here.size == 0:
                continue
            out[here] = material.color
            if material.texture is not None and self.uv is not None:
                known = np.nan_to_num(self.uv[face[here]])
                uv = np.einsum("nk,nki->ni", weights[here], known)
                out[here] *= _looked_up(material.texture, uv)
        if self.colors is not None:
            own = np.einsum("nk,nki->ni", weights, self.colors[self.faces[face]])
            out = own.astype(np.float32) if not self._painted() else out * own
        return out.clip(0.0, 1.0).astype(np.float32)

    def _painted(self) -> bool:
        return any(m.texture is not None for m in self.materials)


def checked(mesh: UserMesh, name: str) -> UserMesh:
    """The mesh; UserError, in one line, if it can't be used."""
    vertices, faces = mesh.vertices, mesh.faces
    if faces.size == 0:
        raise UserError(f"{name} has no faces; give a mesh with a surface")
    check_indices(faces, len(vertices), name)
    used = vertices[faces.reshape(-1)]
    if not np.isfinite(used).all():
        raise UserError(f"{name} has vertices that are not finite numbers; mend them")
    size = float(np.ptp(used, axis=0).max())
    if not size > 0.0:
        raise UserError(f"{name} has no extent: all its vertices are one point")
    if not SMALLEST <= size <= LARGEST:
        raise UserError(
            f"{name} is {size:g} units large; expected between {SMALLEST:g} and {LARGEST:g}: give "
            "it in another unit"
        )
    a, b, c = np.moveaxis(vertices[faces] / size, 1, 0)
    if not (np.linalg.norm(np.cross(b - a, c - a), axis=1) > 1e-14).any():
        raise UserError(f"{name} has no face with an area; give a mesh with a surface")
    parts = part_count(faces, len(vertices), vertices)
    if parts > MOST_PARTS:
        raise UserError(
            f"{name} is in {parts:,} pieces; at most {MOST_PARTS:,} can be worked with: join them"
        )
    return mesh


def check_indices(faces: NDArray[np.int64], count: int, name: str) -> None:
    """UserError if faces name vertices other than 0 to `count - 1`."""
    wrong = faces[(faces < 0) | (faces >= count)]
    if wrong.size:
        raise UserError(
            f"{name} is damaged: a face names vertex {int(wrong[0])}, counted from 0, and there "
            f"are {count}; export it again"
        )


def welded(vertices: NDArray[np.float64]) -> NDArray[np.int64]:
    """For each vertex the first one at the same place, `[V]`."""
    _, first, place = np.unique(vertices, axis=0, return_index=True, return_inverse=True)
    return first[place.reshape(-1)]


def part_count(faces: NDArray[np.int64], count: int, vertices: NDArray[np.float64]) -> int:
    """How many connected parts faces make, where vertices at one place are one."""
    joined = welded(vertices)[faces]
    rows, columns = joined[:, [0, 1]].reshape(-1), joined[:, [1, 2]].reshape(-1)
    graph = coo_array((np.ones(rows.size, np.int8), (rows, columns)), shape=(count, count))
    return len(np.unique(connected_components(graph, directed=False)[1][joined[:, 0]]))


def _looked_up(texture: NDArray[np.uint8], uv: NDArray[np.floating]) -> NDArray[np.float32]:
    """Bilinear lookups `[N, 3]` in [0, 1]; the texture repeats, as modellers' do."""
    height, width, _ = texture.shape
    x, y = uv[:, 0] * width - 0.5, (1.0 - uv[:, 1]) * height - 0.5
    left, top = np.floor(x), np.floor(y)
    total = np.zeros((len(uv), 3), dtype=np.float32)
    for i in (0, 1):
        for j in (0, 1):
            weight = np.abs(1 - i - (y - top)) * np.abs(1 - j - (x - left))
            row, column = (top.astype(np.int64) + i) % height, (left.astype(np.int64) + j) % width
            total += weight[:, None].astype(np.float32) * texture[row, column]
    return total / np.float32(255.0)
