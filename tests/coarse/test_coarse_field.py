"""Density, albedo and normals of the NeRF: values by hand, differences against autograd."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from maquette.coarse.field import RadianceField
from maquette.common.config.fields import HashGridConfig
from maquette.common.config.models import FieldConfig

SMALL = HashGridConfig(
    levels=2, features=2, log2_entries=12, base_resolution=2, finest_resolution=4
)


def field(learns: bool = False, **changes: object) -> RadianceField:
    torch.manual_seed(0)
    made = RadianceField(FieldConfig(**{"grid": SMALL, "hidden": 16, **changes}))
    with torch.no_grad():
        made.body.grid.tables.uniform_(-1, 1)
    return made.requires_grad_(learns)


def silent(**changes: object) -> RadianceField:
    """A field whose network says nothing, so that the bias alone is left."""
    made = field(**changes)
    with torch.no_grad():
        made.body.out.weight.zero_()
        made.body.out.bias.zero_()
    return made


@pytest.mark.parametrize(
    ("scale", "bias", "radius", "at", "logit"),
    [
        (1.0, 10.0, 0.5, 0.0, 10.0),  # Magic3D: the middle
        (1.0, 10.0, 0.5, 0.5, 0.0),
        (1.0, 10.0, 0.5, 1.0, -10.0),
        (20.0, 1.0, 0.3, 0.0, 1.0),
        (20.0, 1.0, 0.3, 0.9, -2.0),
    ],
)
def test_density_by_hand(scale, bias, radius, at, logit) -> None:
    made = silent(density_scale=scale, density_bias=bias, density_radius=radius)
    direction = F.normalize(torch.tensor([[1.0, -2.0, 0.5]]), dim=-1)
    wanted = scale * math.log1p(math.exp(logit))
    density, albedo = made(at * direction)
    assert float(density.detach()) == pytest.approx(wanted, rel=1e-4)
    assert float(made.density(at * direction).detach()) == pytest.approx(wanted, rel=1e-4)
    assert albedo.tolist() == [[0.5] * 3]


def test_the_network_s_first_output_is_the_density_s_and_the_rest_the_albedo_s() -> None:
    made = field(density_scale=3.0, density_bias=2.0)
    points = torch.rand(50, 3) * 2 - 1
    raw = made.body(points)
    density, albedo = made(points)
    bias = 2.0 * (1 - points.norm(dim=-1) / 0.5)
    torch.testing.assert_close(density, 3 * F.softplus(raw[:, 0] + bias))
    torch.testing.assert_close(albedo, torch.sigmoid(raw[:, 1:]))
    torch.testing.assert_close(made.density(points), density)
    assert bool((density > 0).all())


def gradient_normals(made: RadianceField, points: Tensor) -> Tensor:
    points = points.clone().requires_grad_()
    (slope,) = torch.autograd.grad(made.density(points).sum(), points)
    return F.normalize(-slope, dim=-1)


def test_normals_of_a_ball_point_outwards() -> None:
    made = silent(normals="finite_difference")
    points = F.normalize(torch.randn(100, 3), dim=-1) * 0.4
    normals = made.normals(points, eps=0.02)
    assert float((normals * points / 0.4).sum(dim=-1).min()) > 0.999


def test_differences_agree_with_the_gradient_of_the_density() -> None:
    made = field(normals="finite_difference", density_scale=20.0, density_bias=0.5).double()
    # Cells are half a unit and a quarter wide; stay away from their faces and their middle planes.
    cell = torch.randint(-4, 4, (300, 3)) * 0.25
    points = (cell + 0.125 + (torch.rand(300, 3) - 0.5) * 0.2).double()
    found = made.normals(points, eps=1e-3)
    wanted = gradient_normals(made, points)
    cosine = (found * wanted).sum(dim=-1)
    # A few points lie within reach of a kink of the network's ReLU.
    assert float((cosine > 0.9999).double().mean()) > 0.97
    assert float(cosine.min()) > 0.9
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(300).double())
    assert float((found[0] - found[1]).abs().max()) > 0.1


def test_shading_can_move_the_shape() -> None:
    """Finite differences carry a gradient to the field, and it is that of finite differences."""
    made = field(learns=True, normals="finite_difference").double()
    points = torch.rand(5, 3).double() - 0.5
    cotangent = torch.randn(5, 3).double()

    def loss() -> Tensor:
        return (made.normals(points, eps=0.05) * cotangent).sum()

    loss().backward()
    bias = made.body.hidden.bias
    assert bias.grad is not None
    assert float(bias.grad.abs().max()) > 1e-4
    for index in range(3):
        with torch.no_grad():
            bias[index] += 1e-5
            above = loss()
            bias[index] -= 2e-5
            below = loss()
            bias[index] += 1e-5
        numeric = float(above - below) / 2e-5
        assert float(bias.grad[index]) == pytest.approx(numeric, rel=1e-4, abs=1e-7)


def test_predicted_normals_come_from_their_own_network() -> None:
    made = field(learns=True, normals="predicted")
    points = torch.rand(20, 3) - 0.5
    normals = made.normals(points, eps=0.1)
    torch.testing.assert_close(normals.detach().norm(dim=-1), torch.ones(20))
    assert torch.equal(normals, made.normals(points, eps=0.001))
    normals.sum().backward()
    assert made.normal_head is not None
    assert made.normal_head[0].weight.grad is not None
    assert made.body.out.weight.grad is None
    assert field(normals="finite_difference").normal_head is None
