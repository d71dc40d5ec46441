"""From faces seen to values at pixels: the raster, its barycentrics, attributes, images.

Values are kept compact, one row a covered pixel (P of them), since most pixels are background:
shade `[P, C]`, then `scatter_image` once. Everything is differentiable; only the choice of the
face is not (`antialias` makes up for that).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from numba import njit, prange
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .. import rooms
from ..backends import Twin, everywhere, module_of, numba_obstacle, pick, triton_obstacle
from .visibility import visible_faces


@dataclass(frozen=True)
class Raster:
    """What B cameras see of one mesh.

    face_index: int64 `[B, H, W]`, the face at each pixel centre, -1 for the background.
    pixels: int64 `[P]`, the covered pixels in ascending order, as flat indices into `[B, H, W]`;
    rows that stay empty (`common.rooms`) come last and name the place past its end.
    face: int64 `[P]`, their faces.
    bary: `[P, 3]`, their perspective-correct barycentrics: in [0, 1], sum 1, differentiable.
    clip: `[B, V, 4]`, the vertices in clip space, differentiable.
    faces: int64 `[F, 3]`.
    """

    face_index: Tensor
    pixels: Tensor
    face: Tensor
    bary: Tensor
    clip: Tensor
    faces: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        """B, H and W."""
        batch, height, width = self.face_index.shape
        return batch, height, width

    @property
    def view(self) -> Tensor:
        """The view of each covered pixel, int64 `[P]`."""
        batch, height, width = self.shape
        return (self.pixels // (height * width)).clamp_max(batch - 1)

    @property
    def row(self) -> Tensor:
        """The row of each covered pixel (0 is the top), int64 `[P]`."""
        return self.pixels // self.shape[2] % self.shape[1]

    @property
    def col(self) -> Tensor:
        """The column of each covered pixel, int64 `[P]`."""
        return self.pixels % self.shape[2]

    @property
    def mask(self) -> Tensor:
        """1 where a face is seen, 0 on the background, `[B, H, W, 1]`; no gradient in itself."""
        return (self.face_index >= 0).to(self.bary.dtype)[..., None]

    @property
    def pixel_depth(self) -> Tensor:
        """Depth along the view axis (clip w, world units) of covered pixels, `[P]`."""
        return interpolate(self.clip[..., 3:], self)[:, 0]

    @property
    def depth(self) -> Tensor:
        """Depth along the view axis as an image `[B, H, W]`, 0 on the background."""
        return scatter_image(self.pixel_depth[:, None], self, self.bary.new_zeros(1))[..., 0]


def rasterize(vertices: Tensor, faces: Tensor, mvp: Tensor, height: int, width: int) -> Raster:
    """Rasterize one mesh for B cameras.

    vertices: `[V, 3]` world positions; faces: int64 `[F, 3]`; mvp: `[B, 4, 4]` world to clip
    (`Cameras.mvp(width / height)`). Gradients reach `vertices` and `mvp`. Raises ValueError for
    other shapes and, on the CPU, for positions that are not finite. See
    `visible_faces` for who sees what.
    """
    if vertices.ndim != 2 or vertices.shape[1] != 3:
        raise ValueError(f"vertices: expected [V, 3], got {list(vertices.shape)}")
    if mvp.ndim != 3 or mvp.shape[1:] != (4, 4):
        raise ValueError(f"mvp: expected [B, 4, 4], got {list(mvp.shape)}")
    clip = F.pad(vertices, (0, 1), value=1.0) @ mvp.transpose(1, 2)
    # On a GPU a look at values would stall it; there the step's own check of its gradient tells.
    if clip.device.type == "cpu" and not bool(torch.isfinite(clip).all()):
        raise ValueError("vertices, mvp: expected finite clip positions, got inf or nan")
    face_index = visible_faces(clip, faces, height, width)
    flat = face_index.view(-1)
    pixels = shown = rooms.places_of(flat >= 0, ("pixels", flat.shape[0]))
    if rooms.now() is not None:
        shown = pixels.clamp_max(flat.shape[0] - 1)
    face = flat[shown].clamp_min(0)
    bary = barycentrics(clip, faces, shown, face, height, width)
    return Raster(face_index, pixels, face, bary, clip, faces)


def barycentrics(
    clip: Tensor, faces: Tensor, pixels: Tensor, face: Tensor, height: int, width: int
) -> Tensor:
    """Perspective-correct barycentrics `[P, 3]` of pixel centres on their faces.

    clip `[B, V, 4]`, faces int64 `[F, 3]`; pixels (flat, ascending) and face int64 `[P]`.

    With `q_i = (x_i - w_i px, y_i - w_i py)`, the vertex seen from the pixel's line of sight
    (px, py in ndc), the weight of a vertex is the cross product of the other two, over the sum
    (Laine et al. 2020, section 3.3). Nothing is divided by w. Weights are clamped to [0, 1] for
    the pixels of faces thinner than the screen grid.
    """
    match twin(clip.device).name:
        case "numba":
            return _Barycentrics.apply(  # pyright: ignore[reportReturnType]
                clip, faces, pixels, face, height, width
            )
        case "triton":
            return _triton().barycentrics(clip, faces, pixels, face, height, width)
        case _:
            return barycentrics_torch(clip, faces, pixels, face, height, width)


def twin(device: torch.device | str) -> Twin:
    """Which implementation interpolates on a device, and why."""
    obstacles = {"numba": numba_obstacle, "triton": triton_obstacle, "torch": everywhere}
    return pick("interpolation", device, obstacles)


def _triton() -> Any:
    return module_of(".triton_interpolate", __package__)


def barycentrics_torch(
    clip: Tensor, faces: Tensor, pixels: Tensor, face: Tensor, height: int, width: int
) -> Tensor:
    """The plain twin of `barycentrics`, for any device."""
    view = pixels // (height * width)
    row, col = pixels // width % height, pixels % width
    px = (2.0 * col + 1.0).to(clip.dtype) / width - 1.0  # [P]
    py = 1.0 - (2.0 * row + 1.0).to(clip.dtype) / height
    corners = (faces[face] + (view * clip.shape[1])[:, None]).reshape(-1)
    corner = gather_rows(clip.reshape(-1, 4), corners).view(-1, 3, 4)  # [P, 3, 4]
    w = corner[..., 3]
    x0, x1, x2 = (corner[..., 0] - w * px[:, None]).unbind(-1)
    y0, y1, y2 = (corner[..., 1] - w * py[:, None]).unbind(-1)
    weight = torch.stack([x1 * y2 - x2 * y1, x2 * y0 - x0 * y2, x0 * y1 - x1 * y0], dim=-1)
    total = weight.sum(dim=-1, keepdim=True)
    flat = total == 0  # a face without area in the input's precision: its middle will do
    weight = torch.where(flat, torch.ones_like(weight), weight)
    bary = (weight / torch.where(flat, torch.full_like(total, 3.0), total)).clamp(0.0, 1.0)
    return bary / bary.sum(dim=-1, keepdim=True)


def interpolate(attributes: Tensor, raster: Raster) -> Tensor:
    """Attributes of vertices at the covered pixels, `[P, C]`.

    attributes: `[V, C]`, or `[B, V, C]` where they differ by view. Gradients reach `attributes`
    and, through the barycentrics, the positions of vertices.
    """
    corner = raster.faces[raster.face]  # [P, 3]
    batch, vertices, _ = raster.clip.shape
    if attributes.shape[:-1] == (batch, vertices):
        corner = corner + (raster.view * vertices)[:, None]
    elif attributes.shape[:-1] != (vertices,):
        expected = f"[{vertices}, C] or [{batch}, {vertices}, C]"
        raise ValueError(f"attributes: expected {expected}, got {list(attributes.shape)}")
    table = attributes.reshape(-1, attributes.shape[-1])
    name = twin(table.device).name if table.dtype == raster.bary.dtype else "torch"
    match name:
        case "numba":
            return _WeightedRows.apply(  # pyright: ignore[reportReturnType]
                table, corner, raster.bary
            )
        case "triton":
            return _triton().weighted_rows(table, corner, raster.bary)
        case _:
            return weighted_rows_torch(table, corner, raster.bary)


def weighted_rows_torch(table: Tensor, corner: Tensor, weight: Tensor) -> Tensor:
    """Sums of three weighted rows of a table, `[P, C]`: the plain twin behind `interpolate`.

    table `[N, C]`, corner int64 `[P, 3]`, weight `[P, 3]`.
    """
    value = gather_rows(table, corner.reshape(-1)).view(-1, 3, table.shape[1])
    return (value * weight[..., None]).sum(dim=1)


def scatter_image(values: Tensor, raster: Raster, background: Tensor) -> Tensor:
    """An image `[B, H, W, C]` from values at the covered pixels `[P, C]`.

    background: `[C]`, `[B, C]` or `[B, H, W, C]`, what the other pixels show. Gradients reach both.
    """
    batch, height, width = raster.shape
    if values.ndim != 2 or values.shape[0] != raster.pixels.shape[0]:
        expected = [raster.pixels.shape[0], "C"]
        raise ValueError(f"values: expected {expected}, got {list(values.shape)}")
    channels = values.shape[1]
    if background.shape == (batch, channels):
        background = background[:, None, None]
    elif background.shape not in ((channels,), (batch, height, width, channels)):
        expected = (
            f"[{channels}], [{batch}, {channels}] or [{batch}, {height}, {width}, {channels}]"
        )
        raise ValueError(f"background: expected {expected}, got {list(background.shape)}")
    canvas = background.expand(batch, height, width, channels).reshape(-1, channels)
    canvas = canvas.to(values.dtype)
    if rooms.now() is not None:
        canvas = F.pad(canvas, (0, 0, 0, 1))  # a place for rows that stay empty
    image = canvas.index_put((raster.pixels,), values)[: batch * height * width]
    return image.view(batch, height, width, channels)


@torch.no_grad()
def surface_image(points: Tensor, normals: Tensor, raster: Raster) -> Tensor:
    """What views see of a surface, `[B, H, W, 7]`: whether anything, its unit normal, the point.

    points, normals: of the covered pixels, `[P, 3]`. Zeros elsewhere, and outside the graph.
    """
    values = torch.cat([torch.ones_like(points[:, :1]), normals, points], dim=-1)
    return scatter_image(values, raster, values.new_zeros(values.shape[1]))


def gather_rows(table: Tensor, index: Tensor) -> Tensor:
    """Rows of a table, `[N, C]` at int64 `[M]` to `[M, C]`.

    The same as `table[index]`; on the CPU its backward adds in the order of `index`, in one fast
    loop, so that the bits of a gradient repeat.
    """
    rows: Tensor = _GatherRows.apply(table, index)  # pyright: ignore[reportAssignmentType]
    return rows


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, table: Tensor, index: Tensor) -> Tensor:  # pyright: ignore
        ctx.save_for_backward(index)
        ctx.rows = table.shape[0]
        return table.index_select(0, index)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):  # pyright: ignore
        (index,) = ctx.saved_tensors
        total = grad.new_zeros(ctx.rows, grad.shape[1])
        if grad.device.type != "cpu":
            return total.index_add_(0, index, grad), None
        _call(_add_rows, index, grad, total)
        return total, None


class _Barycentrics(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore
        ctx,
        clip: Tensor,
        faces: Tensor,
        pixels: Tensor,
        face: Tensor,
        height: int,
        width: int,
    ) -> Tensor:
        ctx.save_for_backward(clip, faces, pixels, face)
        ctx.size = (height, width)
        bary = clip.new_empty(pixels.shape[0], 3)
        _call(_bary_forward, clip, faces, pixels, face, height, width, bary)
        return bary

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):  # pyright: ignore
        clip, faces, pixels, face = ctx.saved_tensors
        height, width = ctx.size
        total = torch.zeros_like(clip, memory_format=torch.contiguous_format)
        # Pixels ascend, so those of a view lie together.
        ends = torch.arange(clip.shape[0] + 1) * (height * width)
        bounds = torch.searchsorted(pixels, ends)
        _call(_bary_backward, clip, faces, pixels, face, height, width, bounds, grad, total)
        return total, None, None, None, None, None


class _WeightedRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, table: Tensor, corner: Tensor, weight: Tensor) -> Tensor:  # pyright: ignore
        ctx.save_for_backward(table, corner, weight)
        value = table.new_empty(corner.shape[0], table.shape[1])
        _call(_rows_forward, table, corner, weight, value)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):  # pyright: ignore
        table, corner, weight = ctx.saved_tensors
        grad_table = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_table = torch.zeros_like(table, memory_format=torch.contiguous_format)
            _call(_rows_backward_table, corner, weight, grad, grad_table)
        if ctx.needs_input_grad[2]:
            grad_weight = torch.empty_like(weight, memory_format=torch.contiguous_format)
            _call(_rows_backward_weight, table, corner, grad, grad_weight)
        return grad_table, None, grad_weight


def _call(kernel: Callable[..., None], *arguments: Tensor | int) -> None:
    """Run a kernel on tensors as arrays. The last one is what it writes, and must be contiguous."""
    kernel(*(a.detach().contiguous().numpy() if isinstance(a, Tensor) else a for a in arguments))


@njit(cache=True)
def _add_rows(index, rows, total):
    for m in range(index.shape[0]):
        for c in range(rows.shape[1]):
            total[index[m], c] += rows[m, c]


@njit(cache=True, inline="always")
def _sight(pixel, height, width):
    """View, and the ndc position of a flat pixel's centre (float64, as all that follows)."""
    row, col = pixel // width % height, pixel % width
    return pixel // (height * width), (2 * col + 1) / width - 1.0, 1.0 - (2 * row + 1) / height


