"""Shapes recovered from images alone: what the rasterizer's gradients are for."""

from __future__ import annotations

import math

import numpy as np
import torch
import trimesh
from torch import Tensor

from maquette.common.rasterize import antialias, interpolate, rasterize, scatter_image
from maquette.common.scene.cameras import sphere_views

SIZE = 64


def silhouettes(vertices: Tensor, faces: Tensor, mvp: Tensor) -> Tensor:
    raster = rasterize(vertices, faces, mvp, SIZE, SIZE)
    return antialias(raster.mask, raster)


def test_a_moved_and_scaled_sphere_is_recovered_from_silhouettes() -> None:
    mesh = trimesh.creation.icosphere(subdivisions=3)
    unit = torch.tensor(mesh.vertices, dtype=torch.float32)
    faces = torch.tensor(np.array(mesh.faces))
    mvp = sphere_views(6).mvp()
    true_centre, true_radius = torch.tensor([0.22, -0.17, 0.13]), 0.52
    target = silhouettes(true_centre + true_radius * unit, faces, mvp)

    centre = torch.zeros(3, requires_grad=True)
    radius = torch.tensor(0.8, requires_grad=True)
    optimizer = torch.optim.Adam([centre, radius], lr=0.03)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.96)
    for _ in range(100):
        optimizer.zero_grad()
        loss = (silhouettes(centre + radius * unit, faces, mvp) - target).square().mean()
        loss.backward()
        optimizer.step()
        schedule.step()
    assert (centre - true_centre).norm() < 0.01 * true_radius
    assert abs(float(radius.detach()) - true_radius) < 0.01 * true_radius


def rotation(vector: Tensor) -> Tensor:
    """The rotation matrix of an axis times an angle in radians."""
    x, y, z = vector
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).view(3, 3)
    return torch.linalg.matrix_exp(skew)


def coloured_cube() -> tuple[Tensor, Tensor, Tensor]:
    """Vertices, faces and one colour a face; two triangles make a side."""
    box = trimesh.creation.box((0.9, 0.9, 0.9))
    sides = np.abs(box.face_normals).argmax(axis=1) * 2 + (box.face_normals.sum(axis=1) > 0)
    palette = torch.tensor(
        [
            [0.9, 0.1, 0.1],
            [0.1, 0.8, 0.2],
            [0.1, 0.2, 0.9],
            [0.9, 0.8, 0.1],
            [0.7, 0.1, 0.8],
            [0.1, 0.8, 0.8],
        ]
    )
    return (
        torch.tensor(box.vertices, dtype=torch.float32),
        torch.tensor(np.array(box.faces)),
        palette[torch.tensor(sides)],
    )


def test_a_cube_pose_is_recovered_from_images() -> None:
    # Sides share no vertices: each edge then ends a side, and blends its colour into the next.
    vertices, faces, colour = coloured_cube()
    corners, faces = vertices[faces].reshape(-1, 3), torch.arange(faces.numel()).view(-1, 3)
    colours = colour.repeat_interleave(3, dim=0)
    mvp = sphere_views(4).mvp()

    def render(turn: Tensor, shift: Tensor) -> Tensor:
        raster = rasterize(corners @ rotation(turn).T + shift, faces, mvp, SIZE, SIZE)
        image = scatter_image(interpolate(colours, raster), raster, torch.ones(3))
        return antialias(image, raster)

    true_turn, true_shift = torch.tensor([0.5, -0.3, 0.4]), torch.tensor([0.15, 0.1, -0.2])
    target = render(true_turn, true_shift)
    turn = torch.zeros(3, requires_grad=True)
    shift = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.Adam([turn, shift], lr=0.04)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.97)
    for _ in range(150):
        optimizer.zero_grad()
        (render(turn, shift) - target).square().mean().backward()
        optimizer.step()
        schedule.step()
    between = rotation(turn.detach()).T @ rotation(true_turn)
    angle = math.degrees(math.acos(min(1.0, (float(between.trace()) - 1) / 2)))
    assert angle < 1.0
    assert (shift - true_shift).norm() < 0.01
