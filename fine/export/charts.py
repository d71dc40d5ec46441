"""Flat charts by direction, and shelves to set them on. Plain, quick, never stuck.

Neighbouring faces that look along the same axis are projected along it. From a chart that covers
itself (a spiral stair seen from above) what it hides is cut off until it does not. It makes more
seams than xatlas and fills less of the texture, but it ends within seconds on any mesh.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ...common.scene.mesh import adjacent_faces

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SMOOTHING = 4  # rounds of averaging normals with the neighbours', so that rough skin is one chart
LEAST_COSINE = 0.25  # a face may be foreshortened this much by its chart's projection
CLOSELY = 4096  # texels a side up to which folds are looked for at twice the resolution
CRUMB = 40  # a chart of fewer faces is one, if a neighbour can take it
CRUMB_COSINE = 0.12
CRUMB_ROUNDS = 6
CUTTING_ROUNDS = 6  # then faces that others still hide become charts of their own ...
LAST_ROUNDS = 12  # ... and then all faces of their charts
PACKING_ROUNDS = 20  # bisections of the scale
STRIP = 16  # a strip for folded faces takes one part in so many of the texture's height
FOLDED_SHARE = 0.02  # an atlas of which more faces than this are folded is not worth mending

# Directions +x -x +y -y +z -z, and for each the two axes it is projected to, keeping orientation.
DIRECTIONS = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], float)
FRAME_U = np.array([[0, 1, 0], [0, 0, 1], [0, 0, 1], [1, 0, 0], [1, 0, 0], [0, 1, 0]], float)
FRAME_V = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]], float)


@dataclass(frozen=True)
class Charts:
    """Charts that cover themselves nowhere.

    flat: `[W, 2]` in the charts' own planes, world units. faces: `[F, 3]`. source: `[W]`, the
    mesh's vertex that each one is. chart_of: `[W]`, ascending. texels: `[W, 2]`, set on shelves.
    """

    flat: Floats
    faces: Ints
    source: Ints
    chart_of: Ints
    texels: Floats


def planar_charts(vertices: Floats, faces: Ints, size: int) -> tuple[Floats, Ints, Ints]:
    """Unwrap a mesh for a texture of `size` texels: uv `[W, 2]`, faces `[F, 3]`, source `[W]`.

    Charts never overlap, and lie at least 4 texels apart where there is room for that.
    Raises ValueError where the texture has too few texels for the charts.
    """
    charts = flat_charts(vertices, faces, size)
    return charts.texels / size, charts.faces, charts.source


def flat_charts(vertices: Floats, faces: Ints, size: int, alone: Ints | None = None) -> Charts:
    """The charts of a mesh for a texture of `size` texels, as `planar_charts` sets them.

    alone: faces that are to be charts of their own.
    """
    pairs = adjacent_faces(torch.from_numpy(faces)).numpy()
    normals = _unit_normals(vertices, faces)
    direction = without_crumbs(chart_directions(normals, pairs), normals, pairs)
    group = np.zeros(faces.shape[0], dtype=np.int64)
    if alone is not None:
        group[alone] = 1 + np.arange(alone.size)
    rounds = 0
    while True:  # ends, since a chart of a single face cannot cover itself
        chart = _connected(pairs, direction, group)
        flat, chart_faces, source, chart_of = _flatten(vertices, faces, direction, chart)
        texels = pack(flat, chart_of, size, size)
        # Looked at more closely than texels are: another packing may shift what is folded.
        zoom = 2 if size <= CLOSELY else 1
        height = np.einsum("fki,fi->f", vertices[faces], DIRECTIONS[direction])
        seen_first = np.argsort(-height, kind="stable")
        hidden = np.zeros(faces.shape[0], dtype=np.bool_)
        hidden[seen_first] = doubly_covered(zoom * texels, chart_faces[seen_first], zoom * size)
        if not hidden.any():
            return Charts(flat, chart_faces, source, chart_of, texels)
        rounds += 1
        if rounds >= CUTTING_ROUNDS:
            group = _alone(chart, hidden, group, whole=rounds >= LAST_ROUNDS)
        else:
            group = _cut_off(pairs, chart, hidden, group)


def chart_directions(normals: Floats, pairs: Ints) -> Ints:
    """The axis that each face is projected along, `[F]`, an index into DIRECTIONS."""
    count = normals.shape[0]
    ends = np.concatenate([pairs, pairs[:, ::-1]])
    graph = coo_array((np.ones(ends.shape[0]), (ends[:, 0], ends[:, 1])), shape=(count, count))
    graph = graph.tocsr()
    smooth = normals
    for _ in range(SMOOTHING):
        smooth = smooth + graph @ smooth
        smooth = smooth / np.maximum(np.linalg.norm(smooth, axis=1, keepdims=True), 1e-12)
    own = normals @ DIRECTIONS.T  # [F, 6]; the largest is at least 1/sqrt(3)
    return np.where(own >= LEAST_COSINE, smooth @ DIRECTIONS.T, own - 4.0).argmax(axis=1)


def without_crumbs(direction: Ints, normals: Floats, pairs: Ints) -> Ints:
    """The directions `[F]` with small charts given to neighbours that they can be projected with.

    Faces of charts below CRUMB take the direction that most of their neighbours have, counted by
    the size of the neighbours' charts, among those that foreshorten them to CRUMB_COSINE at most.
    """
    allowed = normals @ DIRECTIONS.T >= CRUMB_COSINE
    alone = np.zeros(len(direction), dtype=np.int64)
    ends = np.concatenate([pairs, pairs[:, ::-1]])
    for _ in range(CRUMB_ROUNDS):
        chart = _connected(pairs, direction, alone)
        size = np.bincount(chart)[chart]
        small = size < CRUMB
        if not small.any():
            break
        votes = np.zeros((len(direction), len(DIRECTIONS)))
        here, there = ends[small[ends[:, 0]]].T
        np.add.at(votes, (here, direction[there]), size[there])
        votes[~allowed] = 0.0
        direction = np.where(small & (votes.max(axis=1) > 0.0), votes.argmax(axis=1), direction)
    return direction


def separate(
    vertices: Floats, uv: Floats, faces: Ints, source: Ints, size: int
) -> tuple[Floats, Ints, Ints] | None:
    """An atlas (as `planar_charts` gives it) whose charts cover themselves, made to cover nothing
    twice; None where too much of it does.

    xatlas now and then leaves a small fold in a chart. The atlas makes room for a strip along its
    top, and faces on texels that an earlier face has move there, each as a chart of its own.
    """
    if not doubly_covered(uv * size, faces, size).any():
        return uv, faces, source
    strip = size // STRIP
    uv = uv * [1.0, 1.0 - strip / size]
    bad = np.nonzero(doubly_covered(uv * size, faces, size))[0]
    if bad.size == 0:  # seen at another height, nothing is folded
        return uv, faces, source
    if bad.size > FOLDED_SHARE * faces.shape[0]:
        return None
    corner = source[faces[bad]]
    a, b, c = np.moveaxis(vertices[corner], 1, 0)
    along = (b - a) / np.maximum(np.linalg.norm(b - a, axis=1, keepdims=True), 1e-12)
    x = np.einsum("nki,ni->nk", np.stack([a, b, c], axis=1) - a[:, None], along)
    y = np.zeros_like(x)
    y[:, 2] = np.linalg.norm(np.cross(along, c - a), axis=1)
    flat = np.stack([x, y], axis=-1).reshape(-1, 2)
    texels = pack(flat, np.repeat(np.arange(bad.size), 3), size, strip)
    texels[:, 1] += size - strip
    faces = faces.copy()
    faces[bad] = source.size + np.arange(3 * bad.size).reshape(-1, 3)
    used, compact = np.unique(faces, return_inverse=True)
    uv = np.concatenate([uv, texels / size])[used]
    return uv, compact.reshape(-1, 3), np.concatenate([source, corner.reshape(-1)])[used]


def pack(flat: Floats, chart_of: Ints, width: int, height: int) -> Floats:
    """Positions in texels `[W, 2]`, every chart in a rectangle of its own in `width x height`.

    flat: `[W, 2]` positions in the charts' own planes, world units, sorted by chart.
    chart_of: `[W]` ascending. One scale holds for all charts, the largest found that fits.
    """
    starts = np.nonzero(np.diff(chart_of, prepend=-1))[0]
    low = np.minimum.reduceat(flat, starts)
    flat = flat - low[chart_of]
    extent = np.maximum.reduceat(flat, starts)
    tall = extent[:, 1] > extent[:, 0]
    flat = np.where(  # a quarter turn lays tall charts down, which suits shelves
        tall[chart_of][:, None],
        np.stack([extent[chart_of, 1] - flat[:, 1], flat[:, 0]], axis=1),
        flat,
    )
    extent = np.where(tall[:, None], extent[:, ::-1], extent)
    order = np.argsort(-extent[:, 1], kind="stable")
    for padding in (2, 1, 0):
        scale = _best_scale(extent[order], width, height, padding)
        if scale > 0.0:
            corner = np.empty_like(extent)
            corner[order] = _shelves(_texels(extent[order], scale, padding), width, height)[0]
            return flat * scale + corner[chart_of] + padding
    raise ValueError(
        f"texture_size: {width} x {height} texels are too few for {starts.size} charts"
    )


def _best_scale(extent: Floats, width: int, height: int, padding: int) -> float:
    """The largest texels per unit found for which the charts fit, 0 if none does."""
    by_area = math.sqrt(width * height / max(float(extent.prod(axis=1).sum()), 1e-12))
    high = min(by_area, width / max(float(extent[:, 0].max()), 1e-12))
    low = 0.0
    for _ in range(PACKING_ROUNDS):
        middle = 0.5 * (low + high)
        if _shelves(_texels(extent, middle, padding), width, height)[1]:
            low = middle
        else:
            high = middle
    return low


def _texels(extent: Floats, scale: float, padding: int) -> Ints:
    """Whole texels that each chart takes with its padding, `[C, 2]`."""
    return np.maximum(np.ceil(extent * scale), 1.0).astype(np.int64) + 2 * padding


@njit(cache=True)
def _shelves(boxes, width, height):
    """Set boxes `[C, 2]`, highest first, side by side on shelves: corners, and whether they fit."""
    corner = np.zeros((boxes.shape[0], 2))
    x, y, shelf = 0, 0, 0
    for i in range(boxes.shape[0]):
        if x + boxes[i, 0] > width:
            x, y, shelf = 0, y + shelf, 0
        if boxes[i, 0] > width or y + boxes[i, 1] > height:
            return corner, False
        corner[i, 0], corner[i, 1] = x, y
        x += boxes[i, 0]
        shelf = max(shelf, boxes[i, 1])
    return corner, True


def _unit_normals(vertices: Floats, faces: Ints) -> Floats:
    a, b, c = np.moveaxis(vertices[faces], 1, 0)
    normals = np.cross(b - a, c - a)
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.where(length > 0.0, normals / np.maximum(length, 1e-300), DIRECTIONS[4])


def _connected(pairs: Ints, direction: Ints, group: Ints) -> Ints:
    """The chart of each face `[F]`: neighbours of the same direction and group, from 0."""
    count = direction.shape[0]
    a, b = pairs.T
    same = (direction[a] == direction[b]) & (group[a] == group[b])
    graph = coo_array((np.ones(int(same.sum())), (a[same], b[same])), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _flatten(
    vertices: Floats, faces: Ints, direction: Ints, chart: Ints
) -> tuple[Floats, Ints, Ints, Ints]:
    """Each chart's vertices in its plane: `[W, 2]`, faces `[F, 3]`, source `[W]`, chart `[W]`."""
    count = vertices.shape[0]
    key, corner = np.unique(chart[:, None] * count + faces, return_inverse=True)
    chart_of, source = key // count, key % count
    of_chart = np.empty(int(chart.max()) + 1, dtype=np.int64)
    of_chart[chart] = direction
    own = of_chart[chart_of]
    points = vertices[source]
    flat = np.stack([(points * FRAME_U[own]).sum(1), (points * FRAME_V[own]).sum(1)], axis=1)
    return flat, corner.reshape(-1, 3), source, chart_of


