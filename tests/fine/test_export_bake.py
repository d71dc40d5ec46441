"""Baking: texel values in closed form, who owns a texel, and what fills the rest."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from maquette.common.scene.mesh import Mesh
from maquette.fine.export import bake as baking
from maquette.fine.export.bake import bake, texel_owners
from maquette.fine.export.unwrap import Unwrapped, unwrap

SIZE = 64


def square(low: float, high: float) -> Unwrapped:
    """A square of the texture; the surface point of texture point (u, v) is (2, u, v)."""
    uv = torch.tensor([[low, low], [high, low], [high, high], [low, high]])
    vertices = torch.cat([torch.full((4, 1), 2.0), uv], dim=1)
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    return Unwrapped(vertices, faces, uv, torch.arange(4), "fallback")


def ramp(points: Tensor) -> Tensor:
    """Blue is constant; red follows u and green follows v."""
    assert bool((points[:, 0] == 2.0).all())
    return torch.stack([points[:, 1], points[:, 2], torch.full_like(points[:, 0], 0.5)], dim=1)


def centres(size: int) -> tuple[np.ndarray, np.ndarray]:
    """u and v of texel centres as images with row 0 on top."""
    middle = (np.arange(size) + 0.5) / size
    return np.meshgrid(middle, middle[::-1])


def test_texels_hold_the_field_at_their_surface_point() -> None:
    low, high = 13.2 / SIZE, 47.7 / SIZE
    out = bake(square(low, high), SIZE, ramp)
    u, v = centres(SIZE)
    near_u, near_v = u.clip(low, high), v.clip(low, high)
    distance = np.hypot(u - near_u, v - near_v) * SIZE
    assert np.array_equal(out.mask, distance <= 2**0.5)
    assert out.mask.sum() > 34 * 34
    expected = np.stack([near_u, near_v, np.full_like(u, 0.5)], axis=-1) * 255
    error = np.abs(out.texture - expected)[out.mask]
    assert error.max() <= 0.5001
    # Beyond, the value of the nearest evaluated texel goes on, straight out of the sides.
    band = (v > low) & (v < high)
    assert np.abs(out.texture - expected)[band].max() <= 0.5001


def test_nothing_of_the_background_is_left() -> None:
    shape = trimesh.creation.icosphere(subdivisions=3)
    mesh = Mesh(torch.tensor(shape.vertices).float(), torch.tensor(shape.faces).long())
    for limit in (0.0, 60.0):
        out = bake(unwrap(mesh, limit, 256), 256, lambda p: 0.5 + 0.5 * p.abs().clamp(0, 1))
        assert not out.mask.all()
        assert out.texture.min() >= 127
        mip = out.texture.astype(float)
        while mip.shape[0] > 1:
            mip = mip.reshape(mip.shape[0] // 2, 2, -1, 2, 3).mean(axis=(1, 3))
            assert mip.min() >= 127.0
        constant = bake(unwrap(mesh, limit, 256), 256, lambda p: torch.full_like(p, 0.2))
        assert np.array_equal(np.unique(constant.texture), [51])


def slow_distance(corners: np.ndarray, point: np.ndarray) -> float:
    """Distance of a point to a triangle, from its definition."""
    weights = np.linalg.solve(np.vstack([corners.T, np.ones(3)]), [*point, 1.0])
    if (weights >= 0.0).all():
        return 0.0
    best = np.inf
    for i in range(3):
        a, b = corners[i], corners[(i + 1) % 3]
        t = np.clip(np.dot(point - a, b - a) / np.dot(b - a, b - a), 0.0, 1.0)
        best = min(best, float(np.linalg.norm(a + t * (b - a) - point)))
    return best


def test_texels_belong_to_the_nearest_face() -> None:
    size = 24
    corners = np.random.default_rng(1).random((7, 3, 2)) * size
    owner = texel_owners(corners, size)
    for y in range(size):
        for x in range(size):
            distances = np.array([slow_distance(c, np.array([x + 0.5, y + 0.5])) for c in corners])
            expected = int(distances.argmin()) if distances.min() <= 2**0.5 else -1
            assert owner[size - 1 - y, x] == expected


def test_weights_are_those_of_the_nearest_point() -> None:
    generator = np.random.default_rng(2)
    corners = generator.random((50, 3, 2)) * SIZE
    corners[:25, 2] = corners[:25, 1] + 1e-9 * generator.random((25, 2))  # all but flat
    row, column = generator.integers(0, SIZE, 50), generator.integers(0, SIZE, 50)
    weights = baking._nearest_weights(corners, np.arange(50, dtype=np.int32), row, column, SIZE)
    assert weights.min() >= 0.0
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, atol=1e-12)
    points = np.stack([column + 0.5, SIZE - row - 0.5], axis=1)
    found = np.linalg.norm(np.einsum("nk,nki->ni", weights, corners) - points, axis=1)
    expected = [slow_distance(c, p) for c, p in zip(corners, points, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_field_is_asked_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bake(square(0.1, 0.9), SIZE, ramp)
    monkeypatch.setattr(baking, "CHUNK", 100)
    calls = []

    def counted(points: Tensor) -> Tensor:
        calls.append(points.shape[0])
        return ramp(points)

    parts = bake(square(0.1, 0.9), SIZE, counted)
    assert max(calls) <= 100
    assert sum(calls) == whole.mask.sum()
    assert np.array_equal(parts.texture, whole.texture)


def test_colours_are_clamped_and_checked() -> None:
    out = bake(square(0.2, 0.8), SIZE, lambda p: p * torch.tensor([-1.0, 9.0, 0.0]))
    assert np.array_equal(out.texture[SIZE // 2, SIZE // 2], [0, 255, 0])
    with pytest.raises(ValueError, match="colours"):
        bake(square(0.2, 0.8), SIZE, lambda p: p[:, :2])
    with pytest.raises(ValueError, match="finite"):
        bake(square(0.2, 0.8), SIZE, lambda p: p / 0.0)
    with pytest.raises(ValueError, match="size"):
        bake(square(0.2, 0.8), 0, ramp)
