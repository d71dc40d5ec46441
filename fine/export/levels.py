"""Levels of detail from one unwrapping: fewer faces, the same texture."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ...common.scene.images import save_png
from .clean import pymeshlab
from .unwrap import Method, Unwrapped

SHARE = 4  # each level has this many times fewer faces than the one before


def levels_of_detail(unwrapped: Unwrapped, count: int, notes: list[str]) -> list[Unwrapped]:
    """The levels after the first, `count - 1` of them, each SHARE times coarser than the last.

    Edges collapse by quadrics that know the texture coordinates, and seams stay where they are, so
    that every level is drawn with the first one's texture. notes: is told where a level can't be
    had as coarse as that.
    """
    levels, wanted = [], unwrapped.faces.shape[0]
    for index in range(1, count):
        wanted = max(wanted // SHARE, 4)
        level = _coarser(unwrapped, wanted)
        got = level.faces.shape[0]
        if got > 1.5 * wanted:
            notes.append(f"level {index}: {got} faces, not {wanted}; its seams need them")
        levels.append(level)
    return levels


def _coarser(unwrapped: Unwrapped, faces: int) -> Unwrapped:
    meshes = pymeshlab().MeshSet()
    with tempfile.TemporaryDirectory(prefix="maquette-levels-") as place:
        # The library takes a mesh for textured only if it comes from a file that names a texture.
        save_png(torch.zeros(1, 1, 3), Path(place) / "texture.png")
        _write_textured(Path(place) / "mesh.ply", unwrapped)
        meshes.load_new_mesh(str(Path(place) / "mesh.ply"))
    meshes.meshing_decimation_quadric_edge_collapse_with_texture(
        targetfacenum=faces, preserveboundary=True, preservenormal=True
    )
    current = meshes.current_mesh()
    return from_corners(
        current.vertex_matrix(),
        current.face_matrix().astype(np.int64),
        current.wedge_tex_coord_matrix(),
        unwrapped.method,
        unwrapped.reason,
    )


def _write_textured(path: Path, unwrapped: Unwrapped) -> None:
    """A PLY with texture coordinates at the corners of its faces."""
    mesh = unwrapped.welded()
    row = [("n", "u1"), ("corners", "<i4", 3), ("m", "u1"), ("uv", "<f4", 6), ("texture", "<i4")]
    rows = np.zeros(len(mesh.faces), dtype=row)
    rows["n"], rows["m"] = 3, 6
    rows["corners"] = mesh.faces.numpy()
    rows["uv"] = unwrapped.uv[unwrapped.faces].reshape(-1, 6).numpy()
    head = (
        "ply\nformat binary_little_endian 1.0\ncomment TextureFile texture.png\n"
        f"element vertex {len(mesh.vertices)}\n"
        "property float x\nproperty float y\nproperty float z\n"
        f"element face {len(rows)}\nproperty list uchar int vertex_indices\n"
        "property list uchar float texcoord\nproperty int texnumber\nend_header\n"
    )
    places = mesh.vertices.numpy().astype("<f4")
    path.write_bytes(head.encode("ascii") + places.tobytes() + rows.tobytes())


def from_corners(
    vertices: NDArray[np.floating],
    faces: NDArray[np.int64],
    corner_uv: NDArray[np.floating],
    method: Method,
    reason: str = "",
) -> Unwrapped:
    """A mesh with a texture coordinate at each corner `[3F, 2]`, doubled at seams."""
    corner, exact = faces.reshape(-1), np.ascontiguousarray(corner_uv, dtype=np.float32) + 0.0
    key = np.concatenate([corner[:, None], exact.view(np.int32)], axis=1)
    _, first, place = np.unique(key, axis=0, return_index=True, return_inverse=True)
    return Unwrapped(
        torch.from_numpy(vertices[corner[first]].astype(np.float32)),
        torch.from_numpy(place.reshape(-1, 3)),
        torch.from_numpy(exact[first].clip(0.0, 1.0)),
        torch.from_numpy(corner[first]),
        method,
        reason,
    )
