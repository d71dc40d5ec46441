"""The first shape of densities whose surface is known, and of scenes that have collapsed."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from maquette.common.config.fields import HashGridConfig
from maquette.common.config.models import HandoffConfig
from maquette.common.errors import UserError
from maquette.common.fields.field import HashField
from maquette.common.runs.coarse_result import CoarseResult
from maquette.common.scene.cameras import sphere_views
from maquette.fine.first_shape import (
    FIRST,
    FirstShape,
    HandoffReport,
    check_collapse,
    from_coarse,
    read_first,
    silhouette_iou,
    write_first,
)
from maquette.fine.model import FineModel
from maquette.fine.tetgrid import TetGrid
from maquette.fine.texture import Texture

CELLS, RADIUS, VIEWS, SIZE = 48, 0.6, 16, 64
STRAY = (np.array([0.75, 0.75, 0.6]), 0.12)  # a floater: centre and radius
CONFIG = HandoffConfig(resolution=CELLS, views=VIEWS, view_resolution=SIZE)
GRID = TetGrid(32)
COLOR = HashField(
    HashGridConfig(levels=2, log2_entries=8, base_resolution=4, finest_resolution=8), 8, 3
)


def lattice() -> np.ndarray:
    line = np.linspace(-1, 1, CELLS + 1)
    return np.stack(np.meshgrid(line, line, line, indexing="ij"), axis=-1)


def blurred(distance: np.ndarray, height: float = 60.0, width: float = 0.03) -> np.ndarray:
    """A density that climbs from 0 to `height` where a signed distance passes 0."""
    return height / (1 + np.exp(np.clip(distance / width, -50, 50)))


def opacity_of(*balls: tuple[np.ndarray, float]) -> Tensor:
    """What views of opaque balls show, `[VIEWS, SIZE, SIZE]`."""
    origins, directions = sphere_views(VIEWS).rays(SIZE, SIZE)
    seen = torch.zeros(VIEWS, SIZE, SIZE)
    for centre, radius in balls:
        towards = torch.tensor(centre).float() - origins
        along = (towards * directions).sum(dim=-1)
        seen[(towards**2).sum(dim=-1) - along**2 < radius**2] = 1.0
    return seen


def handed(density: np.ndarray, opacity: Tensor) -> CoarseResult:
    return CoarseResult(
        inside=torch.tensor(density, dtype=torch.float32),
        levels=(0.5, 500.0),
        images=torch.zeros(VIEWS, SIZE, SIZE, 3, dtype=torch.uint8),
        opacity=opacity,
        background=torch.tensor([0.1, 0.2, 0.3]),
        color=COLOR,
    )


def first_of(result: CoarseResult, config: HandoffConfig = CONFIG) -> tuple[Tensor, HandoffReport]:
    """The distance of the first shape, and the report."""
    shape, report = from_coarse(result, GRID, config)
    assert shape.color is COLOR
    assert torch.equal(shape.background, result.background)
    return shape.distance, report


MIDDLE = np.zeros(3)


def ball_density() -> np.ndarray:
    return blurred(np.linalg.norm(lattice(), axis=-1) - RADIUS)


@pytest.fixture(scope="module")
def plain():
    return first_of(handed(ball_density(), opacity_of((MIDDLE, RADIUS))))


def mesh_of(distance: Tensor):
    return FineModel(GRID, distance, Texture(torch.nn.Identity())).mesh()  # type: ignore[arg-type]


def test_the_level_is_the_one_whose_silhouette_fits(plain) -> None:
    distance, report = plain
    assert report.search_iou > 0.97
    mesh = mesh_of(distance)
    radii = mesh.vertices.norm(dim=-1)
    cell = 2 / CELLS
    assert float(radii.mean()) == pytest.approx(RADIUS, abs=0.4 * cell)
    assert float(radii.std()) < 0.2 * cell
    assert silhouette_iou(mesh.vertices, mesh.faces, opacity_of((MIDDLE, RADIUS))) > 0.97


@pytest.mark.parametrize("seen", [0.5, 0.56, 0.66])
def test_the_level_follows_the_opacity_not_a_fixed_threshold(seen: float) -> None:
    """One and the same fog, shown as smaller or larger: the surface goes where the views say."""
    fog = blurred(np.linalg.norm(lattice(), axis=-1) - 0.6, height=80.0, width=0.06)
    distance, _ = first_of(handed(fog, opacity_of((MIDDLE, seen))))
    radius = float(mesh_of(distance).vertices.norm(dim=-1).mean())
    assert radius == pytest.approx(seen, abs=0.025)


def test_the_distance_is_a_distance_near_the_surface(plain) -> None:
    distance, _ = plain
    true = (GRID.vertices().norm(dim=-1) - RADIUS) / GRID.cell_size
    near = true.abs() < 3
    torch.testing.assert_close(distance[near], true[near], atol=0.3, rtol=0)
    # Not stairs: distances take many values, and the slope is one.
    assert torch.unique(distance[near].round(decimals=3)).numel() > 200
    slope = np.polyfit(true[near].numpy(), distance[near].numpy(), 1)[0]
    assert slope == pytest.approx(1.0, abs=0.05)
    clear = true.abs() > 0.3
    assert torch.equal(distance[clear] < 0, true[clear] < 0)


def test_floaters_are_removed_in_the_volume() -> None:
    centre, radius = STRAY
    density = ball_density() + blurred(np.linalg.norm(lattice() - centre, axis=-1) - radius)
    opacity = opacity_of((MIDDLE, RADIUS), STRAY)
    distance, report = first_of(handed(density, opacity))
    assert (report.parts, report.kept) == (2, 1)
    assert 0.001 < report.removed_share < 0.03
    at = (GRID.vertices() - torch.tensor(centre).float()).norm(dim=-1) < 1.5 * radius
    assert float(distance[at].min()) > 1.0
    assert solid_parts(distance) == 1
    # A part that is large enough stays.
    keep = HandoffConfig(resolution=CELLS, views=VIEWS, view_resolution=SIZE, keep_share=0.001)
    distance, report = first_of(handed(density, opacity), keep)
    assert (report.parts, report.kept, report.removed_share) == (2, 2, 0.0)
    assert solid_parts(distance) == 2


def solid_parts(distance: Tensor) -> int:
    mesh = mesh_of(distance)
    whole = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)
    assert whole.is_watertight
    return whole.body_count


def test_a_hollow_shell_becomes_solid() -> None:
    radius = np.linalg.norm(lattice(), axis=-1)
    shell = blurred(np.abs(radius - 0.52) - 0.08)
    distance, _ = first_of(handed(shell, opacity_of((MIDDLE, RADIUS))))
    inside = GRID.vertices().norm(dim=-1) < 0.4
    assert float(distance[inside].max()) < 0
    assert solid_parts(distance) == 1
    assert float(mesh_of(distance).vertices.norm(dim=-1).mean()) == pytest.approx(RADIUS, abs=0.02)


def complaint(density: np.ndarray, opacity: Tensor) -> str:
    with pytest.raises(UserError) as caught:
        first_of(handed(density, opacity))
    text = str(caught.value)
    assert "\n" not in text
    assert "the coarse stage has collapsed" in text
    assert "--seed" in text
    return text


def test_an_empty_scene_is_told() -> None:
    nothing = torch.zeros(VIEWS, SIZE, SIZE)
    assert "it is empty" in complaint(np.zeros((CELLS + 1,) * 3), nothing)
    # Fog that no ray is stopped by is as good as nothing.
    fog = np.full((CELLS + 1,) * 3, 0.05)
    assert "it is empty" in complaint(fog, torch.full((VIEWS, SIZE, SIZE), 0.1))


def test_a_scene_that_fills_everything_is_told() -> None:
    full = np.full((CELLS + 1,) * 3, 30.0)
    assert "fills the whole sphere" in complaint(full, torch.ones(VIEWS, SIZE, SIZE))
    sphere = opacity_of((MIDDLE, 1.0))
    assert "fills the whole sphere" in complaint(full, sphere)
    with pytest.raises(UserError, match="fills"):
        check_collapse(sphere)


def test_a_large_object_has_not_collapsed() -> None:
    check_collapse(opacity_of((MIDDLE, 0.88)))
    check_collapse(opacity_of((MIDDLE, 0.08)))


@pytest.mark.parametrize("where", ["nowhere", "faces"])
def test_opacity_without_a_solid_is_told(where: str) -> None:
    """Views that show something which the lattice doesn't hold, or holds on its faces alone."""
    density = np.zeros((CELLS + 1,) * 3)
    if where == "faces":
        density[0] = density[-1] = 500.0
    text = complaint(density, opacity_of((MIDDLE, RADIUS)))
    assert "no solid part" in text


