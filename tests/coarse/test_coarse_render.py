"""Rendering fields whose picture is known: an opaque ball, a ball of fog, and nothing."""

from __future__ import annotations

from typing import cast

import pytest
import torch
import trimesh
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.coarse import render
from maquette.coarse.background import Background
from maquette.coarse.field import RadianceField
from maquette.coarse.occupancy import Occupancy
from maquette.coarse.render import Rendered, render_views
from maquette.common.config.models import BackgroundConfig, OccupancyConfig
from maquette.common.rasterize import visible_faces
from maquette.common.scene.cameras import Cameras, orbit
from maquette.common.scene.shading import ALBEDO, TEXTURELESS, Lights, headlights

RADIUS, SIZE, SAMPLES = 0.7, 40, 160
STEP = 2 / SAMPLES
BEHIND = (0.1, 0.8, 0.3)


class Ball(nn.Module):
    """Density inside a radius, albedo by place: red grows with x, green with y, blue with z."""

    def __init__(self, density: float, learns: bool = False) -> None:
        super().__init__()
        self.amount = nn.Parameter(torch.tensor(density), requires_grad=learns)

    def density(self, points: Tensor) -> Tensor:
        return self.amount * (points.norm(dim=-1) < RADIUS).float()

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        return self.density(points), 0.5 + 0.4 * points

    def normals(self, points: Tensor, eps: float) -> Tensor:
        return F.normalize(points, dim=-1)


def grid(full: bool = True) -> Occupancy:
    occupancy = Occupancy(OccupancyConfig(resolution=16), SAMPLES)
    occupancy.estimator.binaries.fill_(full)
    return occupancy


def seen(
    field: Ball,
    cameras: Cameras,
    lights: Lights | None = None,
    occupancy: Occupancy | None = None,
    training: bool = False,
) -> Rendered:
    count = len(cameras)
    return render_views(
        cast(RadianceField, field),
        Background(BackgroundConfig(kind="solid", color=BEHIND)),
        occupancy or grid(),
        cameras,
        lights or Lights(cameras.position, torch.ones(count), torch.full((count,), ALBEDO)),
        SIZE,
        training,
    )


def chords(cameras: Cameras) -> tuple[Tensor, Tensor]:
    """Length of each ray inside the ball, and distance to where it enters, `[B, H, W]`."""
    origins, directions = cameras.rays(SIZE, SIZE)
    middle = -(origins * directions).sum(dim=-1)
    half = (RADIUS**2 - (origins**2).sum(dim=-1) + middle**2).clamp_min(0).sqrt()
    return 2 * half, middle - half


def test_an_opaque_ball_has_its_silhouette_depth_and_colors() -> None:
    cameras = orbit(3)
    found = seen(Ball(2000.0), cameras)
    chord, enters = chords(cameras)
    hit, miss = chord > 4 * STEP, chord == 0
    assert float(found.opacity[hit].min()) > 0.999
    assert float(found.opacity[miss].abs().max()) == 0.0
    # The first sample inside stops the ray, somewhere in the step that crosses the surface.
    late = found.depth[hit] - enters[hit]
    assert float(late.min()) > -0.51 * STEP
    assert float(late.max()) < 1.01 * STEP
    origins, directions = cameras.rays(SIZE, SIZE)
    wanted = 0.5 + 0.4 * (origins + enters[..., None] * directions)
    torch.testing.assert_close(found.image[hit], wanted[hit], atol=0.4 * 1.5 * STEP, rtol=0)
    torch.testing.assert_close(found.image[miss], torch.tensor(BEHIND).expand_as(wanted)[miss])


def test_the_nerf_and_the_rasterizer_see_the_same_silhouette() -> None:
    cameras = orbit(4, elevation_deg=25.0)
    sphere = trimesh.creation.icosphere(subdivisions=4, radius=RADIUS)
    vertices = torch.tensor(sphere.vertices).float()
    clip = F.pad(vertices, (0, 1), value=1.0) @ cameras.mvp().transpose(1, 2)
    mask = visible_faces(clip, torch.tensor(sphere.faces).long(), SIZE, SIZE) >= 0
    opaque = seen(Ball(2000.0), cameras).opacity > 0.5
    union = (mask | opaque).sum()
    assert float((mask & opaque).sum() / union) > 0.98


def test_fog_is_as_opaque_as_its_chord_is_long() -> None:
    cameras = orbit(2)
    for density in (0.5, 3.0):
        found = seen(Ball(density), cameras)
        chord, _ = chords(cameras)
        wanted = 1 - torch.exp(-density * chord)
        # Of the two ends of a chord each is off by half a step at most.
        torch.testing.assert_close(found.opacity, wanted, atol=density * STEP, rtol=0)
        behind = (1 - found.opacity)[..., None] * torch.tensor(BEHIND)
        assert bool((found.image >= behind - 1e-5).all())


def test_the_gradient_of_fog_is_that_of_its_closed_form() -> None:
    cameras, field = orbit(1), Ball(0.8, learns=True)
    found = seen(field, cameras)
    chord, _ = chords(cameras)
    found.opacity.sum().backward()
    wanted = float((chord * torch.exp(-0.8 * chord)).sum())
    assert field.amount.grad is not None
    assert float(field.amount.grad) == pytest.approx(wanted, rel=0.02)


