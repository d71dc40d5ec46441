"""Which way a mesh's faces look: alike within a patch, each patch towards those who see it."""

from __future__ import annotations

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from ...common.rasterize import visible_faces
from ...common.scene.cameras import sphere_views

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

VIEWS, RESOLUTION = 32, 256


def oriented(vertices: Floats, faces: Ints) -> Ints:
    """The faces `[F, 3]` wound counter-clockwise seen from outside.

    vertices: `[V, 3]`, in the sphere of radius 1; those at one place should be one. Faces that
    share an edge with one other are wound alike. Each patch of such faces is turned towards the
    side from which cameras around the model see more of it; one that none sees stays as it is.
    """
    flip, patch = _coherent(faces, *_neighbours(faces))
    faces = np.where(flip[:, None], faces[:, ::-1], faces)
    balance = _front_pixels(vertices, faces)
    votes = np.bincount(patch, weights=balance, minlength=int(patch.max()) + 1)
    unseen = votes == 0
    turned = np.where(unseen[patch], flip, votes[patch] < 0)
    return np.where(turned[:, None], faces[:, ::-1], faces)


def _neighbours(faces: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """The face across each edge `[F, 3]`, -1 for none or several, and whether both run along it
    the same way, so that one of them is wound the other way around."""
    a, b = faces.reshape(-1), np.roll(faces, -1, axis=1).reshape(-1)
    ends = np.stack([np.minimum(a, b), np.maximum(a, b)], axis=1)
    _, edge, count = np.unique(ends, axis=0, return_inverse=True, return_counts=True)
    edge = edge.reshape(-1)
    order = np.argsort(edge, kind="stable")
    first = np.concatenate([[0], np.cumsum(count)])[:-1][count == 2]
    one, two = order[first], order[first + 1]
    across = np.full(faces.size, -1)
    across[one], across[two] = two // 3, one // 3
    same = np.zeros(faces.size, dtype=np.bool_)
    same[one] = same[two] = a[one] == a[two]
    return across.reshape(-1, 3), same.reshape(-1, 3)


@numba.njit(cache=True)
def _coherent(faces, across, same):
    """Which faces to turn around so that neighbours are wound alike, and the patch of each."""
    count = faces.shape[0]
    flip, patch = np.zeros(count, np.bool_), np.full(count, -1)
    queue = np.empty(count, np.int64)
    found = 0
    for start in range(count):
        if patch[start] >= 0:
            continue
        patch[start] = found
        queue[0], done, filled = start, 0, 1
        while done < filled:
            face = queue[done]
            done += 1
            for i in range(3):
                other = across[face, i]
                if other >= 0 and patch[other] < 0:
                    patch[other] = found
                    flip[other] = flip[face] != same[face, i]
                    queue[filled] = other
                    filled += 1
        found += 1
    return flip, patch


def _front_pixels(vertices: Floats, faces: Ints) -> Floats:
    """For each face the pixels that see its front minus those that see its back, `[F]`."""
    places = torch.from_numpy(vertices).float()
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    cameras = sphere_views(VIEWS)
    mvp, eyes = cameras.mvp(), cameras.position.double().numpy()
    ends = torch.cat([places, torch.ones(len(places), 1)], dim=1)
    balance = np.zeros(len(faces))
    for view in range(VIEWS):
        clip = (ends @ mvp[view].T)[None]
        seen = visible_faces(clip, torch.from_numpy(faces), RESOLUTION, RESOLUTION)
        hits = seen[seen >= 0].numpy()
        pixels = np.bincount(hits, minlength=len(faces))
        facing = np.einsum("fi,fi->f", normals, eyes[view] - corners.mean(axis=1))
        balance += np.sign(facing) * pixels
    return balance
