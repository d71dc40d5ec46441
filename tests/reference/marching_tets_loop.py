"""Marching tetrahedra one tetrahedron at a time, from geometry alone: no tables, no cases.

A tetrahedron's piece of the surface is a polygon on its crossed edges. Two of its corners are
neighbours when their edges share a face of the tetrahedron, which gives the cyclic order; the
direction is the one whose normal points from the inside vertices to the outside ones.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

Edge = tuple[int, int]


def marching_tetrahedra_loop(
    vertices: NDArray[np.float64], sdf: NDArray[np.float64], tets: NDArray[np.int64]
) -> tuple[dict[Edge, NDArray[np.float64]], list[list[Edge]]]:
    """Position of each crossed lattice edge (lower id first), and the polygon of each crossed
    tetrahedron as edges in counter-clockwise order seen from outside, least edge first."""
    points: dict[Edge, NDArray[np.float64]] = {}
    polygons: list[list[Edge]] = []
    for tet in tets.tolist():
        crossed = []
        for i, j in itertools.combinations(sorted(tet), 2):
            if (sdf[i] < 0) != (sdf[j] < 0):
                points[i, j] = (vertices[i] * sdf[j] - vertices[j] * sdf[i]) / (sdf[j] - sdf[i])
                crossed.append((i, j))
        if crossed:
            polygons.append(_ordered(crossed, vertices, sdf, tet))
    return points, polygons


def _ordered(
    crossed: list[Edge], vertices: NDArray[np.float64], sdf: NDArray[np.float64], tet: list[int]
) -> list[Edge]:
    """The corners of a polygon in order, outward, least first."""
    order = [crossed[0]]
    while len(order) < len(crossed):
        order.append(
            next(
                edge
                for edge in crossed
                if edge not in order and len({*edge, *order[-1]}) == 3  # one face holds both
            )
        )
    # Orientation is that of signs, not of values: take the middles of the edges.
    a, b, c = (vertices[list(edge)].mean(axis=0) for edge in order[:3])
    inside = np.mean([vertices[i] for i in tet if sdf[i] < 0], axis=0)
    outside = np.mean([vertices[i] for i in tet if sdf[i] >= 0], axis=0)
    if np.dot(np.cross(b - a, c - a), outside - inside) < 0:
        order = [order[0], *reversed(order[1:])]
    return order