def test_silhouettes_of_a_known_mesh() -> None:
    ball = trimesh.creation.icosphere(subdivisions=4, radius=RADIUS)
    vertices, faces = torch.tensor(ball.vertices).float(), torch.tensor(ball.faces).long()
    assert silhouette_iou(vertices, faces, opacity_of((MIDDLE, RADIUS))) > 0.97
    small = silhouette_iou(vertices * 0.5, faces, opacity_of((MIDDLE, RADIUS)))
    near, far = 0.25 * RADIUS**2, RADIUS**2
    wanted = (near / (9 - near)) / (far / (9 - far))
    assert small == pytest.approx(wanted, rel=0.05)


def test_a_scene_that_knows_its_distance_needs_no_search() -> None:
    distance = torch.tensor(np.linalg.norm(lattice(), axis=-1) - RADIUS, dtype=torch.float32)
    result = CoarseResult(
        distance=distance,
        images=torch.zeros(VIEWS, SIZE, SIZE, 3, dtype=torch.uint8),
        opacity=opacity_of((MIDDLE, RADIUS)),
        background=torch.zeros(3),
        color=COLOR,
    )
    found, report = first_of(result)
    true = (GRID.vertices().norm(dim=-1) - RADIUS) / GRID.cell_size
    near = true.abs() < 3
    torch.testing.assert_close(found[near], true[near], atol=0.05, rtol=0)
    assert (report.parts, report.kept, report.removed_share) == (1, 1, 0.0)
    assert solid_parts(found) == 1
    mesh = mesh_of(found)
    solid = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)
    assert solid.is_watertight
    assert solid.is_winding_consistent
    assert solid.volume == pytest.approx(4 / 3 * math.pi * RADIUS**3, rel=0.02)
    radius = mesh.vertices.norm(dim=-1) / GRID.cell_size
    torch.testing.assert_close(
        radius, torch.full_like(radius, RADIUS / GRID.cell_size), atol=0.08, rtol=0
    )
    with pytest.raises(ValueError, match="one of the two"):
        dataclasses.replace(result, distance=None)
    with pytest.raises(ValueError, match="one of the two"):
        dataclasses.replace(result, inside=torch.zeros(2, 2, 2))


