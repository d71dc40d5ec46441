"""What the embedded networks are told beside text and time, above all the surface they paint."""

from __future__ import annotations

import math

import pytest
import torch

from maquette.common.priors.base import Condition, Reference, TextEmbedding
from maquette.common.priors.camera_features import (
    BUFFER,
    SURFACE,
    at_grid,
    surface_map,
    told_inputs,
    turned,
    with_reference,
)
from maquette.common.scene.cameras import Cameras, orbit
from maquette.common.toybox.grammar import Caption
from maquette.common.toybox.objects import ToyObject, build
from maquette.common.toybox.patterns import Kind, Pattern
from maquette.common.toybox.studio import surface_views

SIDE = 48


@pytest.fixture(scope="module")
def toy() -> ToyObject:
    return build(Caption("cat", "orange"))


def views_of(*azimuths: float, elevation: float = 0.3) -> Cameras:
    azimuth = torch.tensor(azimuths)
    one = torch.ones_like(azimuth)
    return Cameras(azimuth, elevation * one, 3.0 * one, math.radians(40.0) * one)


def seen(toy: ToyObject, cameras: Cameras) -> torch.Tensor:
    return surface_views(toy, cameras, SIDE).permute(0, 3, 1, 2)


def test_a_surface_lies_where_its_camera_sees_it(toy: ToyObject) -> None:
    """Each pixel's point lies on that pixel's ray, before the middle, its normal towards us."""
    cameras = views_of(0.4, 2.0)
    covered, normals, points = surface_views(toy, cameras, SIDE).split((1, 3, 3), dim=-1)
    origins, directions = cameras.rays(SIDE, SIDE)
    on = covered[..., 0] > 0
    assert 0.1 < float(on.float().mean()) < 0.9
    along = ((points - origins) * directions).sum(dim=-1, keepdim=True)
    assert float((origins + along * directions - points)[on].abs().max()) < 1e-4
    assert float(along[on].min()) > 1.5
    assert float(((normals * directions).sum(dim=-1)[on] < 0.2).float().mean()) > 0.99
    torch.testing.assert_close(normals[on].norm(dim=-1), torch.ones(int(on.sum())))
    assert not torch.cat([normals, points], dim=-1)[~on].any()


def test_waves_by_hand() -> None:
    surface = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.05, 0.1, -0.2]).reshape(1, BUFFER, 1, 1)
    told = surface_map(torch.cat([surface, torch.zeros_like(surface)], dim=-1))
    assert told.shape == (1, SURFACE, 1, 2)
    found = told[0, BUFFER:, 0, 0]
    expected = [
        wave(2 * math.pi / period * x)
        for period in (0.6, 0.4, 0.3)
        for wave in (math.sin, math.cos)
        for x in (0.05, 0.1, -0.2)
    ]
    expected += [math.tanh(4 * math.cos(2 * math.pi / 0.3 * x)) for x in (0.05, 0.1, -0.2)]
    sides = [math.tanh(4 * math.cos(2 * math.pi / 0.4 * x)) for x in (0.05, 0.1, -0.2)]
    expected.append(math.prod(sides))
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-5, rtol=0)
    assert not told[..., 1].any()


@pytest.mark.parametrize(("kind", "axis"), [("striped", 0), ("striped", 2), ("checkered", 0)])
def test_rules_are_those_of_the_patterns(kind: Kind, axis: int) -> None:
    """Below zero where the other colour lies, and only there."""
    none = torch.zeros(0, 3)
    points = 1.8 * torch.rand(3, 4000, generator=torch.Generator().manual_seed(0)) - 0.9
    surface = torch.cat([torch.ones(1, 4000), torch.zeros(3, 4000), points])[None, :, :, None]
    told = surface_map(surface)[0, -4 + axis if kind == "striped" else -1, :, 0]
    other = Pattern(kind, axis, none, none).covers(points.T, torch.zeros(4000, 3))
    clear = told.abs() > 1e-3
    assert float(clear.float().mean()) > 0.9
    assert torch.equal(told[clear] < 0, other[clear])


def test_who_turns_with_the_object_sees_the_same_surface_turned(toy: ToyObject) -> None:
    """Told a relation alone, the world is turned so that the reference looks from azimuth 0."""
    reference = views_of(0.9, 0.9)
    cameras = views_of(0.9 + 0.5, 0.9 - 1.1)
    surface = seen(toy, cameras)
    none, one = torch.zeros(2), torch.ones(2)
    labels, told = told_inputs(surface, cameras, none, cameras, reference, one)
    points = told[:, 4:7]
    back = turned(told[:, :BUFFER], torch.full((2,), 0.9))[:, 4:]
    torch.testing.assert_close(back, surface[:, 4:], atol=1e-5, rtol=0)
    # Seen from the turned cameras those points lie on the same pixels' rays.
    on = surface[:, 0] > 0
    origins, directions = views_of(0.5, -1.1).rays(SIDE, SIDE)
    offsets = points.permute(0, 2, 3, 1) - origins
    across = offsets - (offsets * directions).sum(dim=-1, keepdim=True) * directions
    assert float(across[on].abs().max()) < 1e-4
    assert not labels[:, :12].any()


def test_a_surface_is_told_with_its_place_only(toy: ToyObject) -> None:
    cameras = views_of(0.4, 2.0)
    x, surface = torch.randn(2, 3, SIDE, SIDE), seen(toy, cameras)
    told, _ = with_reference(x, cameras, None, surface)
    torch.testing.assert_close(told[:, 6:], surface_map(surface))
    blind, labels = with_reference(x, None, None, surface)
    assert not blind[:, 3:].any()
    assert not labels.any()
    pictured = Reference(torch.randn(2, 3, SIDE, SIDE), views_of(1.0, 1.0), cameras)
    related, _ = with_reference(x, None, pictured, surface)
    torch.testing.assert_close(related[:, 6:13], turned(surface, torch.full((2,), -1.0)))


def test_a_grid_takes_the_middle_of_its_cells() -> None:
    image = torch.arange(16.0).reshape(1, 4, 4, 1).expand(1, 4, 4, BUFFER)
    assert at_grid(image, 2, 2)[0, 0].tolist() == [[5.0, 7.0], [13.0, 15.0]]
    assert torch.equal(at_grid(image, 4, 4), image.permute(0, 3, 1, 2))


def test_conditions_carry_their_surface_row_by_row() -> None:
    text = TextEmbedding(("a", "b"), {})
    surface = torch.arange(2.0).reshape(2, 1, 1, 1).expand(2, BUFFER, 4, 4)
    condition = Condition(text, orbit(2), None, surface)
    some = condition.select([1, 1, 0]).surface
    assert some is not None
    assert some[:, 0, 0, 0].tolist() == [1.0, 1.0, 0.0]
    both = Condition.cat([condition, condition]).surface
    assert both is not None
    assert both[:, 0, 0, 0].tolist() == [0.0, 1.0, 0.0, 1.0]
    with pytest.raises(ValueError, match="surface: expected in all of 2 parts or in none"):
        Condition.cat([condition, Condition(text, orbit(2))])
