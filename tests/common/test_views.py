"""The draws of views and lamps: ranges, distributions, and one stream of random numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from maquette.common.config.models import CameraConfig, LightConfig
from maquette.common.scene.cameras import Cameras
from maquette.common.scene.shading import ALBEDO, LAMBERTIAN, TEXTURELESS
from maquette.common.scene.views import (
    around,
    directions_in_cone,
    sample_cameras,
    sample_lights,
    sample_views,
    studio_lights,
)

MANY = 20_000


def fields(cameras: Cameras) -> tuple[torch.Tensor, ...]:
    return cameras.azimuth, cameras.elevation, cameras.distance, cameras.fovy


def test_every_draw_stays_in_its_range() -> None:
    config = CameraConfig(distance=(1.5, 2.0), elevation=(-10, 45), fovy=(40, 70))
    cameras = sample_cameras(config, MANY)
    degrees = math.pi / 180
    for values, low, high in (
        (cameras.azimuth, 0.0, 360 * degrees),
        (cameras.elevation, -10 * degrees, 45 * degrees),
        (cameras.distance, 1.5, 2.0),
        (cameras.fovy, 40 * degrees, 70 * degrees),
    ):
        assert low - 1e-5 <= float(values.min()) < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < float(values.max()) <= high + 1e-5


def test_fixed_ranges_give_fixed_values() -> None:
    config = CameraConfig(distance=(3, 3), elevation=(20, 20), fovy=(40, 40))
    cameras = sample_cameras(config, 5)
    assert cameras.distance.tolist() == pytest.approx([3.0] * 5)
    assert cameras.elevation.tolist() == pytest.approx([math.radians(20)] * 5)
    assert cameras.fovy.tolist() == pytest.approx([math.radians(40)] * 5)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_elevations_are_uniform_in_angle_or_on_the_sphere(share: float) -> None:
    config = CameraConfig(elevation=(-90, 90), uniform_share=share)
    elevation = sample_cameras(config, MANY).elevation.double()
    # E |sin e| is 2/pi for an even angle and 1/2 on the sphere.
    expected = share * 0.5 + (1 - share) * 2 / math.pi
    assert float(elevation.sin().abs().mean()) == pytest.approx(expected, abs=0.008)
    assert float(elevation.sin().mean()) == pytest.approx(0.0, abs=0.02)


@pytest.mark.parametrize("count", [1, 2, 7, 32])
def test_a_batch_looks_from_every_sector_once(count: int) -> None:
    turn = None
    for _ in range(20):
        azimuth = sample_cameras(CameraConfig(), count).azimuth.double() / (2 * math.pi)
        # Some rotation of the circle puts exactly one camera in each of `count` equal sectors: the
        # k-th sorted azimuth less k sectors varies by less than one sector.
        spread = azimuth.sort().values * count - torch.arange(count)
        turns = (float(spread.max()), float(spread.min()))
        assert turns[0] - turns[1] < 1 + 1e-4
        assert turn != turns  # and the circle is turned each time
        turn = turns


def test_azimuths_are_even_over_many_batches() -> None:
    azimuth = torch.cat([sample_cameras(CameraConfig(), 2).azimuth for _ in range(3000)])
    counts = torch.histc(azimuth, bins=8, min=0, max=2 * math.pi)
    assert float((counts / 750 - 1).abs().max()) < 0.15


def test_lamps_lie_in_the_cone_at_their_distance() -> None:
    config = LightConfig(distance=(0.8, 1.5), cone=60, ambient=(0.1, 0.4), albedo_steps=0)
    cameras = sample_cameras(CameraConfig(elevation=(-90, 90), uniform_share=1.0), MANY)
    lights = sample_lights(config, cameras, step=0)
    distance = lights.position.norm(dim=-1)
    assert float(distance.min()) >= 0.8 - 1e-5
    assert float(distance.max()) <= 1.5 + 1e-5
    cosine = (F.normalize(lights.position, dim=-1) * F.normalize(cameras.position, dim=-1)).sum(-1)
    assert float(cosine.min()) >= 0.5 - 1e-5
    # Even on the cap: the cosine is uniform in [1/2, 1].
    assert float(cosine.double().mean()) == pytest.approx(0.75, abs=0.005)
    assert float(cosine.double().var()) == pytest.approx(0.25 / 12, rel=0.05)
    assert float(lights.ambient.min()) >= 0.1
    assert float(lights.ambient.max()) <= 0.4
    assert float(lights.ambient.mean()) == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("axis", [(0.0, 0, 1), (0, 0, -1), (1, 0, 0), (0.6, 0.0, 0.8)])
def test_directions_in_a_cone_are_unit_and_centred_on_its_axis(axis) -> None:
    around = torch.tensor([axis], dtype=torch.float32).expand(MANY, 3)
    found = directions_in_cone(around, math.radians(30)).double()
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(MANY).double(), atol=1e-5, rtol=0)
    mean = 0.5 * (1 + math.cos(math.radians(30)))
    torch.testing.assert_close(
        found.mean(dim=0), mean * torch.tensor(axis).double(), atol=0.01, rtol=0
    )
    assert torch.equal(directions_in_cone(around[:3], 0.0), around[:3])


def test_kinds_of_shading_come_in_their_shares() -> None:
    config = LightConfig(shares=(0.25, 0.375, 0.375), albedo_steps=10)
    cameras = sample_cameras(CameraConfig(), MANY)
    early = sample_lights(config, cameras, step=9)
    assert bool((early.mode == ALBEDO).all())
    late = sample_lights(config, cameras, step=10)
    for mode, share in ((ALBEDO, 0.25), (TEXTURELESS, 0.375), (LAMBERTIAN, 0.375)):
        assert float((late.mode == mode).double().mean()) == pytest.approx(share, abs=0.015)
    only = LightConfig(shares=(0, 0, 1), albedo_steps=0)
    assert bool((sample_lights(only, cameras, 0).mode == LAMBERTIAN).all())


def test_a_camera_light_is_in_the_camera() -> None:
    cameras = sample_cameras(CameraConfig(), 6)
    lights = sample_lights(LightConfig(kind="camera"), cameras, 5000)
    assert torch.equal(lights.position, cameras.position)


def test_the_same_seed_draws_the_same_views() -> None:
    def draw() -> list[torch.Tensor]:
        torch.manual_seed(5)
        cameras = sample_cameras(CameraConfig(), 8)
        lights = sample_lights(LightConfig(), cameras, 5000)
        return [*fields(cameras), lights.position, lights.ambient, lights.mode]

    for one, two in zip(draw(), draw(), strict=True):
        assert torch.equal(one, two)


def test_the_step_changes_nothing_in_the_stream_of_random_numbers() -> None:
    """Albedo steps draw as many numbers as shaded ones, so later views don't depend on them."""
    cameras = sample_cameras(CameraConfig(), 4)
    states = []
    for step in (0, 9999):
        torch.manual_seed(1)
        sample_lights(LightConfig(albedo_steps=100), cameras, step)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_studio_lights_have_the_mean_ambient_share() -> None:
    cameras = sample_cameras(CameraConfig(), 3)
    lights = studio_lights(cameras, LightConfig(ambient=(0.1, 0.4))).to("cpu")
    assert lights.ambient.tolist() == pytest.approx([0.25] * 3)
    assert torch.equal(lights.position, cameras.position)
    assert bool((lights.mode == LAMBERTIAN).all())


