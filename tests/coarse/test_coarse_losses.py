"""Losses of the coarse stage: hand values, gradients, what they do and don't push on."""

from __future__ import annotations

import math

import pytest
import torch

from maquette.coarse.losses import entropy_loss, opacity_loss, orientation_loss

FORWARD = torch.tensor([[0.0, 0, 1]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("normal", "opacity", "value"),
    [
        ((0, 0, -1), 1.0, 0.0),  # looks at the camera
        ((0, 0, 1), 1.0, 1.0),  # looks away
        ((0, 0, 1), 0.5, 0.5),
        ((0, 0.6, 0.8), 0.5, 0.32),
        ((1, 0, 0), 1.0, 0.0),  # seen edge on
    ],
)
def test_orientation_by_hand(normal, opacity, value) -> None:
    normals = torch.tensor([normal], dtype=torch.float64)
    found = orientation_loss(normals, FORWARD, torch.tensor([opacity], dtype=torch.float64))
    assert float(found) == pytest.approx(value)


def test_orientation_is_a_mean_and_turns_normals_not_opacity() -> None:
    normals = torch.tensor([[0.0, 0.6, 0.8], [0, 0, -1.0]], dtype=torch.float64, requires_grad=True)
    opacity = torch.tensor([0.5, 1.0], dtype=torch.float64, requires_grad=True)
    loss = orientation_loss(normals, FORWARD.expand(2, 3), opacity)
    assert float(loss.detach()) == pytest.approx(0.16)
    loss.backward()
    # d/dn of o (n . d)^2 / 2 is o (n . d) d.
    assert normals.grad is not None
    torch.testing.assert_close(
        normals.grad, torch.tensor([[0.0, 0, 0.4], [0, 0, 0]], dtype=torch.float64)
    )
    assert opacity.grad is None


@pytest.mark.parametrize(("opacity", "value"), [(0.0, 0.1), (1.0, math.sqrt(1.01))])
def test_opacity_by_hand(opacity, value) -> None:
    assert float(opacity_loss(torch.full((2, 3), opacity))) == pytest.approx(value)


def test_opacity_pulls_towards_empty_space() -> None:
    opacity = torch.rand(6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(opacity_loss, (opacity,))
    opacity_loss(opacity).backward()
    assert opacity.grad is not None
    assert float(opacity.grad.min()) > 0
    wanted = opacity.detach() / (opacity.detach() ** 2 + 0.01).sqrt() / 6
    torch.testing.assert_close(opacity.grad, wanted)


@pytest.mark.parametrize(
    ("opacity", "value"),
    [
        (0.5, math.log(2)),
        (0.25, 0.25 * math.log(4) + 0.75 * math.log(4 / 3)),
        (0.75, 0.25 * math.log(4) + 0.75 * math.log(4 / 3)),
    ],
)
def test_entropy_by_hand(opacity, value) -> None:
    assert float(entropy_loss(torch.full((4,), opacity))) == pytest.approx(value)


def test_entropy_pulls_to_the_nearer_end_and_stays_finite_there() -> None:
    opacity = torch.tensor([0.2, 0.8, 0.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(entropy_loss, (opacity,))
    entropy_loss(opacity).backward()
    assert opacity.grad is not None
    assert opacity.grad[0] > 0 > opacity.grad[1]
    assert float(opacity.grad[2]) == pytest.approx(0.0)
    ends = torch.tensor([0.0, 1.0], requires_grad=True)
    loss = entropy_loss(ends)
    loss.backward()
    assert float(loss.detach()) < 1.1e-3
    assert ends.grad is not None
    assert bool(torch.isfinite(ends.grad).all())