def test_a_signed_distance_is_rid_of_floaters_and_voids_too() -> None:
    centre, radius = STRAY
    distance = np.minimum(
        np.abs(np.linalg.norm(lattice(), axis=-1) - 0.45) - 0.15,  # a hollow ball
        np.linalg.norm(lattice() - centre, axis=-1) - radius,
    )
    result = CoarseResult(
        distance=torch.tensor(distance, dtype=torch.float32),
        images=torch.zeros(VIEWS, SIZE, SIZE, 3, dtype=torch.uint8),
        opacity=opacity_of((MIDDLE, RADIUS), STRAY),
        background=torch.zeros(3),
        color=COLOR,
    )
    found, report = first_of(result)
    assert (report.parts, report.kept) == (2, 1)
    assert solid_parts(found) == 1
    assert float(found[GRID.vertices().norm(dim=-1) < 0.5].max()) < 0.0
    true = (GRID.vertices().norm(dim=-1) - RADIUS) / GRID.cell_size
    near = true.abs() < 1.5
    torch.testing.assert_close(found[near], true[near], atol=0.1, rtol=0)
    with pytest.raises(UserError, match="no solid part"):
        first_of(dataclasses.replace(result, distance=torch.ones(CELLS + 1, CELLS + 1, CELLS + 1)))


def test_a_first_shape_is_read_as_it_was_written(tmp_path: Path) -> None:
    shape = FirstShape(torch.randn(27), COLOR, torch.rand(3))
    write_first(tmp_path, shape)
    again = read_first(tmp_path)
    assert torch.equal(again.distance, shape.distance)
    assert torch.equal(again.background, shape.background)
    assert again.color.grid.config == COLOR.grid.config
    state = COLOR.state_dict()
    assert again.color.state_dict().keys() == state.keys()
    assert all(torch.equal(again.color.state_dict()[key], state[key]) for key in state)
    points = torch.rand(40, 3) * 2 - 1
    assert torch.equal(again.color(points), COLOR(points))
    (tmp_path / FIRST).write_bytes(b"no tensors")
    with pytest.raises(UserError, match="no readable first shape"):
        read_first(tmp_path)
