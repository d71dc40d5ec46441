"""Hard edges: where the surface has an edge, normals differ on its two sides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from .unwrap import Unwrapped

Ints = NDArray[np.int64]


def creased(unwrapped: Unwrapped, angle: float) -> Unwrapped:
    """The mesh with vertices doubled along edges whose faces turn by more than `angle` degrees.

    Copies have the texture position of their original, and normals of their own. A mesh without
    such an edge is returned as it is.
    """
    source = unwrapped.source_vertex.numpy()
    faces = unwrapped.faces.numpy()
    places = unwrapped.vertices.double().numpy()[faces]
    fan = corner_fans(source[faces], face_turns(places), angle)  # [F, 3]
    own = np.unique(source[faces].reshape(-1)).size
    if int(fan.max()) + 1 == own:
        return unwrapped
    key, corner = np.unique(
        np.stack([faces.reshape(-1), fan.reshape(-1)], axis=1), axis=0, return_inverse=True
    )
    kept = torch.from_numpy(key[:, 0])
    return replace(
        unwrapped,
        vertices=unwrapped.vertices[kept],
        faces=torch.from_numpy(corner.reshape(-1, 3)),
        uv=unwrapped.uv[kept],
        source_vertex=unwrapped.source_vertex[kept],
        fan=torch.from_numpy(key[:, 1].copy()),
    )


def face_turns(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unit normals `[F, 3]` of faces with these corners `[F, 3, 3]`; zero without an area."""
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.where(length > 0.0, normals / np.maximum(length, 1e-300), 0.0)


def corner_fans(
    faces: Ints, normals: NDArray[np.float64] | None = None, angle: float = 180.0
) -> Ints:
    """Which fan each corner `[F, 3]` belongs to, counted from 0.

    Two corners at one vertex are of one fan where their faces share an edge at it; with `normals`
    `[F, 3]` only across edges whose faces turn by `angle` degrees at most. On a manifold, without
    normals, each vertex has one fan.
    """
    corner = np.arange(faces.size).reshape(-1, 3)
    sides = np.concatenate([faces[:, [i, (i + 1) % 3]] for i in range(3)])
    own = np.concatenate([corner[:, [i, (i + 1) % 3]] for i in range(3)])
    turn = sides[:, 0] > sides[:, 1]
    sides[turn], own[turn] = sides[turn][:, ::-1], own[turn][:, ::-1]
    order = np.lexsort((sides[:, 1], sides[:, 0]))
    sides, own = sides[order], own[order]
    same = (sides[1:] == sides[:-1]).all(axis=1)
    if normals is not None:
        one, two = normals[own[1:, 0] // 3], normals[own[:-1, 0] // 3]
        flat = (np.abs(one).sum(axis=1) == 0.0) | (np.abs(two).sum(axis=1) == 0.0)
        same &= flat | ((one * two).sum(axis=1) >= np.cos(np.radians(angle)))
    row = np.concatenate([own[1:][same, end] for end in (0, 1)])
    column = np.concatenate([own[:-1][same, end] for end in (0, 1)])
    graph = coo_array((np.ones(row.size, dtype=np.int8), (row, column)), shape=(faces.size,) * 2)
    return connected_components(graph, directed=False)[1].reshape(-1, 3).astype(np.int64)