def _cut_off(pairs: Ints, chart: Ints, hidden: NDArray[np.bool_], group: Ints) -> Ints:
    """New groups `[F]`: faces that others of their chart hide are cut off, with their neighbours.

    A small overhang then costs a large chart little, where halves or quarters would cost it seams.
    """
    within = pairs[chart[pairs[:, 0]] == chart[pairs[:, 1]]]
    cut = hidden.copy()
    for one, two in (within.T, within.T[::-1]):
        cut[two[hidden[one]]] = True
    return np.where(cut, group + int(group.max()) + 1, group)


def _alone(chart: Ints, hidden: NDArray[np.bool_], group: Ints, whole: bool) -> Ints:
    """New groups `[F]`: each hidden face on its own, or (`whole`) each face of its chart."""
    alone = np.isin(chart, chart[hidden]) if whole else hidden
    group = group.copy()
    group[alone] = int(group.max()) + 1 + np.arange(int(alone.sum()))
    return group


@njit(cache=True)
def doubly_covered(texels, faces, size):
    """Faces that cover a texel centre which an earlier face covers as well."""
    owner = np.zeros((size, size), dtype=np.bool_)
    bad = np.zeros(faces.shape[0], dtype=np.bool_)
    for f in range(faces.shape[0]):
        ax, ay = texels[faces[f, 0]]
        bx, by = texels[faces[f, 1]]
        cx, cy = texels[faces[f, 2]]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area == 0.0:
            continue
        edge = 1e-5 * abs(area)  # centres on a shared edge belong to neither
        sign = 1.0 if area > 0.0 else -1.0
        for row in range(max(int(min(ay, by, cy)), 0), min(int(max(ay, by, cy)) + 1, size)):
            y = row + 0.5
            for col in range(max(int(min(ax, bx, cx)), 0), min(int(max(ax, bx, cx)) + 1, size)):
                x = col + 0.5
                e0 = sign * ((cx - bx) * (y - by) - (cy - by) * (x - bx))
                e1 = sign * ((ax - cx) * (y - cy) - (ay - cy) * (x - cx))
                e2 = sign * ((bx - ax) * (y - ay) - (by - ay) * (x - ax))
                if e0 > edge and e1 > edge and e2 > edge:
                    bad[f] = bad[f] or owner[row, col]
                    owner[row, col] = True
    return bad