@njit(cache=True, inline="always")
def _ratios(clip, a, b, c, px, py):
    """Corners as seen along the line of sight, unclamped barycentrics, and their denominator."""
    x0, y0 = clip[a, 0] - clip[a, 3] * px, clip[a, 1] - clip[a, 3] * py
    x1, y1 = clip[b, 0] - clip[b, 3] * px, clip[b, 1] - clip[b, 3] * py
    x2, y2 = clip[c, 0] - clip[c, 3] * px, clip[c, 1] - clip[c, 3] * py
    w0, w1, w2 = x1 * y2 - x2 * y1, x2 * y0 - x0 * y2, x0 * y1 - x1 * y0
    total = w0 + w1 + w2
    if total == 0:
        return (x0, x1, x2), (y0, y1, y2), (1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0), total
    return (x0, x1, x2), (y0, y1, y2), (w0 / total, w1 / total, w2 / total), total


@njit(cache=True, parallel=True)
def _bary_forward(clip, faces, pixels, face, height, width, bary):
    for p in prange(pixels.shape[0]):
        view, px, py = _sight(pixels[p], height, width)
        a, b, c = faces[face[p], 0], faces[face[p], 1], faces[face[p], 2]
        _, _, ratio, _ = _ratios(clip[view], a, b, c, px, py)
        r0, r1, r2 = _unit(ratio[0]), _unit(ratio[1]), _unit(ratio[2])
        total = r0 + r1 + r2
        bary[p, 0], bary[p, 1], bary[p, 2] = r0 / total, r1 / total, r2 / total


