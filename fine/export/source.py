"""What a texture is taken from: the surface before decimation, and a field of colours on it."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from ...common.scene.mesh import Mesh, sample_surface, vertex_normals
from ..surface_tree import SurfaceTree

LEAST_COSINE = 0.2  # of the angle between a face's normal and the surface's, about 78 degrees

Floats = NDArray[np.float64]


class Surface:
    """The undecimated surface: where on it a point of the decimated one belongs.

    reach: how far a point may be moved, in world units. Points without a surface that near, or
    only with one that looks another way (the back of a thin part), stay where they are.
    """

    def __init__(self, mesh: Mesh, reach: float) -> None:
        self.vertices = mesh.vertices.double().numpy()
        self.faces = mesh.faces.numpy()
        self.normals = vertex_normals(mesh.vertices.double(), mesh.faces).numpy()
        self.reach = reach
        corners = self.vertices[self.faces]
        flat = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        length = np.linalg.norm(flat, axis=1, keepdims=True)
        self.face_normals = flat / np.maximum(length, 1e-300)
        self.tree = SurfaceTree.of(self.vertices, self.faces)

    def beneath(
        self, points: Floats, normals: Floats, any_side: bool = False
    ) -> tuple[Floats, Floats]:
        """The surface's points `[K, 3]` under given ones, and its smooth unit normals there.

        points, normals: `[K, 3]`, of the decimated surface. any_side: normals are not looked at.
        """
        least = -math.inf if any_side else LEAST_COSINE
        _, face, weights = self.tree.nearest(points, self.reach, normals, self.face_normals, least)
        found = face >= 0
        corner = self.faces[np.maximum(face, 0)]
        moved = np.einsum("nk,nki->ni", weights, self.vertices[corner])
        turned = np.einsum("nk,nki->ni", weights, self.normals[corner])
        length = np.linalg.norm(turned, axis=1, keepdims=True)
        sound = found[:, None] & (length > 0.1)
        smooth = np.where(sound, turned / np.maximum(length, 1e-12), normals)
        return np.where(found[:, None], moved, points), smooth


def distance_between(one: Mesh, other: Mesh, count: int = 20_000) -> float:
    """The greatest distance from points of one surface to another (half a Hausdorff distance)."""
    generator = torch.Generator().manual_seed(0)
    points, _ = sample_surface(one.vertices, one.faces, count, generator)
    tree = SurfaceTree.of(other.vertices.double().numpy(), other.faces.numpy())
    return float(tree.nearest(points.double().numpy())[0].max())
