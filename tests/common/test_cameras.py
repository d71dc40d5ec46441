"""The camera's conventions, by hand-worked views and by rays against projection."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from maquette.common.scene.cameras import (
    FAR,
    NEAR,
    Cameras,
    orbit,
    rigid_inverse,
    sphere_views,
    spherical_direction,
)


def camera(azimuth: float, elevation: float, distance: float = 3.0, fovy: float = 40.0) -> Cameras:
    """One float64 camera; angles in degrees."""
    a, e, d, f = torch.tensor(
        [[math.radians(azimuth)], [math.radians(elevation)], [distance], [math.radians(fovy)]],
        dtype=torch.float64,
    )
    return Cameras(a, e, d, f)


def random_cameras(count: int) -> Cameras:
    g = torch.Generator().manual_seed(3)
    u = torch.rand(4, count, generator=g, dtype=torch.float64)
    return Cameras(u[0] * 6.3, (u[1] - 0.5) * math.pi, 1 + 3 * u[2], 0.3 + u[3])


def project(cameras: Cameras, points: Tensor, aspect: float = 1.0) -> Tensor:
    """Normalised device coordinates `[B, N, 3]` of world points `[N, 3]`."""
    homogeneous = torch.cat([points, torch.ones_like(points[:, :1])], dim=-1)
    clip = homogeneous @ cameras.mvp(aspect).transpose(1, 2)
    return clip[..., :3] / clip[..., 3:]


@pytest.mark.parametrize(
    ("azimuth", "elevation", "expected"),
    [
        (0, 0, (1, 0, 0)),
        (90, 0, (0, 1, 0)),
        (180, 0, (-1, 0, 0)),
        (270, 0, (0, -1, 0)),
        (0, 90, (0, 0, 1)),
        (45, -90, (0, 0, -1)),
        (0, 30, (math.sqrt(3) / 2, 0, 0.5)),
    ],
)
def test_azimuth_grows_counter_clockwise_from_the_front(azimuth, elevation, expected) -> None:
    a = torch.tensor(math.radians(azimuth), dtype=torch.float64)
    e = torch.tensor(math.radians(elevation), dtype=torch.float64)
    wanted = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(spherical_direction(a, e), wanted)
    position = camera(azimuth, elevation, distance=2.5).position[0]
    torch.testing.assert_close(position, 2.5 * wanted)


@pytest.mark.parametrize(
    ("azimuth", "elevation", "right", "up"),
    [
        (0, 0, (0, 1, 0), (0, 0, 1)),  # in front of the object its left hand (+Y) is on the right
        (90, 0, (-1, 0, 0), (0, 0, 1)),
        (0, 90, (0, 1, 0), (-1, 0, 0)),  # from above the front is at the bottom of the picture
        (0, -90, (0, 1, 0), (1, 0, 0)),
    ],
)
def test_picture_axes_of_known_views(azimuth, elevation, right, up) -> None:
    view = camera(azimuth, elevation)
    c2w = view.c2w[0]
    torch.testing.assert_close(c2w[:3, 0], torch.tensor(right, dtype=torch.float64))
    torch.testing.assert_close(c2w[:3, 1], torch.tensor(up, dtype=torch.float64))
    points = torch.tensor([right, up], dtype=torch.float64) * 0.1
    ndc = project(view, points)[0]
    assert ndc[0, 0] > 0.05
    assert abs(float(ndc[0, 1])) < 1e-12
    assert ndc[1, 1] > 0.05
    assert abs(float(ndc[1, 0])) < 1e-12


def test_c2w_is_a_rigid_right_handed_frame_also_at_the_poles() -> None:
    poles = Cameras(
        torch.tensor([0.3, 1.0], dtype=torch.float64),
        torch.tensor([math.pi / 2, -math.pi / 2], dtype=torch.float64),
        torch.ones(2, dtype=torch.float64),
        torch.ones(2, dtype=torch.float64),
    )
    for cameras in (random_cameras(40), poles):
        rotation = cameras.c2w[:, :3, :3]
        eye = torch.eye(3, dtype=torch.float64).expand_as(rotation)
        torch.testing.assert_close(rotation @ rotation.transpose(1, 2), eye)
        torch.testing.assert_close(
            torch.linalg.det(rotation), torch.ones(len(cameras), dtype=torch.float64)
        )
        # It looks at the origin: position lies along its backward axis.
        torch.testing.assert_close(
            cameras.c2w[:, :3, 3], cameras.distance[:, None] * rotation[:, :, 2]
        )
        assert torch.equal(
            cameras.c2w[:, 3], torch.tensor([0.0, 0, 0, 1]).double().expand(len(cameras), 4)
        )


@pytest.mark.parametrize(("height", "width"), [(6, 6), (5, 9), (8, 3)])
def test_rays_pass_where_the_projection_puts_pixel_centres(height: int, width: int) -> None:
    cameras = random_cameras(7)
    origins, directions = cameras.rays(height, width)
    torch.testing.assert_close(
        directions.norm(dim=-1), torch.ones(7, height, width, dtype=torch.float64)
    )
    rows = 1 - 2 * (torch.arange(height).double() + 0.5) / height
    cols = 2 * (torch.arange(width).double() + 0.5) / width - 1
    for t in (0.5, 2.0):
        points = origins + t * directions
        for index in range(7):
            ndc = project(cameras[index : index + 1], points[index].reshape(-1, 3), width / height)
            ndc = ndc.reshape(height, width, 3)
            torch.testing.assert_close(ndc[..., 0], cols.expand(height, width))
            torch.testing.assert_close(ndc[..., 1], rows[:, None].expand(height, width))


def test_row_zero_is_the_top_and_column_zero_the_left() -> None:
    _, directions = camera(0, 0).rays(4, 4)
    assert float(directions[0, 0, 1, 2]) > 0 > float(directions[0, 3, 1, 2])  # world z
    assert float(directions[0, 1, 3, 1]) > 0 > float(directions[0, 1, 0, 1])  # world y
    assert bool((directions[0, ..., 0] < 0).all())  # from the front it looks along -X


def test_projection_by_hand() -> None:
    view = camera(0, 0, distance=3.0, fovy=60.0)
    half = math.tan(math.radians(30.0))
    # At depth 2 (x = 1) the picture's upper edge is 2 tan(30 degrees) above the axis.
    points = torch.tensor(
        [[1, 0, 2 * half], [1, 2 * half, 0], [3 - NEAR, 0, 0], [3 - FAR, 0, 0]], dtype=torch.float64
    )
    ndc = project(view, points)[0]
    expected = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(ndc[:2, :2], expected)
    torch.testing.assert_close(ndc[2:, 2], torch.tensor([-1.0, 1.0], dtype=torch.float64))
    # Twice as wide a picture shows the same point half as far to the side.
    assert float(project(view, points, aspect=2.0)[0, 1, 0]) == pytest.approx(0.5)
    # w is the depth along the view axis.
    origin = torch.tensor([0.0, 0, 0, 1], dtype=torch.float64)
    assert float((view.mvp()[0] @ origin)[3]) == pytest.approx(3.0)


def test_rigid_inverse_is_the_inverse() -> None:
    c2w = random_cameras(9).c2w
    torch.testing.assert_close(rigid_inverse(c2w), torch.linalg.inv(c2w))


def test_orbit_goes_once_around_from_the_front() -> None:
    cameras = orbit(4, elevation_deg=0.0, distance=2.0)
    expected = torch.tensor([[2.0, 0, 0], [0, 2, 0], [-2, 0, 0], [0, -2, 0]])
    torch.testing.assert_close(cameras.position, expected, atol=1e-6, rtol=0)
    assert float(orbit(3, elevation_deg=30.0).elevation[1]) == pytest.approx(math.radians(30))


@pytest.mark.parametrize("count", [24, 64])
def test_sphere_views_cover_the_sphere_evenly(count: int) -> None:
    cameras = sphere_views(count, distance=2.0)
    towards = cameras.position.double() / 2.0
    assert len(cameras) == count
    torch.testing.assert_close(towards.norm(dim=-1), torch.ones(count).double())
    # First and second moments of the uniform distribution: 0 and identity / 3.
    assert float(towards.mean(dim=0).norm()) < 0.02
    second = towards.T @ towards / count
    torch.testing.assert_close(second, torch.eye(3).double() / 3, atol=0.02, rtol=0)
    cosines = towards @ towards.T - 2 * torch.eye(count)
    nearest = torch.acos(cosines.max(dim=1).values)
    assert float(nearest.min()) > 0.7 * float(nearest.max())


def test_a_part_of_a_batch_is_the_same_cameras() -> None:
    cameras = random_cameras(5)
    picked = cameras[torch.tensor([3, 1])]
    assert len(picked) == 2
    assert torch.equal(picked.mvp(), cameras.mvp()[[3, 1]])
    assert torch.equal(cameras[1:2].position, cameras.position[1:2])
    assert torch.equal(cameras.to("cpu").fovy, cameras.fovy)
