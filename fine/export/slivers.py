"""Slivers: thin faces that decimation and marching tetrahedra leave, flipped or collapsed away.

A needle's short edge collapses, a cap's long edge is flipped, and where neither can be, a vertex
moves along the faces around it. Nothing may move the surface farther than a bound, turn a face
over, change the topology, or make a face as thin as it takes away. Edges with one face, or with
more than two, stay.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from ...common.scene.mesh import Mesh

GOAL = 8.0  # degrees; faces with a lesser angle are worked on
ROUNDS = 8
FOLDED = math.cos(math.radians(150.0))  # of two faces at an edge: one lies back upon the other
MOST_AROUND = 64  # faces at a vertex; vertices with more stay as they are

Ints = NDArray[np.int64]


def without_slivers(mesh: Mesh, bound: float) -> Mesh:
    """The mesh with hardly a face thinner than GOAL degrees, on the CPU.

    bound: how far the surface may move, in world units. Vertices of no face are left out.
    """
    vertices = mesh.vertices.detach().cpu().double().numpy().copy()
    faces = mesh.faces.cpu().numpy().copy()
    twin = _twins(faces)
    _mend(vertices, faces, twin, np.zeros(len(vertices)), bound, math.radians(GOAL), ROUNDS)
    faces = faces[faces[:, 0] >= 0]
    used, compact = np.unique(faces, return_inverse=True)
    return Mesh(
        torch.from_numpy(vertices[used].astype(np.float32)),
        torch.from_numpy(compact.reshape(-1, 3)),
    )


def _twins(faces: Ints) -> Ints:
    """The other half of each half-edge `[3F]`; -1 unless the edge has two faces, wound alike.

    Half-edge 3 f + i runs from corner i of face f to the next one.
    """
    start, end = faces.reshape(-1), np.roll(faces, -1, axis=1).reshape(-1)
    low, high = np.minimum(start, end), np.maximum(start, end)
    order = np.lexsort((high, low))
    key = np.stack([low, high], axis=1)[order]
    first = np.concatenate([[True], (key[1:] != key[:-1]).any(axis=1)])
    place = np.nonzero(first)[0]
    count = np.diff(np.append(place, len(order)))
    one, two = order[place[count == 2]], order[place[count == 2] + 1]
    alike = start[one] != start[two]
    twin = np.full(len(start), -1, dtype=np.int64)
    twin[one[alike]], twin[two[alike]] = two[alike], one[alike]
    return twin


@njit(cache=True)
def _next(h):
    return h - 2 if h % 3 == 2 else h + 1


@njit(cache=True)
def _before(h):
    return h + 2 if h % 3 == 0 else h - 1


@njit(cache=True)
def _normal(a, b, c):
    u, v = b - a, c - a
    return np.array(
        [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]]
    )


@njit(cache=True)
def _length(v):
    return math.sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2])


@njit(cache=True)
def _least_angle(a, b, c):
    """The least angle of a triangle in radians."""
    twice = _length(_normal(a, b, c))
    return min(
        math.atan2(twice, np.dot(b - a, c - a)),
        min(math.atan2(twice, np.dot(a - b, c - b)), math.atan2(twice, np.dot(a - c, b - c))),
    )


@njit(cache=True)
def _around(h, twin, out):
    """The half-edges that leave the vertex at which `h` begins: how many, 0 at a border."""
    count, at = 0, h
    while count < len(out):
        out[count] = at
        count += 1
        at = twin[_before(at)]
        if at < 0:
            return 0
        if at == h:
            return count
    return 0


@njit(cache=True)
def _quality(f, vertices, faces, twin):
    """The least angle of a face in radians; -1 if it is folded onto a neighbour."""
    a, b, c = vertices[faces[f, 0]], vertices[faces[f, 1]], vertices[faces[f, 2]]
    own = _normal(a, b, c)
    size = _length(own)
    for h in range(3 * f, 3 * f + 3):
        if twin[h] >= 0:
            corner = faces[twin[h] // 3]
            other = _normal(vertices[corner[0]], vertices[corner[1]], vertices[corner[2]])
            if np.dot(own, other) < FOLDED * size * _length(other):
                return -1.0
    return _least_angle(a, b, c)


@njit(cache=True)
def _worst(ring, count, vertices, faces, twin):
    """The least quality of the living faces of half-edges."""
    worst = math.pi
    for k in range(count):
        if faces[ring[k] // 3, 0] >= 0:
            worst = min(worst, _quality(ring[k] // 3, vertices, faces, twin))
    return worst


@njit(cache=True)
def _turn(h, faces, twin):
    """Flip the edge of a half-edge: its faces a b c and b a d become d c a and c d b.

    The same half-edge is that of the other diagonal then; four turns are none.
    """
    t = twin[h]
    n, p, m, q = _next(h), _before(h), _next(t), _before(t)
    a, b = faces[h // 3, h % 3], faces[t // 3, t % 3]
    c, d = faces[h // 3, p % 3], faces[t // 3, q % 3]
    bc, ca, ad, db = twin[n], twin[p], twin[m], twin[q]
    faces[h // 3, h % 3], faces[h // 3, n % 3], faces[h // 3, p % 3] = d, c, a
    faces[t // 3, t % 3], faces[t // 3, m % 3], faces[t // 3, q % 3] = c, d, b
    mine, other = (n, p, m, q), (ca, ad, db, bc)
    for k in range(4):
        twin[mine[k]] = other[k]
        if other[k] >= 0:
            twin[other[k]] = mine[k]


@njit(cache=True)
def _try_flip(h, vertices, faces, twin, spent, bound, ring):
    """Turn the edge of a half-edge to the other diagonal of its two faces, if that is better."""
    t = twin[h]
    if t < 0:
        return False
    ia, ib = faces[h // 3, h % 3], faces[t // 3, t % 3]
    ic, idd = faces[h // 3, _before(h) % 3], faces[t // 3, _before(t) % 3]
    if min(_around(h, twin, ring), _around(t, twin, ring)) < 4:
        return False  # one of them would be left with two faces
    count = _around(_before(h), twin, ring)
    if ic == idd or count == 0:
        return False
    for k in range(count):
        if faces[ring[k] // 3, _next(ring[k]) % 3] == idd:
            return False
    a, b, c, d = vertices[ia], vertices[ib], vertices[ic], vertices[idd]
    across = _normal(np.zeros(3), b - a, d - c)
    size = _length(across)
    if size <= 0.0:
        return False
    moved = abs(np.dot(across, c - a)) / size  # how far the two diagonals lie apart
    if moved + max(max(spent[ia], spent[ib]), max(spent[ic], spent[idd])) > bound:
        return False
    ring[0], ring[1] = h, t
    before = _worst(ring, 2, vertices, faces, twin)
    _turn(h, faces, twin)
    if _worst(ring, 2, vertices, faces, twin) <= before:
        for _ in range(3):
            _turn(h, faces, twin)
        return False
    spent[ic] += moved
    spent[idd] += moved
    return True


@njit(cache=True)
def _is_linked(ring, own, other, others, faces):
    """Whether two vertices have just two neighbours in common (the link condition, Dey 1999)."""
    shared = 0
    for i in range(own):
        for k in range(others):
            mine = faces[ring[i] // 3, _next(ring[i]) % 3]
            shared += mine == faces[other[k] // 3, _next(other[k]) % 3]
    return shared == 2


@njit(cache=True)
def _try_collapse(h, vertices, faces, twin, spent, bound, ring, other):
    """Draw the edge of a half-edge together, if that leaves no face worse than the worst was."""
    t = twin[h]
    if t < 0:
        return False
    f, g = h // 3, t // 3
    ia, ib = faces[f, h % 3], faces[g, t % 3]
    own, others = _around(h, twin, ring), _around(t, twin, other)
    if min(own, others) < 3 or own + others < 7 or not _is_linked(ring, own, other, others, faces):
        return False
    a, b = vertices[ia].copy(), vertices[ib].copy()
    rows = faces[f].copy(), faces[g].copy()
    before = min(
        _worst(ring, own, vertices, faces, twin), _worst(other, others, vertices, faces, twin)
    )
    outer = (twin[_next(h)], twin[_before(h)], twin[_next(t)], twin[_before(t)])
    twin[outer[0]], twin[outer[1]] = outer[1], outer[0]
    twin[outer[2]], twin[outer[3]] = outer[3], outer[2]
    for k in range(own):
        faces[ring[k] // 3, ring[k] % 3] = ib
    faces[f, :] = -1
    faces[g, :] = -1
    for share in (0.5, 0.0, 1.0):
        vertices[ib] = a + share * (b - a)
        moved = max(share, 1.0 - share) * _length(b - a) + max(spent[ia], spent[ib])
        after = min(
            _worst(ring, own, vertices, faces, twin), _worst(other, others, vertices, faces, twin)
        )
        if moved <= bound and after > before:
            spent[ib] = moved
            return True
    vertices[ib] = b
    faces[f], faces[g] = rows
    for k in range(own):
        faces[ring[k] // 3, ring[k] % 3] = ia
    twin[outer[0]], twin[outer[1]] = _next(h), _before(h)
    twin[outer[2]], twin[outer[3]] = _next(t), _before(t)
    return False


@njit(cache=True)
def _try_shift(h, vertices, faces, twin, spent, bound, ring):
    """Move the vertex at which a half-edge begins towards the middle of its neighbours, along the
    faces around it, if that leaves none of them worse than the worst was."""
    count = _around(h, twin, ring)
    if count < 3:
        return False
    vertex = faces[h // 3, h % 3]
    here, middle = vertices[vertex].copy(), np.zeros(3)
    for k in range(count):
        middle += vertices[faces[ring[k] // 3, _next(ring[k]) % 3]] / count
    before = _worst(ring, count, vertices, faces, twin)
    for share in (1.0, 0.5, 0.25):
        place = here + share * (middle - here)
        moved = spent[vertex]
        for k in range(count):
            corner = faces[ring[k] // 3]
            normal = _normal(vertices[corner[0]], vertices[corner[1]], vertices[corner[2]])
            off = abs(np.dot(normal, place - here)) / max(_length(normal), 1e-300)
            moved = max(moved, spent[vertex] + off)
        vertices[vertex] = place
        if moved <= bound and _worst(ring, count, vertices, faces, twin) > before:
            spent[vertex] = moved
            return True
        vertices[vertex] = here
    return False


@njit(cache=True)
def _mend_face(f, vertices, faces, twin, spent, bound, ring, other):
    """Try on a face's edges and corners what could mend it, until something does."""
    lengths = np.empty(3)
    for i in range(3):
        lengths[i] = _length(vertices[faces[f, (i + 1) % 3]] - vertices[faces[f, i]])
    order = 3 * f + np.argsort(lengths)
    if _try_collapse(order[0], vertices, faces, twin, spent, bound, ring, other):
        return True
    for k in range(2, -1, -1):
        if _try_flip(order[k], vertices, faces, twin, spent, bound, ring):
            return True
    for h in order:
        if _try_shift(h, vertices, faces, twin, spent, bound, ring):
            return True
    return _try_collapse(order[1], vertices, faces, twin, spent, bound, ring, other)


@njit(cache=True)
def _mend(vertices, faces, twin, spent, bound, goal, rounds):
    """Work on thin and folded faces, round after round until nothing helps; dead faces hold -1.

    spent: how far the surface has been moved at each vertex, `[V]`.
    """
    ring, other = np.empty(MOST_AROUND, np.int64), np.empty(MOST_AROUND, np.int64)
    for _ in range(rounds):
        changed = 0
        for f in range(faces.shape[0]):
            if faces[f, 0] >= 0 and _quality(f, vertices, faces, twin) < goal:
                changed += _mend_face(f, vertices, faces, twin, spent, bound, ring, other)
        if changed == 0:
            return
