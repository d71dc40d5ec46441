"""The order of faces and vertices in a file: neighbours near each other, for the vertex cache."""

from __future__ import annotations

from dataclasses import replace

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from .unwrap import Unwrapped

CACHE = 24  # vertices that the order is made for; graphics cards keep 16 to 32
Ints = NDArray[np.int64]


def in_cache_order(unwrapped: Unwrapped) -> Unwrapped:
    """The same mesh, its faces fan by fan and its vertices in the order of their first use.

    Tipsify (Sander 2007, "Fast triangle reordering for vertex locality and reduced overdraw").
    """
    faces = unwrapped.faces.numpy()
    faces = faces[_fan_by_fan(faces, len(unwrapped.vertices), CACHE)]
    used, first = np.unique(faces.reshape(-1), return_index=True)
    order = used[np.argsort(first, kind="stable")]
    place = np.full(len(unwrapped.vertices), -1)
    place[order] = np.arange(len(order))
    kept = torch.from_numpy(order)
    return replace(
        unwrapped,
        vertices=unwrapped.vertices[kept],
        faces=torch.from_numpy(place[faces]),
        uv=unwrapped.uv[kept],
        source_vertex=unwrapped.source_vertex[kept],
        fan=None if unwrapped.fan is None else unwrapped.fan[kept],
    )


def cache_misses(faces: Ints, size: int = 32) -> float:
    """Vertices that a first-in first-out cache of `size` has to fetch, a face (ACMR)."""
    return float(_misses(faces, int(faces.max()) + 1, size)) / len(faces)


@numba.njit(cache=True)
def _misses(faces, count, size):
    entered = np.full(count, -size - 1)
    misses = 0
    for f in range(faces.shape[0]):
        for i in range(3):
            if misses - entered[faces[f, i]] > size:
                entered[faces[f, i]] = misses
                misses += 1
    return misses


@numba.njit(cache=True)
def _fan_by_fan(faces, count, size):
    """The order of faces `[F]`: around one vertex after the other, the next one still cached."""
    live = np.zeros(count, np.int64)
    for f in range(faces.shape[0]):
        for i in range(3):
            live[faces[f, i]] += 1
    start = np.zeros(count + 1, np.int64)
    for v in range(count):
        start[v + 1] = start[v] + live[v]
    filled, around = start[:-1].copy(), np.empty(3 * faces.shape[0], np.int64)
    for f in range(faces.shape[0]):
        for i in range(3):
            around[filled[faces[f, i]]] = f
            filled[faces[f, i]] += 1
    entered = np.zeros(count, np.int64)
    done = np.zeros(faces.shape[0], np.bool_)
    order, emitted = np.empty(faces.shape[0], np.int64), 0
    stack, depth = np.empty(3 * faces.shape[0], np.int64), 0
    time, cursor, vertex = size + 1, 0, 0
    while emitted < faces.shape[0]:
        best, best_age, begin = -1, -1, depth
        for k in range(start[vertex], start[vertex + 1]):
            f = around[k]
            if done[f]:
                continue
            done[f] = True
            order[emitted] = f
            emitted += 1
            for i in range(3):
                v = faces[f, i]
                stack[depth] = v
                depth += 1
                live[v] -= 1
                if time - entered[v] > size:
                    entered[v] = time
                    time += 1
        for k in range(begin, depth):
            v = stack[k]
            if live[v] > 0:
                age = 0
                if time - entered[v] + 2 * live[v] <= size:  # still cached after its own fan
                    age = time - entered[v]
                if age > best_age:
                    best, best_age = v, age
        while best < 0 and depth > 0:  # a dead end: back to a vertex seen not long ago
            depth -= 1
            if live[stack[depth]] > 0:
                best = stack[depth]
        while best < 0 and cursor < count:
            if live[cursor] > 0:
                best = cursor
            cursor += 1
        if best < 0:
            break
        vertex = best
    return order
