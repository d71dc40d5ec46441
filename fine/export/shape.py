"""What a surface is like: closed, manifold, of how many parts, with how many handles."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...common.scene.mesh import Mesh, adjacent_faces, face_normals
from .clean import face_components
from .creases import corner_fans

SLIVER = 5.0  # degrees
FOLD = 160.0  # degrees


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
    folds: int


def describe_shape(mesh: Mesh) -> ShapeReport:
    """Measure a surface; vertices of no face play no part."""
    faces = np.unique(mesh.faces.numpy(), return_inverse=True)[1].reshape(-1, 3)
    ends = np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    edges, count = np.unique(ends, axis=0, return_counts=True)
    vertices = int(faces.max()) + 1
    parts = int(face_components(faces, vertices).max()) + 1
    border, crowded = int((count == 1).sum()), int((count > 2).sum())
    closed = border == 0
    manifold = crowded == 0 and int(corner_fans(faces).max()) + 1 == vertices
    genus = None
    if closed and manifold:
        genus = (2 * parts - (vertices - len(edges) + len(faces))) // 2
    thin, folded = round(slivers(mesh), 4), folds(mesh)
    return ShapeReport(closed, manifold, parts, genus, border, crowded, thin, folded)


def slivers(mesh: Mesh) -> float:
    """The share of faces with an angle below SLIVER degrees."""
    return float((least_angles(mesh) < SLIVER).mean())


def folds(mesh: Mesh) -> int:
    """How many edges have two faces that turn by more than FOLD degrees."""
    normals = face_normals(mesh.vertices.double(), mesh.faces, eps=1e-300)
    one, two = normals[adjacent_faces(mesh.faces)].unbind(1)
    return int(((one * two).sum(dim=1) < math.cos(math.radians(FOLD))).sum())


def least_angles(mesh: Mesh) -> NDArray[np.float64]:
    """The least angle of each face in degrees, `[F]`."""
    corners = mesh.vertices.double().numpy()[mesh.faces.numpy()]
    least = np.full(len(corners), np.inf)
    for i in range(3):
        a, b = corners[:, i - 1] - corners[:, i], corners[:, i - 2] - corners[:, i]
        cross = np.linalg.norm(np.cross(a, b), axis=1)
        least = np.minimum(least, np.degrees(np.arctan2(cross, (a * b).sum(axis=1))))
    return least
