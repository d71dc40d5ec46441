"""Cleaning a mesh for other programs: specks, defects, orientation, number of faces.

pymeshlab does the mending and the decimation. It is imported on use: it loads slowly, and its
licence (GPL-3) makes it a part that some will want to leave out.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ...common.scene.mesh import Mesh
from ..surface_tree import SurfaceTree
from .slivers import without_slivers

MERGE_SHARE = 1e-5  # vertices nearer than this share of the bounding box's diagonal become one
SLIVER_SHARE = 1e-4  # of the diagonal: how far mending slivers may move a closed surface
LIKE_THE_LARGEST = 0.5  # a part with this share of the largest one's surface is no speck

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Cleaned:
    """A cleaned mesh. dropped: the shares of the surface that the specks had, largest first."""

    mesh: Mesh
    dropped: tuple[float, ...]


def clean(mesh: Mesh, min_component_share: float = 0.01) -> Mesh:
    """The mesh of `cleaned`."""
    return cleaned(mesh, min_component_share).mesh


def cleaned(mesh: Mesh, min_component_share: float = 0.01) -> Cleaned:
    """The mesh without specks and defects, every part wound outward, on the CPU.

    Close and duplicate vertices are merged; faces that are double or have no area go; where every
    edge has two faces, slivers are mended instead (see `slivers`), so that nothing opens. Connected
    parts with less than `min_component_share` (in [0, 1]) of the whole area go, see `drop_specks`;
    edges and vertices where more than one sheet meets are split; faces of a part are wound alike,
    and a part whose signed volume is negative is turned inside out, see `wind_outward`.
    Raises ValueError if nothing is left.
    """
    if not 0.0 <= min_component_share <= 1.0:
        raise ValueError(f"min_component_share: expected [0, 1], got {min_component_share}")
    vertices, faces = _arrays(mesh)
    diagonal = float(np.linalg.norm(np.ptp(vertices[faces.reshape(-1)], axis=0)))
    if is_closed(faces):
        vertices, faces = _arrays(without_slivers(mesh, SLIVER_SHARE * diagonal))
    else:
        vertices, faces = _merged(vertices, faces, MERGE_SHARE * diagonal)
    faces, dropped = drop_specks(vertices, faces, min_component_share)
    meshes = _mesh_set(vertices, faces)
    meshes.meshing_remove_unreferenced_vertices()
    meshes.meshing_repair_non_manifold_edges(method="Split Vertices")
    meshes.meshing_repair_non_manifold_vertices()
    # Where sheets that were merged share an edge, pymeshlab may leave it and then refuse to orient.
    meshes = _mesh_set(*detach_crowded(*_matrices(meshes)))
    meshes.meshing_remove_unreferenced_vertices()
    meshes.meshing_re_orient_faces_coherently()
    vertices, faces = _matrices(meshes)
    return Cleaned(_mesh(vertices, wind_outward(vertices, faces)), dropped)


def is_closed(faces: Ints) -> bool:
    """Whether every edge has two faces that are wound alike."""
    ends = faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
    both = [ends[:, 0] * (int(faces.max()) + 1) + ends[:, 1]]
    both += [ends[:, 1] * (int(faces.max()) + 1) + ends[:, 0]]
    one, other = (np.sort(key) for key in both)
    return bool((one[1:] != one[:-1]).all() and (one == other).all())


def _merged(vertices: Floats, faces: Ints, threshold: float) -> tuple[Floats, Ints]:
    """The mesh with vertices nearer than `threshold` as one, and no null or double faces."""
    meshes = _mesh_set(vertices, faces)
    meshes.meshing_merge_close_vertices(threshold=pymeshlab().PureValue(threshold))
    meshes.meshing_remove_duplicate_vertices()
    meshes.meshing_remove_null_faces()
    meshes.meshing_remove_duplicate_faces()
    return _matrices(meshes)


def decimate(mesh: Mesh, faces: int) -> Mesh:
    """The mesh with at most about `faces` faces, by quadric edge collapse, on the CPU.

    Boundaries, normals and topology are kept, so that a shape with many handles can keep more
    faces than asked for. A mesh that has no more than `faces` is returned as it is.
    (Garland and Heckbert 1997, "Surface simplification using quadric error metrics".)
    """
    if faces < 4:
        raise ValueError(f"faces: expected at least 4, got {faces}")
    if mesh.faces.shape[0] <= faces:
        return mesh
    meshes = _mesh_set(*_arrays(mesh))
    meshes.meshing_decimation_quadric_edge_collapse(
        targetfacenum=faces, preserveboundary=True, preservenormal=True, preservetopology=True
    )
    meshes.meshing_remove_unreferenced_vertices()
    return _mesh(*_matrices(meshes))


def drop_specks(vertices: Floats, faces: Ints, min_share: float) -> tuple[Ints, tuple[float, ...]]:
    """The faces `[F', 3]` of connected parts that are no specks, and the specks' shares.

    A speck has less than `min_share` of the whole area, and less than half as much as the largest
    part: of many balls alike, none is one. Raises ValueError if there is no area.
    """
    a, b, c = np.moveaxis(vertices[faces], 1, 0)
    areas = 0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1)
    total = float(areas.sum())
    if faces.shape[0] == 0 or not total > 0.0:
        raise ValueError("mesh: nothing to export, it has no face with an area")
    part = face_components(faces, vertices.shape[0])
    shares = np.bincount(part, weights=areas) / total
    speck = (shares < min_share) & (shares < LIKE_THE_LARGEST * shares.max())
    return faces[~speck[part]], tuple(np.sort(shares[speck])[::-1].tolist())


def detach_crowded(vertices: Floats, faces: Ints) -> tuple[Floats, Ints]:
    """The mesh with vertices of their own for the faces at edges that more than two faces share.

    Nothing moves: those faces stay where they are and are joined to no other.
    Vertices that no face has any more stay.
    """
    ends = np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    _, edge, count = np.unique(ends, axis=0, return_inverse=True, return_counts=True)
    crowded = (count[edge.reshape(-1)] > 2).reshape(-1, 3).any(axis=1)
    if not crowded.any():
        return vertices, faces
    loose = faces[crowded].reshape(-1)
    faces = faces.copy()
    faces[crowded] = vertices.shape[0] + np.arange(loose.size).reshape(-1, 3)
    return np.concatenate([vertices, vertices[loose]]), faces


def face_components(faces: Ints, vertex_count: int) -> Ints:
    """The connected part (faces that share a vertex) of each face `[F]`, counted from 0."""
    rows = faces[:, [0, 1]].reshape(-1)
    columns = faces[:, [1, 2]].reshape(-1)
    graph = coo_array(
        (np.ones(rows.size, dtype=np.int8), (rows, columns)), shape=(vertex_count, vertex_count)
    )
    _, of_vertex = connected_components(graph, directed=False)
    return np.unique(of_vertex[faces[:, 0]], return_inverse=True)[1].reshape(-1)


def wind_outward(vertices: Floats, faces: Ints) -> Ints:
    """The faces `[F, 3]`, those of parts with a negative signed volume turned around.

    A part that is wound inward and lies within another one is the inner side of a hollow shell,
    and stays as it is.
    """
    part = face_components(faces, vertices.shape[0])
    a, b, c = np.moveaxis(vertices[faces], 1, 0)
    # Measured from the part's own middle, the volume has a meaning for open parts as well.
    middle = np.stack([np.bincount(part, weights=x) for x in ((a + b + c) / 3.0).T], axis=1)
    middle = (middle / np.bincount(part)[:, None])[part]
    a, b, c = a - middle, b - middle, c - middle
    volumes = np.bincount(part, weights=np.einsum("fi,fi->f", a, np.cross(b, c)))
    inward = volumes < 0.0
    if inward.any() and volumes.size > 1:
        inward &= nesting(vertices, faces, part) % 2 == 0
    return np.where(inward[part][:, None], faces[:, ::-1], faces)


def nesting(vertices: Floats, faces: Ints, part: Ints) -> Ints:
    """How many other closed parts each part lies within, `[P]`.

    part: of each face `[F]`, from 0, as `face_components` gives it.
    """
    count = int(part.max()) + 1
    order = np.argsort(part, kind="stable")
    bounds = np.searchsorted(part[order], np.arange(count + 1))
    own = [faces[order[a:b]] for a, b in pairwise(bounds)]
    low = np.stack([vertices[f].min(axis=(0, 1)) for f in own])
    high = np.stack([vertices[f].max(axis=(0, 1)) for f in own])
    depth = np.zeros(count, dtype=np.int64)
    for outer in range(count):
        held = (low > low[outer]).all(axis=1) & (high < high[outer]).all(axis=1)
        inner = np.nonzero(held)[0]
        if inner.size:
            tree = SurfaceTree.of(vertices, own[outer])
            points = np.stack([vertices[own[i][0]].mean(axis=0) for i in inner])
            depth[inner] += np.abs(tree.winding(points)) > 0.5
    return depth


def without_inner_parts(mesh: Mesh) -> tuple[Mesh, int]:
    """The mesh without the parts that lie within others, and how many those were.

    A printer fills what the outer parts enclose; a second wall in there would make it hollow.
    """
    vertices, faces = _arrays(mesh)
    part = face_components(faces, vertices.shape[0])
    inner = nesting(vertices, faces, part) > 0
    if not inner.any():
        return mesh, 0
    used, compact = np.unique(faces[~inner[part]], return_inverse=True)
    return _mesh(vertices[used], compact.reshape(-1, 3)), int(inner.sum())


def pymeshlab() -> ModuleType:
    """The library, imported on use. Raises ImportError with how to install it."""
    try:
        import pymeshlab as library
    except ImportError as error:
        raise ImportError(
            "cleaning and decimation need pymeshlab: pip install pymeshlab"
        ) from error
    return library


def _arrays(mesh: Mesh) -> tuple[Floats, Ints]:
    """The mesh as float64 and int64 arrays; ValueError if it is empty or not finite."""
    vertices = mesh.vertices.detach().cpu().double().numpy()
    faces = mesh.faces.cpu().long().numpy()
    if faces.shape[0] == 0:
        raise ValueError("mesh: nothing to export, it has no faces")
    if not np.isfinite(vertices).all():
        raise ValueError("mesh: expected finite vertices, got NaN or infinity")
    return vertices, faces


def _mesh_set(vertices: Floats, faces: Ints) -> Any:
    library = pymeshlab()
    meshes = library.MeshSet()
    meshes.add_mesh(library.Mesh(vertices, faces.astype(np.int32)))
    return meshes


def _matrices(meshes: Any) -> tuple[Floats, Ints]:
    current = meshes.current_mesh()
    return current.vertex_matrix(), current.face_matrix().astype(np.int64)


def _mesh(vertices: Floats, faces: Ints) -> Mesh:
    return Mesh(
        torch.from_numpy(np.ascontiguousarray(vertices, dtype=np.float32)),
        torch.from_numpy(np.ascontiguousarray(faces)),
    )
