"""Visibility: which face does each pixel see? A z-buffer, in as many twins as there are devices.

Screen positions are in pixels, x to the right and y down, so that the centre of pixel (row, col)
is (col + 0.5, row + 0.5). They are rounded to multiples of 2^-14 pixel: edge functions of such
numbers are exact in float64, so two faces that share an edge agree to the last bit on which side
of it a pixel centre lies. That, with the top-left rule, is what leaves no holes and no overlaps.
"""

from __future__ import annotations

import importlib.util
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from ..backends import (
    Twin,
    everywhere,
    first_line,
    module_of,
    numba_obstacle,
    pick,
    triton_obstacle,
)
from .zbuffer import (
    EDGE_STEP,
    GUARD,
    SUBPIXEL,
    W_EPS,
    face_index,
    nearest_torch,
    project_torch,
)

BAND = 16  # rows of a band, the unit of parallel work


def visible_faces(clip: Tensor, faces: Tensor, height: int, width: int) -> Tensor:
    """The face that each pixel centre sees, `[B, height, width]` int64, -1 for the background.

    clip: vertices in OpenGL clip space `[B, V, 4]` (float32 or float64).
    faces: int64 `[F, 3]`, shared by the B views; both orientations are visible.

    The nearest face in z/w wins, the lower face index among equals. A face with a vertex at
    w <= 1e-6 is dropped whole (keep cameras outside of the mesh); what lies before the near or
    behind the far plane is cut per pixel. A centre exactly on an edge belongs to the face to
    its right or below it (the top-left rule). Raises ValueError for other shapes and, on the CPU,
    for indices out of range.

    `twin` says whose z-buffer runs. nvdiffrast's rounds positions more coarsely and breaks ties its
    own way; the others agree but for depths that are equal to 2^-34.
    """
    _check(clip, faces, height, width)
    with torch.no_grad():
        if faces.shape[0] == 0 or clip.shape[0] == 0:
            shape = (clip.shape[0], height, width)
            return torch.full(shape, -1, dtype=torch.int64, device=clip.device)
        match twin(clip.device).name:
            case "numba":
                screen, valid = project(clip, height, width)
                index = _z_buffer(screen, valid, faces.contiguous().numpy(), height, width)
                return torch.from_numpy(index)
            case "nvdiffrast":
                return _visible_faces_nvdiffrast(clip, faces, height, width)
            case "triton":
                nearest = module_of(".triton_visibility", __package__).nearest
            case _:
                nearest = nearest_torch
        return face_index(nearest(*project_torch(clip, height, width), faces, height, width))


def twin(device: torch.device | str) -> Twin:
    """Which implementation finds the visible faces on a device, and why."""
    obstacles = {
        "numba": numba_obstacle,
        "triton": triton_obstacle,
        "nvdiffrast": nvdiffrast_obstacle,
        "torch": everywhere,
    }
    return pick("visibility", device, obstacles)


