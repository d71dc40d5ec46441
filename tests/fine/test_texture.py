"""The texture starts as the coarse albedo, and can go on from it."""

from __future__ import annotations

import pytest
import torch

from maquette.coarse.field import RadianceField
from maquette.coarse.nerf import albedo_field
from maquette.common.config.fields import HashGridConfig
from maquette.common.config.models import FieldConfig
from maquette.fine.texture import Texture, texture_of

CONFIG = FieldConfig(
    grid=HashGridConfig(
        levels=4, features=2, log2_entries=10, base_resolution=4, finest_resolution=32
    ),
    hidden=16,
)
POINTS = torch.rand(500, 3, generator=torch.Generator().manual_seed(2)) * 2 - 1


@pytest.fixture(scope="module")
def nerf() -> RadianceField:
    """A field that looks trained: features of every size, biases that aren't zero."""
    torch.manual_seed(5)
    made = RadianceField(CONFIG)
    with torch.no_grad():
        made.body.grid.tables.uniform_(-2, 2)
        made.body.out.weight.mul_(6.0)
        made.body.out.bias.normal_()
    return made


def started(nerf: RadianceField, extra_levels: int) -> Texture:
    return texture_of(albedo_field(nerf.body), extra_levels)


@pytest.mark.parametrize("extra_levels", [0, 1, 4])
def test_the_texture_is_the_coarse_albedo(nerf: RadianceField, extra_levels: int) -> None:
    albedo = nerf(POINTS)[1].detach()
    assert float((albedo.max(dim=0).values - albedo.min(dim=0).values).min()) > 0.3
    found = started(nerf, extra_levels)(POINTS).detach()
    torch.testing.assert_close(found, albedo, atol=1e-6, rtol=0)


def test_the_texture_has_its_own_parameters(nerf: RadianceField) -> None:
    before = nerf(POINTS)[1].detach().clone()
    texture = started(nerf, 2)
    optimizer = torch.optim.Adam(texture.parameters(), lr=0.1)
    texture(POINTS).sum().backward()
    optimizer.step()
    assert torch.equal(nerf(POINTS)[1], before)
    assert float((texture(POINTS).detach() - before).abs().max()) > 0.01


def test_finer_levels_can_paint_what_the_coarse_ones_cannot(nerf: RadianceField) -> None:
    """A pattern four times as fine as the coarse grid's finest cell."""
    line = torch.linspace(-0.4, 0.4, 120)
    points = torch.stack([line, 0 * line, 0 * line], dim=-1)
    target = (torch.sin(line * 100) > 0).float()[:, None].expand(-1, 3)
    errors = []
    for extra_levels in (0, 3):
        texture = started(nerf, extra_levels)
        optimizer = torch.optim.Adam(texture.parameters(), lr=0.03)
        for _ in range(150):
            loss = (texture(points) - target).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        errors.append(float(loss.detach()))
    assert errors[1] < 0.3 * errors[0]