def test_one_surface_point_a_ray_is_shaded() -> None:
    cameras = orbit(2)
    lights = headlights(cameras.position, ambient=0.2)
    found = seen(Ball(2000.0), cameras, lights)
    chord, enters = chords(cameras)
    origins, directions = cameras.rays(SIZE, SIZE)
    points = origins + enters[..., None] * directions
    facing = (F.normalize(points, dim=-1) * F.normalize(origins - points, dim=-1)).sum(-1)
    wanted = (0.5 + 0.4 * points) * (0.2 + 0.8 * facing)[..., None]
    hit = chord > 0.3
    torch.testing.assert_close(found.image[hit], wanted[hit], atol=0.06, rtol=0)
    assert float((found.image[hit] - wanted[hit]).abs().mean()) < 0.01
    # What the orientation loss is told: unit normals that face the camera, and their rays.
    count = int((found.opacity > 0.05).sum())
    assert found.normals.shape == found.directions.shape == (count, 3)
    assert found.hit_opacity.shape == (count,)
    assert float((found.normals * found.directions).sum(dim=-1).max()) < 0.1


def test_fog_is_shaded_where_its_light_comes_from_on_average() -> None:
    cameras, density = orbit(1), 4.0
    found = seen(Ball(density), cameras, headlights(cameras.position, ambient=0.2))
    chord, enters = chords(cameras)
    hit = found.opacity > 0.05
    length = chord[hit]
    # The mean of an exponential distribution that is cut off at the chord's length.
    passed = torch.exp(-density * length)
    mean = enters[hit] + 1 / density - length * passed / (1 - passed)
    origins, directions = cameras.rays(SIZE, SIZE)
    wanted = F.normalize(origins[hit] + mean[:, None] * directions[hit], dim=-1)
    cosine = (found.normals * wanted).sum(dim=-1)[length > 0.4]
    assert cosine.numel() > 100
    assert float(cosine.min()) > 0.995


def test_textureless_views_are_white_where_the_lamp_shines_straight() -> None:
    cameras = orbit(1)
    lights = Lights(cameras.position, torch.zeros(1), torch.tensor([TEXTURELESS]))
    image = seen(Ball(2000.0), cameras, lights).image
    middle = SIZE // 2
    torch.testing.assert_close(image[0, middle, middle], torch.ones(3), atol=0.02, rtol=0)


def test_albedo_views_need_no_normals() -> None:
    found = seen(Ball(50.0), orbit(1))
    assert found.normals.shape == found.directions.shape == (0, 3)
    assert found.hit_opacity.shape == (0,)


def test_views_of_a_batch_are_those_of_its_cameras() -> None:
    cameras = orbit(3)
    lights = headlights(cameras.position, ambient=0.3)
    both = seen(Ball(20.0), cameras, lights)
    for index in range(3):
        here = slice(index, index + 1)
        own = Lights(lights.position[here], lights.ambient[here], lights.mode[here])
        alone = seen(Ball(20.0), cameras[here], own)
        torch.testing.assert_close(both.image[index], alone.image[0], atol=1e-6, rtol=0)


def test_what_no_light_reaches_is_not_evaluated_and_changes_nothing(monkeypatch) -> None:
    cameras = orbit(2)
    quick = seen(Ball(60.0), cameras)
    monkeypatch.setattr(render, "TRANSMITTANCE_STOP", 0.0)
    whole = seen(Ball(60.0), cameras)
    # All but the first ln(1000) / 60 of a chord of up to 1.4 is passed over.
    inside = float(chords(cameras)[0].sum()) / STEP
    assert 0.75 < (whole.samples - quick.samples) / inside < 0.95
    torch.testing.assert_close(quick.image, whole.image, atol=2e-3, rtol=0)


def test_training_moves_the_samples_about() -> None:
    cameras = orbit(1)
    still = [seen(Ball(3.0), cameras).opacity for _ in range(2)]
    assert torch.equal(*still)
    moved = [seen(Ball(3.0), cameras, training=True).opacity for _ in range(16)]
    assert not torch.equal(moved[0], moved[1])
    chord, _ = chords(cameras)
    wanted = 1 - torch.exp(-3.0 * chord)
    mean = torch.stack(moved).mean(dim=0)
    assert float((mean - wanted).abs().mean()) < float((still[0] - wanted).abs().mean())


def test_an_empty_grid_shows_the_background_and_still_has_a_gradient() -> None:
    cameras, field = orbit(2), Ball(5.0, learns=True)
    lights = headlights(cameras.position, ambient=0.3)
    found = seen(field, cameras, lights, grid(full=False), training=True)
    assert found.samples == 0
    torch.testing.assert_close(found.image, torch.tensor(BEHIND).expand_as(found.image))
    (found.image.sum() + found.opacity.sum()).backward()
    assert field.amount.grad is None or float(field.amount.grad) == 0.0