@njit(cache=True, parallel=True)
def _bary_backward(clip, faces, pixels, face, height, width, bounds, grad, total_grad):
    for view in prange(clip.shape[0]):  # a view owns its rows of the gradient
        out = total_grad[view]
        for p in range(bounds[view], bounds[view + 1]):
            _, px, py = _sight(pixels[p], height, width)
            f = face[p]
            corner = (faces[f, 0], faces[f, 1], faces[f, 2])
            x, y, ratio, total = _ratios(clip[view], corner[0], corner[1], corner[2], px, py)
            if total == 0:
                continue
            unit = (_unit(ratio[0]), _unit(ratio[1]), _unit(ratio[2]))
            g = (grad[p, 0], grad[p, 1], grad[p, 2])
            # Back through the renormalization, the clamp, the division and the cross products.
            scale = unit[0] + unit[1] + unit[2]
            mean = (g[0] * unit[0] + g[1] * unit[1] + g[2] * unit[2]) / scale
            g0 = (g[0] - mean) / scale if unit[0] == ratio[0] else 0.0
            g1 = (g[1] - mean) / scale if unit[1] == ratio[1] else 0.0
            g2 = (g[2] - mean) / scale if unit[2] == ratio[2] else 0.0
            mean = g0 * ratio[0] + g1 * ratio[1] + g2 * ratio[2]
            g0, g1, g2 = (g0 - mean) / total, (g1 - mean) / total, (g2 - mean) / total
            gx = (g2 * y[1] - g1 * y[2], g0 * y[2] - g2 * y[0], g1 * y[0] - g0 * y[1])
            gy = (g1 * x[2] - g2 * x[1], g2 * x[0] - g0 * x[2], g0 * x[1] - g1 * x[0])
            for i in range(3):
                out[corner[i], 0] += gx[i]
                out[corner[i], 1] += gy[i]
                out[corner[i], 3] -= gx[i] * px + gy[i] * py


@njit(cache=True, inline="always")
def _unit(value):
    """Clamped to [0, 1]."""
    return min(max(value, 0.0), 1.0)


@njit(cache=True)
def _rows_forward(table, corner, weight, value):
    for p in range(corner.shape[0]):
        i, j, k = corner[p, 0], corner[p, 1], corner[p, 2]
        for c in range(table.shape[1]):
            value[p, c] = (
                weight[p, 0] * table[i, c] + weight[p, 1] * table[j, c] + weight[p, 2] * table[k, c]
            )


@njit(cache=True)
def _rows_backward_table(corner, weight, grad, total):
    for p in range(corner.shape[0]):
        for i in range(3):
            for c in range(grad.shape[1]):
                total[corner[p, i], c] += weight[p, i] * grad[p, c]


@njit(cache=True)
def _rows_backward_weight(table, corner, grad, total):
    for p in range(corner.shape[0]):
        for i in range(3):
            dot = grad[p, 0] * table[corner[p, i], 0]
            for c in range(1, grad.shape[1]):
                dot += grad[p, c] * table[corner[p, i], c]
            total[p, i] = dot
