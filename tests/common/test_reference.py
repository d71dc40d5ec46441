"""The picture's own view as a judge: its camera, its losses, and what they lead to."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from maquette.common.config.image import ImageConfig, ReferenceConfig
from maquette.common.config.scene import CameraConfig, LightConfig
from maquette.common.guidance.judges import Views
from maquette.common.guidance.reference import (
    Portrait,
    ReferenceJudge,
    normal_loss,
    pearson_loss,
    picture_camera,
    ranking_loss,
)
from maquette.common.scene.cameras import Cameras, orbit
from maquette.common.scene.shading import ALBEDO, LAMBERTIAN
from maquette.common.scene.views import picture_lights

SIDE = 8
IMAGE = ImageConfig(path="photo.png")


def camera(azimuth: float = 0.0, elevation: float = 0.0) -> Cameras:
    values = (azimuth, elevation, 3.0, math.radians(40.0))
    return Cameras(*(torch.tensor([v]) for v in values))


def half(color: tuple[float, float, float] = (1.0, 0.0, 0.0)) -> Tensor:
    """A picture whose left half is an object of one colour."""
    rgba = torch.zeros(SIDE, SIDE, 4)
    rgba[:, : SIDE // 2, :3], rgba[:, : SIDE // 2, 3] = torch.tensor(color), 1.0
    return rgba


class Canvas:
    """A scene that is a picture itself, the same from everywhere, and remembers who looked."""

    def __init__(self, depth: Tensor | None = None, normals: Tensor | None = None) -> None:
        self.color = torch.full((SIDE, SIDE, 3), 0.5, requires_grad=True)
        self.opacity = torch.full((SIDE, SIDE), 0.6, requires_grad=True)
        self.depth, self.normals = depth, normals
        self.backdrop = torch.tensor([0.0, 1.0, 0.0])
        self.looked: list[Cameras] = []

    def views(self) -> Views:
        return replace(self.look(orbit(2), SIDE), look=self.look)

    def look(self, cameras: Cameras, resolution: int) -> Views:
        assert resolution == SIDE
        self.looked.append(cameras)
        opacity = self.opacity[None].expand(len(cameras), -1, -1)
        image = opacity[..., None] * self.color + (1 - opacity[..., None]) * self.backdrop
        told = None
        if self.depth is not None and self.normals is not None:
            geometry = (self.depth[None], self.normals[None])
            told = lambda: geometry  # noqa: E731
        return Views(image, cameras, self.backdrop, lambda: opacity, geometry=told)


def judge(portrait: Portrait, **options) -> ReferenceJudge:
    return ReferenceJudge(portrait, ReferenceConfig(**options), SIDE)


def test_the_loss_by_hand() -> None:
    """Weights times mean squares: colour before the scene's own backdrop, and opacity."""
    canvas, rgba = Canvas(), half()
    found = judge(Portrait(rgba, camera()), rgb=3.0, mask=5.0)(canvas.views(), 0)
    wanted = rgba[..., 3:] * rgba[..., :3] + (1 - rgba[..., 3:]) * canvas.backdrop
    image = canvas.look(camera(), SIDE).image[0]
    by_hand = 3.0 * ((image - wanted) ** 2).mean()
    by_hand = by_hand + 5.0 * ((canvas.opacity - rgba[..., 3]) ** 2).mean()
    torch.testing.assert_close(found.loss, by_hand)
    error = float(((image - wanted) ** 2).mean())
    assert abs(found.watch["psnr"] + 10 * math.log10(error)) < 1e-4


def test_descent_leads_to_the_picture() -> None:
    canvas, rgba = Canvas(), half((0.2, 0.3, 0.9))
    reference = judge(Portrait(rgba, camera()), rgb=1.0, mask=1.0)
    optimizer = torch.optim.Adam([canvas.color, canvas.opacity], lr=0.05)
    for step in range(200):
        optimizer.zero_grad()
        reference(canvas.views(), step).loss.backward()
        optimizer.step()
    inside = rgba[..., 3] > 0
    torch.testing.assert_close(canvas.opacity.detach(), rgba[..., 3], atol=0.02, rtol=0)
    torch.testing.assert_close(
        canvas.color[inside].detach(), rgba[inside][:, :3], atol=0.03, rtol=0
    )


def test_it_looks_from_the_picture_s_camera_every_nth_step() -> None:
    canvas = Canvas()
    reference = judge(Portrait(half(), camera(0.4, 0.3)), every=3)
    for step in range(4):
        found = reference(canvas.views(), step)
        assert (float(found.loss.detach()) > 0) == (step % 3 == 0)
        assert ("psnr" in found.watch) == (step % 3 == 0)
    own = [c for c in canvas.looked if len(c) == 1]
    assert [float(c.azimuth) for c in own] == pytest.approx([0.4, 0.4])
    assert [float(c.elevation) for c in own] == pytest.approx([0.3, 0.3])


def test_jitter_moves_the_camera_a_little() -> None:
    reference = judge(Portrait(half(), camera(0.4, 0.3)), jitter=1.0)
    moved = [reference.jittered() for _ in range(400)]
    azimuth = torch.cat([c.azimuth for c in moved])
    assert abs(float(azimuth.mean()) - 0.4) < 0.005
    assert abs(math.degrees(float(azimuth.std())) - 1.0) < 0.15


def test_schedules_weigh_by_step() -> None:
    reference = judge(Portrait(half(), camera()), rgb=[(0, 0.0), (10, 10.0)], mask=0.0)
    losses = [float(reference(Canvas().views(), step).loss.detach()) for step in (0, 5, 10)]
    assert losses[0] == 0.0
    assert losses[2] == pytest.approx(2 * losses[1])


