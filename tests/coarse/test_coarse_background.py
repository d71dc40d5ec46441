"""What is seen behind the object."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from maquette.coarse.background import Background, _frequencies
from maquette.common.config.models import BackgroundConfig
from maquette.common.scene.cameras import orbit

DIRECTIONS = orbit(3).rays(6, 6)[1]


def test_a_solid_background_is_its_color_everywhere() -> None:
    behind = Background(BackgroundConfig(kind="solid", color=(0.1, 0.2, 0.3)))
    for random in (True, False):
        found = behind(DIRECTIONS, random=random)
        torch.testing.assert_close(found, torch.tensor([0.1, 0.2, 0.3]).expand(3, 6, 6, 3))
    assert list(behind.parameters()) == []


def test_a_random_background_has_one_new_color_a_view() -> None:
    behind = Background(BackgroundConfig(kind="random", color=(0.1, 0.2, 0.3)))
    found = behind(DIRECTIONS, random=True)
    assert found.shape == DIRECTIONS.shape
    colors = found[:, 0, 0]
    assert torch.equal(found, colors[:, None, None].expand_as(found))
    assert float((colors[0] - colors[1]).abs().max()) > 0.01
    assert not torch.equal(behind(DIRECTIONS, random=True), found)
    # For pictures it stands still.
    still = behind(DIRECTIONS, random=False)
    torch.testing.assert_close(still[0, 0, 0], torch.tensor([0.1, 0.2, 0.3]))


def test_an_environment_depends_on_the_direction_alone_and_learns() -> None:
    behind = Background(BackgroundConfig(kind="environment"))
    found = behind(DIRECTIONS, random=True)
    assert torch.equal(found, behind(DIRECTIONS, random=False))
    values = found.detach()
    assert 0 < float(values.min()) < float(values.max()) < 1
    target = 0.5 + 0.4 * DIRECTIONS
    optimizer = torch.optim.Adam(behind.parameters(), lr=0.02)
    for _ in range(200):
        loss = F.mse_loss(behind(DIRECTIONS, random=True), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.002


def test_frequencies_by_hand() -> None:
    values = _frequencies(torch.tensor([[0.25, 0.0, -0.5]]))[0]
    assert values.shape == (24,)
    angles = [math.pi * 2**k * x for x in (0.25, 0.0, -0.5) for k in range(4)]
    wanted = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
    assert values.tolist() == pytest.approx(wanted, abs=1e-5)