def test_views_that_belong_together_go_around_at_one_elevation() -> None:
    torch.manual_seed(3)
    cameras, lights = sample_views(CameraConfig(), LightConfig(), 8, 0, torch.device("cpu"), 4)
    assert lights.position.shape == (8, 3)
    for values in (cameras.elevation, cameras.distance, cameras.fovy):
        assert torch.equal(values.view(2, 4), values.view(2, 4)[:, :1].expand(2, 4))
        assert float(values[0]) != float(values[4])
    steps = cameras.azimuth.view(2, 4).diff(dim=1).remainder(2 * math.pi)
    torch.testing.assert_close(steps, torch.full_like(steps, math.pi / 2))
    torch.manual_seed(3)
    alone = sample_cameras(CameraConfig(), 2)
    torch.testing.assert_close(cameras.azimuth[[0, 4]], alone.azimuth)
    torch.testing.assert_close(around(alone, 1).azimuth, alone.azimuth)


def test_views_on_their_own_are_drawn_as_cameras_and_lamps_always_were() -> None:
    """A group of one takes the same random numbers in the same order, to the bit."""
    torch.manual_seed(3)
    config = CameraConfig()
    cameras = sample_cameras(config, 5)
    lights = sample_lights(LightConfig(), cameras, 7)
    after = torch.rand(3)
    for group in ((), (1,)):
        torch.manual_seed(3)
        seen, lit = sample_views(config, LightConfig(), 5, 7, torch.device("cpu"), *group)
        for one, two in zip(fields(seen), fields(cameras), strict=True):
            assert torch.equal(one, two)
        assert torch.equal(lit.position, lights.position)
        assert torch.equal(lit.ambient, lights.ambient)
        assert torch.equal(lit.mode, lights.mode)
        assert torch.equal(torch.rand(3), after)
    assert around(cameras, 1) is cameras


@pytest.mark.parametrize("group", [2, 3, 5])
def test_a_group_goes_on_from_its_first_camera(group: int) -> None:
    cameras = sample_cameras(CameraConfig(), 4)
    every = around(cameras, group)
    assert len(every) == 4 * group
    first = torch.arange(4) * group
    for one, two in zip(fields(every[first]), fields(cameras), strict=True):
        torch.testing.assert_close(one, two)
    assert bool(((every.azimuth >= 0) & (every.azimuth < 2 * math.pi)).all())
    # Evenly apart: the vectors to the cameras of a group add up to nothing.
    azimuth = every.azimuth.view(4, group)
    torch.testing.assert_close(azimuth.cos().sum(1), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(azimuth.sin().sum(1), torch.zeros(4), atol=1e-5, rtol=0)
    turns = azimuth.diff(dim=1).remainder(2 * math.pi)
    torch.testing.assert_close(turns, torch.full_like(turns, 2 * math.pi / group))
    elevation = every.elevation.view(4, group)
    assert torch.equal(elevation, elevation[:, :1].expand(4, group))