def test_the_camera_frames_what_the_stage_s_cameras_frame() -> None:
    usual = CameraConfig(distance=(2.0, 4.0), fovy=(30.0, 50.0))
    found = picture_camera(IMAGE, usual, 20.0)
    assert float(found.distance) == pytest.approx(3.0)
    assert math.degrees(float(found.fovy)) == pytest.approx(40.0)
    assert math.degrees(float(found.elevation)) == pytest.approx(20.0)
    far = picture_camera(IMAGE.model_copy(update={"fovy": 10.0, "azimuth": 90.0}), usual, -10.0)
    half_width = [float(c.distance * torch.tan(c.fovy / 2)) for c in (found, far)]
    assert half_width[0] == pytest.approx(half_width[1])
    assert float(far.distance) > 10.0
    assert math.degrees(float(far.azimuth)) == pytest.approx(90.0)


def test_pearson_knows_order_but_no_scale() -> None:
    wanted = torch.tensor([0.1, 0.4, 0.2, 0.9])
    assert float(pearson_loss(wanted, wanted)) == pytest.approx(0.0, abs=1e-6)
    assert float(pearson_loss(7.0 * wanted - 3.0, wanted)) == pytest.approx(0.0, abs=1e-6)
    assert float(pearson_loss(-wanted, wanted)) == pytest.approx(1.0, abs=1e-6)
    other = torch.tensor([0.3, 0.1, 0.5, 0.2])
    by_hand = float(torch.corrcoef(torch.stack([other, wanted]))[0, 1])
    assert float(pearson_loss(other, wanted)) == pytest.approx(0.5 * (1 - by_hand), abs=1e-6)
    assert float(pearson_loss(torch.ones(4), wanted)) == pytest.approx(0.5)


def test_ranking_punishes_pairs_in_the_wrong_order() -> None:
    wanted = torch.linspace(0, 1, 50)
    right, wrong = ranking_loss(wanted * 3 + 1, wanted), ranking_loss(-wanted, wanted)
    assert float(right) < 0.01
    assert float(wrong) > 0.3
    found = torch.zeros(50, requires_grad=True)
    optimizer = torch.optim.Adam([found], lr=0.05)
    with torch.no_grad():
        found.add_(0.1 * torch.randn(50))
    for _ in range(300):
        optimizer.zero_grad()
        ranking_loss(found, wanted).backward()
        optimizer.step()
    assert float(torch.corrcoef(torch.stack([found.detach(), wanted]))[0, 1]) > 0.9


def test_normals_by_hand() -> None:
    up = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    other = torch.tensor([[0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])
    assert float(normal_loss(up, up)) == 0.0
    assert float(normal_loss(up, other)) == pytest.approx(0.75)


def test_maps_are_compared_where_picture_and_scene_are() -> None:
    """Depth as nearness, normals turned from the camera's frame into the world's."""
    rgba = half()
    ramp = torch.linspace(0, 1, SIDE)[:, None].expand(SIDE, SIDE)
    seen_from = camera(0.7, 0.4)
    own = F.normalize(torch.tensor([0.3, -0.2, 0.9]), dim=-1)
    world = seen_from.c2w[0, :3, :3] @ own
    portrait = Portrait(rgba, seen_from, depth=ramp, normal=own.expand(SIDE, SIDE, 3))
    options = {"rgb": 0.0, "mask": 0.0, "depth": 2.0, "normal": 4.0}

    def loss(depth: Tensor, normals: Tensor, **more) -> float:
        canvas = Canvas(depth, normals.expand(SIDE, SIDE, 3))
        found = judge(portrait, **{**options, **more})(canvas.views(), 0)
        return float(found.loss.detach())

    assert loss(3.0 - 2.0 * ramp, world) == pytest.approx(0.0, abs=1e-5)  # near is bright
    assert loss(3.0 + 2.0 * ramp, world) == pytest.approx(2.0, abs=1e-5)
    assert loss(3.0 - 2.0 * ramp, -world) == pytest.approx(4.0, abs=1e-5)
    assert loss(3.0 + ramp, world, depth_loss="ranking") > 0.1
    # Beside the object, the maps say nothing.
    beside = 3.0 - 2.0 * ramp + 9.0 * (rgba[..., 3] == 0).float()
    assert loss(beside, world) == pytest.approx(0.0, abs=1e-5)


def test_another_resolution_averages_weighed_with_alpha() -> None:
    rgba = half((1.0, 0.0, 0.0))
    rgba[:, SIDE // 2 :, :3] = torch.tensor([0.0, 1.0, 0.0])  # under no alpha
    small = Portrait(rgba, camera()).at(2).rgba
    assert small.shape == (2, 2, 4)
    assert float(small[0, 0, 3]) > 0.8
    assert float(small[0, 1, 3]) < 0.2
    torch.testing.assert_close(small[0, 0, :3], torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(small[0, 1, :3], torch.tensor([1.0, 0.0, 0.0]), atol=1e-4, rtol=0)


def test_a_picture_is_lit_as_the_views_are_once_they_are() -> None:
    cameras = orbit(2)
    studio = LightConfig(kind="camera", ambient=(0.3, 0.4), albedo_steps=5, shares=(0, 0, 1))
    early, late = (picture_lights(studio, cameras, step).mode.tolist() for step in (4, 5))
    assert (early, late) == ([ALBEDO] * 2, [LAMBERTIAN] * 2)
    lamps = picture_lights(studio, cameras, 9)
    torch.testing.assert_close(lamps.position, cameras.position)
    torch.testing.assert_close(lamps.ambient, torch.full((2,), 0.35))
    state = torch.random.get_rng_state()
    assert picture_lights(LightConfig(), cameras, 9000).mode.tolist() == [ALBEDO] * 2
    assert torch.equal(state, torch.random.get_rng_state())
