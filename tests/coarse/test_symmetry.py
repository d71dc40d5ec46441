"""Soft symmetry: zero for what is symmetric, and where it leaves two values, in closed form."""

from __future__ import annotations

import pytest
import torch

from maquette.coarse.symmetry import mirrored, points_in_ball, symmetry_loss


def ball(center: list[float]):
    def field(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        density = 50.0 * torch.exp(-8.0 * (points - torch.tensor(center)).square().sum(dim=-1))
        return density, torch.sigmoid(points[:, [0, 2, 2]])

    return field


def test_a_symmetric_field_costs_nothing_and_another_does() -> None:
    points = points_in_ball(2000, 1.0, torch.device("cpu"))
    assert float(symmetry_loss(ball([0.3, 0.0, -0.1]), points, 0.04)) < 1e-12
    assert float(symmetry_loss(ball([0.0, 0.4, 0.0]), points, 0.04)) > 0.01


def test_front_and_back_may_differ() -> None:
    """A face in front alone is symmetric: the plane holds the front's own axis."""
    p = torch.tensor([[0.5, 0.2, 0.1]])
    assert torch.equal(mirrored(p), torch.tensor([[0.5, -0.2, 0.1]]))


def test_two_colors_meet_where_the_formula_says() -> None:
    """Data wants a = 1, b = 0: (a - 1)^2 + b^2 + w (a - b)^2 ends at a - b = 1 / (1 + 2 w)."""
    values = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)

    def field(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        left = (points[:, 1] > 0).double()
        color = left * values[0] + (1.0 - left) * values[1]
        solid = torch.full((len(points),), 1e6, dtype=torch.float64)
        return solid, torch.stack([color, 0.0 * color, 0.0 * color], dim=-1)

    points, weight = torch.tensor([[0.0, 0.5, 0.0]], dtype=torch.float64), 0.75
    optimizer = torch.optim.SGD([values], lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        data = (values[0] - 1.0).square() + values[1].square()
        (data + weight * symmetry_loss(field, points, 0.04)).backward()
        optimizer.step()
    values = values.detach()
    assert float(values[0] - values[1]) == pytest.approx(1.0 / (1.0 + 2.0 * weight), abs=1e-6)
    assert float(values.sum()) == pytest.approx(1.0, abs=1e-6)


def test_points_fill_the_ball_evenly() -> None:
    points = points_in_ball(20_000, 2.0, torch.device("cpu"))
    away = points.norm(dim=-1)
    assert float(away.max()) <= 2.0
    assert float((away < 1.0).float().mean()) == pytest.approx(0.125, abs=0.01)
    assert float(points.mean(dim=0).abs().max()) < 0.03
