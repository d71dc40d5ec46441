"""What a surface is like: closed, manifold, of how many parts, with how many handles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...common.scene.mesh import Mesh
from .clean import face_components

SLIVER = 5.0  # degrees


@dataclass(frozen=True)
class ShapeReport:
    """closed: every edge has two faces. manifold: none has more, and the faces around each vertex
    are one fan. components: parts that share no vertex. genus: handles of all parts together, None
    if the surface isn't closed and manifold. border_edges, crowded_edges: edges with one face, and
    with more than two. slivers: share of faces with an angle below SLIVER degrees."""

    closed: bool
    manifold: bool
    components: int
    genus: int | None
    border_edges: int
    crowded_edges: int
    slivers: float


def describe_shape(mesh: Mesh) -> ShapeReport:
    """Measure a surface; vertices of no face play no part."""
    faces = np.unique(mesh.faces.numpy(), return_inverse=True)[1].reshape(-1, 3)
    ends = np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    edges, count = np.unique(ends, axis=0, return_counts=True)
    vertices = int(faces.max()) + 1
    parts = int(face_components(faces, vertices).max()) + 1
    border, crowded = int((count == 1).sum()), int((count > 2).sum())
    closed = border == 0
    manifold = crowded == 0 and _fans(faces) == vertices
    genus = None
    if closed and manifold:
        genus = (2 * parts - (vertices - len(edges) + len(faces))) // 2
    return ShapeReport(closed, manifold, parts, genus, border, crowded, round(slivers(mesh), 4))


def slivers(mesh: Mesh) -> float:
    """The share of faces with an angle below SLIVER degrees."""
    corners = mesh.vertices.double().numpy()[mesh.faces.numpy()]
    least = np.full(len(corners), np.inf)
    for i in range(3):
        a, b = corners[:, i - 1] - corners[:, i], corners[:, i - 2] - corners[:, i]
        cross = np.linalg.norm(np.cross(a, b), axis=1)
        least = np.minimum(least, np.degrees(np.arctan2(cross, (a * b).sum(axis=1))))
    return float((least < SLIVER).mean())


def _fans(faces: np.ndarray) -> int:
    """How many fans of faces around vertices there are, counted over all vertices.

    Corners of one vertex are joined where their faces share an edge at it; on a manifold each
    vertex has one fan.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    corner = np.arange(faces.size).reshape(-1, 3)
    rows, columns = [], []
    sides = np.concatenate([faces[:, [i, (i + 1) % 3]] for i in range(3)])
    own = np.concatenate([corner[:, [i, (i + 1) % 3]] for i in range(3)])
    turn = sides[:, 0] > sides[:, 1]
    sides[turn], own[turn] = sides[turn][:, ::-1], own[turn][:, ::-1]
    order = np.lexsort((sides[:, 1], sides[:, 0]))
    sides, own = sides[order], own[order]
    same = (sides[1:] == sides[:-1]).all(axis=1)
    for end in (0, 1):
        rows.append(own[1:][same, end])
        columns.append(own[:-1][same, end])
    row, column = np.concatenate(rows), np.concatenate(columns)
    graph = coo_array((np.ones(row.size, dtype=np.int8), (row, column)), shape=(faces.size,) * 2)
    return int(connected_components(graph, directed=False)[0])
