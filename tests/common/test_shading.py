"""The shading formula by hand, its modes, and its gradients."""

from __future__ import annotations

import math

import pytest
import torch

from maquette.common.scene.shading import ALBEDO, LAMBERTIAN, TEXTURELESS, Lights, headlights, shade

PAINT = (0.8, 0.4, 0.2)


def lit(mode: int, lamp: tuple[float, float, float], ambient: float, opacity: float | None = None):
    """The colour of a point at the origin that looks up, under one lamp."""
    lights = Lights(
        torch.tensor([lamp], dtype=torch.float64),
        torch.tensor([ambient], dtype=torch.float64),
        torch.tensor([mode]),
    )
    color = shade(
        torch.tensor([PAINT], dtype=torch.float64),
        torch.tensor([[0.0, 0, 1]], dtype=torch.float64),
        torch.zeros(1, 3, dtype=torch.float64),
        lights,
        torch.zeros(1, dtype=torch.long),
        None if opacity is None else torch.tensor([[opacity]], dtype=torch.float64),
    )
    return color[0].tolist()


@pytest.mark.parametrize(
    ("lamp", "ambient", "light"),
    [
        ((0, 0, 5), 0.3, 1.0),  # straight above: all of the light
        ((math.sqrt(3), 0, 1), 0.2, 0.6),  # 60 degrees off: 0.2 + 0.8 / 2
        ((-3, 0, 4), 0.0, 0.8),
        ((0, 1, 0), 0.25, 0.25),  # grazing: what comes from everywhere
        ((0, 0, -1), 0.25, 0.25),  # from below: the same, never less
    ],
)
def test_lambert_by_hand(lamp, ambient, light) -> None:
    assert lit(LAMBERTIAN, lamp, ambient) == pytest.approx([light * c for c in PAINT])
    assert lit(TEXTURELESS, lamp, ambient) == pytest.approx([light] * 3)
    assert lit(ALBEDO, lamp, ambient) == pytest.approx(PAINT)


def test_textureless_white_is_multiplied_with_the_opacity() -> None:
    assert lit(TEXTURELESS, (0, 0, 1), 0.5, opacity=0.7) == pytest.approx([0.7] * 3)
    # The albedo comes multiplied already.
    assert lit(LAMBERTIAN, (0, 0, 1), 0.5, opacity=0.7) == pytest.approx(PAINT)


def test_every_point_is_lit_by_its_own_views_lamp() -> None:
    lights = Lights(
        torch.tensor([[0.0, 0, 1], [0, 0, -1], [0, 0, 1]]),
        torch.tensor([0.1, 0.2, 0.3]),
        torch.tensor([LAMBERTIAN, LAMBERTIAN, TEXTURELESS]),
    )
    view = torch.tensor([2, 1, 0, 1])
    normals = torch.tensor([[0.0, 0, 1]]).expand(4, 3)
    colors = shade(torch.full((4, 3), 0.5), normals, torch.zeros(4, 3), lights, view)
    torch.testing.assert_close(colors[:, 0], torch.tensor([1.0, 0.1, 0.5, 0.1]))


def test_colors_never_leave_the_unit_cube() -> None:
    count = 500
    normals = torch.nn.functional.normalize(torch.randn(count, 3), dim=-1)
    lights = Lights(torch.randn(9, 3), torch.rand(9), torch.arange(9) % 3)
    view = torch.randint(0, 9, (count,))
    colors = shade(torch.rand(count, 3), normals, torch.randn(count, 3), lights, view)
    assert float(colors.min()) >= 0.0
    assert float(colors.max()) <= 1.0


def test_gradients_match_finite_differences() -> None:
    lights = Lights(
        torch.tensor([[0.3, 0.2, 2.0], [1.0, -1.0, 1.5], [0.1, 0.4, 1.0]], dtype=torch.float64),
        torch.tensor([0.2, 0.3, 0.4], dtype=torch.float64),
        torch.tensor([LAMBERTIAN, TEXTURELESS, ALBEDO]),
    )
    generator = torch.Generator().manual_seed(2)
    draws = torch.rand(3, 3, 3, generator=generator, dtype=torch.float64)
    albedo, normals, points = (d.clone().requires_grad_() for d in draws)
    opacity = torch.rand(3, 1, generator=generator, dtype=torch.float64).requires_grad_()
    view = torch.tensor([0, 1, 2])
    assert torch.autograd.gradcheck(
        lambda a, n, p, o: shade(a, n, p, lights, view, o), (albedo, normals, points, opacity)
    )


def test_headlights_sit_in_the_cameras() -> None:
    position = torch.randn(3, 3)
    lights = headlights(position, 0.35)
    assert torch.equal(lights.position, position)
    assert lights.ambient.tolist() == pytest.approx([0.35] * 3)
    assert lights.mode.tolist() == [LAMBERTIAN] * 3
    assert lights.need_normals()
    albedo_only = Lights(position, lights.ambient, torch.full((3,), ALBEDO))
    assert not albedo_only.need_normals()
