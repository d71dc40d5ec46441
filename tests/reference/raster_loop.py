"""Slow, obvious rasterization in float64: every pixel asks every face, every pair every edge."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

FAR_AWAY = 1e9


def screen_positions(clip: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pixel positions (x right, y down), z/w and w of clip positions `[V, 4]`."""
    x, y, z, w = clip.astype(np.float64).T
    return np.stack([(x / w + 1) * width / 2, (1 - y / w) * height / 2, z / w, w], axis=1)


def cross(a: np.ndarray, b: np.ndarray, p: np.ndarray) -> float:
    """Twice the signed area of the triangle a, b, p on the screen."""
    return float((b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0]))


def segment_distance(a: np.ndarray, b: np.ndarray, p: np.ndarray) -> float:
    """Distance of p from the segment a, b, in pixels."""
    ab = b[:2] - a[:2]
    t = np.clip(np.dot(p - a[:2], ab) / max(np.dot(ab, ab), 1e-30), 0, 1)
    return float(np.linalg.norm(a[:2] + t * ab - p))


def visible_faces_loop(
    clip: np.ndarray, faces: np.ndarray, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """One view `[V, 4]`: the face at each pixel centre, and how far from any edge it lies."""
    index = np.full((height, width), -1)
    margin = np.full((height, width), FAR_AWAY)
    points = screen_positions(clip, height, width)
    for row in range(height):
        for col in range(width):
            p, nearest = np.array([col + 0.5, row + 0.5]), 1.0
            for f, face in enumerate(faces):
                if (clip[face, 3] <= 1e-6).any():
                    continue
                a, b, c = points[face]
                distance = min(segment_distance(*e, p) for e in ((a, b), (b, c), (c, a)))
                margin[row, col] = min(margin[row, col], distance)
                weight = np.array([cross(b, c, p), cross(c, a, p), cross(a, b, p)])
                if weight.sum() == 0:
                    continue
                weight = weight / weight.sum()
                z = weight @ np.array([a[2], b[2], c[2]])
                if (weight >= 0).all() and -1 <= z < nearest:
                    nearest, index[row, col] = z, f
    return index, margin


def depth_loop(clip: np.ndarray, faces: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Clip w where each pixel's line of sight meets its face, 0 on the background."""
    height, width = index.shape
    depth = np.zeros((height, width))
    points = screen_positions(clip, height, width)
    for row, col in np.argwhere(index >= 0):
        a, b, c = points[faces[index[row, col]]]
        p = np.array([col + 0.5, row + 0.5])
        weight = np.array([cross(b, c, p), cross(c, a, p), cross(a, b, p)])
        weight = weight / weight.sum()
        depth[row, col] = 1 / (weight @ (1 / np.array([a[3], b[3], c[3]])))
    return depth


def silhouette_edges(points: np.ndarray, faces: np.ndarray) -> list[tuple[int, int, int]]:
    """Edges that end the surface on the screen: two vertices, and one on the surface's side."""
    thirds: dict[tuple[int, int], list[int]] = defaultdict(list)
    for face in faces:
        for i in range(3):
            a, b, c = (int(face[(i + k) % 3]) for k in range(3))
            thirds[min(a, b), max(a, b)].append(c)
    found = []
    for (a, b), third in thirds.items():
        sides = [cross(points[a], points[b], points[c]) for c in third]
        if len(third) != 2 or sides[0] * sides[1] > 0:
            found += [(a, b, c) for c in third]
    return found


def crossing_loop(
    edge: tuple[np.ndarray, np.ndarray, np.ndarray], inner: np.ndarray, outer: np.ndarray
) -> tuple[float, float] | None:
    """How far from `inner` to `outer` (pixel centres) an edge crosses, and its depth there."""
    a, b, c = edge
    along = 0 if inner[0] != outer[0] else 1
    across = 1 - along
    extent = np.abs(b - a)
    steep = extent[across] > extent[along] or (extent[0] == extent[1] and along == 0)
    low, high = sorted((a[across], b[across]))
    if not steep or not low <= inner[across] < high:
        return None
    t = (inner[across] - a[across]) / (b[across] - a[across])
    s = (a[along] + t * (b[along] - a[along]) - inner[along]) / (outer[along] - inner[along])
    # The surface must lie on the inner pixel's side: compare with a point far out on that side.
    beyond = inner + 1e4 * (inner - outer)
    if not 0 <= s <= 1 or cross(a, b, beyond) * cross(a, b, c) < 0:
        return None
    return s, 1 / ((1 - t) / a[3] + t / b[3])


def antialias_loop(
    image: np.ndarray, clip: np.ndarray, faces: np.ndarray, index: np.ndarray
) -> np.ndarray:
    """One view: `image` `[H, W, C]` blended across the silhouettes of what `index` shows."""
    height, width = index.shape
    points = screen_positions(clip, height, width)
    depth = np.where(index >= 0, depth_loop(clip, faces, index), FAR_AWAY)
    edges = silhouette_edges(points, faces)
    blends = []  # target, source, share
    for row in range(height):
        for col in range(width):
            for other in ((row, col + 1), (row + 1, col)):
                if other[0] == height or other[1] == width or index[row, col] == index[other]:
                    continue
                inner, outer = sorted(((row, col), other), key=lambda p: depth[p])
                ends = [np.array([p[1] + 0.5, p[0] + 0.5]) for p in (inner, outer)]
                crossings = [crossing_loop(tuple(points[list(e)]), *ends) for e in edges]
                reach = [c[0] for c in crossings if c is not None and c[1] < depth[outer]]
                if reach and max(reach) > 0.5:
                    blends.append((outer, inner, max(reach) - 0.5))
                elif reach:
                    blends.append((inner, outer, 0.5 - max(reach)))
    total = np.zeros((height, width))
    for target, _, share in blends:
        total[target] += share
    blended = image.astype(np.float64).copy()
    for target, source, share in blends:
        blended[target] += share / max(total[target], 1.0) * (image[source] - image[target])
    return blended