def project(clip: Tensor, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Screen positions and validity of vertices on the CPU: `[B, V, 4]` float64, `[B, V]` bool.

    The four are x and y in pixels on the 2^-14 grid, z/w, and w. A vertex at or behind the camera,
    or absurdly far off the screen, is not valid.
    """
    return _project(clip.detach().contiguous().numpy(), height, width)


def nvdiffrast_obstacle(device: torch.device) -> str | None:
    """Why nvdiffrast can't run on a device; asked by letting it draw one triangle."""
    if importlib.util.find_spec("nvdiffrast") is None:
        return "nvdiffrast isn't installed, and not needed"
    return "nvdiffrast needs CUDA" if device.type != "cuda" else _tried_nvdiffrast(device)


@cache
def _tried_nvdiffrast(device: torch.device) -> str | None:
    clip = torch.eye(4, device=device)[None, :3] * 3.0
    clip[..., 3], face = 1.0, torch.arange(3, device=device)[None]
    try:
        seen = _visible_faces_nvdiffrast(clip, face, 8, 8)
    except Exception as error:  # no compiler, or one that doesn't suit
        return f"nvdiffrast's CUDA code can't be built ({first_line(error)})"
    return None if bool((seen >= -1).all() & (seen == 0).any()) else "nvdiffrast draws nothing here"


def _check(clip: Tensor, faces: Tensor, height: int, width: int) -> None:
    if clip.ndim != 3 or clip.shape[2] != 4 or not clip.is_floating_point():
        raise ValueError(f"clip: expected float [B, V, 4], got {clip.dtype} {list(clip.shape)}")
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.dtype != torch.int64:
        raise ValueError(f"faces: expected int64 [F, 3], got {faces.dtype} {list(faces.shape)}")
    if height < 1 or width < 1:
        raise ValueError(f"height, width: expected at least 1 pixel, got {height} x {width}")
    if clip.device.type != "cpu":
        return
    if faces.shape[0] and (int(faces.min()) < 0 or int(faces.max()) >= clip.shape[1]):
        raise ValueError(
            f"faces: expected indices in [0, {clip.shape[1]}), "
            f"got {int(faces.min())} to {int(faces.max())}"
        )


@lru_cache(maxsize=8)
def _nvdiffrast_context(device: str) -> Any:
    import nvdiffrast.torch as dr  # pyright: ignore[reportMissingImports]

    return dr.RasterizeCudaContext(device=device)


def _visible_faces_nvdiffrast(clip: Tensor, faces: Tensor, height: int, width: int) -> Tensor:
    import nvdiffrast.torch as dr  # pyright: ignore[reportMissingImports]

    # Its first row is the bottom one, and its face indices start at 1.
    context = _nvdiffrast_context(str(clip.device))
    clip = clip.detach().float().contiguous()
    raster, _ = dr.rasterize(context, clip, faces.int().contiguous(), (height, width))
    return raster[..., 3].flip(1).long() - 1


def _z_buffer(
    screen: np.ndarray, valid: np.ndarray, faces: np.ndarray, height: int, width: int
) -> np.ndarray:
    """Bin the faces by bands of rows, then fill the bands, each one owned by one thread.

    Only the last step is worth threads; the others take a tenth of its time.
    """
    bands = -(-height // BAND)
    counts = _count_bins(screen, valid, faces, height, width, bands)
    starts = np.zeros(counts.size + 1, dtype=np.int64)
    np.cumsum(counts.reshape(-1), out=starts[1:])
    bins = _fill_bins(screen, valid, faces, height, width, bands, starts)
    return _fill_bands(screen, faces, height, width, bands, starts, bins)


@njit(cache=True)
def _project(clip, height, width):
    batch, count, _ = clip.shape
    screen = np.zeros((batch, count, 4))
    valid = np.zeros((batch, count), dtype=np.bool_)
    for n in range(batch * count):
        b, v = n // count, n % count
        w = np.float64(clip[b, v, 3])
        if not w > W_EPS:
            continue
        x = (np.float64(clip[b, v, 0]) / w + 1.0) * 0.5 * width
        y = (1.0 - np.float64(clip[b, v, 1]) / w) * 0.5 * height
        if abs(x) < GUARD and abs(y) < GUARD:
            screen[b, v, 0] = np.floor(x * SUBPIXEL + 0.5) / SUBPIXEL
            screen[b, v, 1] = np.floor(y * SUBPIXEL + 0.5) / SUBPIXEL
            screen[b, v, 2] = np.float64(clip[b, v, 2]) / w
            screen[b, v, 3] = w
            valid[b, v] = True
    return screen, valid


@njit(cache=True, inline="always")
def _centres_between(low, high, count):
    """The half-open range of pixels whose centres lie in [low, high], within [0, count)."""
    first = max(int(np.ceil(low - 0.5)), 0)
    last = min(int(np.floor(high - 0.5)) + 1, count)
    return first, last


@njit(cache=True)
def _bands_of(screen, valid, i, j, k, height, width):
    """The half-open range of bands that a face touches in one view, empty if it is not drawn."""
    if not (valid[i] and valid[j] and valid[k]):
        return 0, 0
    xs, ys = screen[:, 0], screen[:, 1]
    left, right = _centres_between(min(xs[i], xs[j], xs[k]), max(xs[i], xs[j], xs[k]), width)
    top, bottom = _centres_between(min(ys[i], ys[j], ys[k]), max(ys[i], ys[j], ys[k]), height)
    if left >= right or top >= bottom:
        return 0, 0
    return top // BAND, (bottom - 1) // BAND + 1


@njit(cache=True)
def _count_bins(screen, valid, faces, height, width, bands):
    counts = np.zeros((screen.shape[0], bands), dtype=np.int64)
    for b in range(screen.shape[0]):
        points, seen = screen[b], valid[b]
        for f in range(faces.shape[0]):
            i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
            first, last = _bands_of(points, seen, i, j, k, height, width)
            for band in range(first, last):
                counts[b, band] += 1
    return counts


@njit(cache=True)
def _fill_bins(screen, valid, faces, height, width, bands, starts):
    bins = np.empty(starts[-1], dtype=np.int32)
    for b in range(screen.shape[0]):
        points, seen = screen[b], valid[b]
        cursor = starts[b * bands : (b + 1) * bands].copy()
        for f in range(faces.shape[0]):  # ascending, so that ties keep the lower index
            i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
            first, last = _bands_of(points, seen, i, j, k, height, width)
            for band in range(first, last):
                bins[cursor[band]] = f
                cursor[band] += 1
    return bins


@njit(cache=True, inline="always")
def _threshold(dx, dy):
    """0 on a left or a top edge (a centre on it is inside), else just above 0."""
    return 0.0 if dy < 0.0 or (dy == 0.0 and dx > 0.0) else EDGE_STEP


@njit(cache=True)
def _fill_face(a, b, c, face, top, bottom, nearest, index):
    """Draw one face into rows [top, bottom), whose depths so far are `nearest`."""
    area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
    if area < 0.0:
        b, c, area = c, b, -area
    if not area > 0.0:
        return
    left, right = _centres_between(min(a[0], b[0], c[0]), max(a[0], b[0], c[0]), index.shape[1])
    low, high = _centres_between(min(a[1], b[1], c[1]), max(a[1], b[1], c[1]), bottom)
    dx0, dy0, dx1, dy1 = c[0] - b[0], c[1] - b[1], a[0] - c[0], a[1] - c[1]
    dx2, dy2 = b[0] - a[0], b[1] - a[1]
    min0, min1, min2 = _threshold(dx0, dy0), _threshold(dx1, dy1), _threshold(dx2, dy2)
    slope1, slope2 = (b[2] - a[2]) / area, (c[2] - a[2]) / area
    x = left + 0.5
    for row in range(max(low, top), high):
        y = row + 0.5
        # Edge functions at the first centre of the row; e0 is opposite of a, and so on.
        e0 = dx0 * (y - b[1]) - dy0 * (x - b[0])
        e1 = dx1 * (y - c[1]) - dy1 * (x - c[0])
        e2 = dx2 * (y - a[1]) - dy2 * (x - a[0])
        line = row - top
        for col in range(left, right):
            if e0 >= min0 and e1 >= min1 and e2 >= min2:
                z = a[2] + e1 * slope1 + e2 * slope2
                if z < nearest[line, col] and z >= -1.0:
                    nearest[line, col] = z
                    index[row, col] = face
            e0 -= dy0
            e1 -= dy1
            e2 -= dy2


@njit(cache=True, parallel=True)
def _fill_bands(screen, faces, height, width, bands, starts, bins):
    index = np.full((screen.shape[0], height, width), -1, dtype=np.int64)
    for task in prange(screen.shape[0] * bands):
        view, band = task // bands, task % bands
        top, bottom = band * BAND, min((band + 1) * BAND, height)
        # Starting at the far plane (z/w = 1) cuts off what lies behind it.
        nearest = np.full((bottom - top, width), 1.0 + 1e-12)
        for entry in range(starts[task], starts[task + 1]):
            f = bins[entry]
            points = screen[view]
            i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
            a = (points[i, 0], points[i, 1], points[i, 2])
            b = (points[j, 0], points[j, 1], points[j, 2])
            c = (points[k, 0], points[k, 1], points[k, 2])
            _fill_face(a, b, c, f, top, bottom, nearest, index[view])
    return index
