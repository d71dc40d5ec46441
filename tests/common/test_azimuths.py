"""Azimuths from an arc around the front, and as often as weights say: against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from maquette.common.config.scene import CameraConfig
from maquette.common.scene.azimuths import from_front, narrowed, weighted
from maquette.common.scene.views import sample_cameras

EVEN = (torch.arange(2000) + 0.5) / 2000


def degrees(turns: torch.Tensor) -> torch.Tensor:
    return from_front(turns) * 360.0


def test_an_arc_is_filled_evenly_around_the_front() -> None:
    found = degrees(narrowed(EVEN, 90.0)).sort().values
    wanted = (torch.arange(2000) + 0.5) / 2000 * 90.0 - 45.0
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=0)


def test_a_whole_turn_stays_as_it_is() -> None:
    turns = torch.rand(50) * 3.0
    assert narrowed(turns, 360.0) is turns


def test_equal_weights_are_even() -> None:
    for width in (360.0, 120.0):
        found, wanted = weighted(EVEN, [(0.0, 3.0)], width), narrowed(EVEN, width)
        torch.testing.assert_close(degrees(found), degrees(wanted), atol=0.02, rtol=0)


def test_a_straight_fall_to_the_back_is_the_square_root_law() -> None:
    # Density 1 - a / 180 has the distribution 2 u - u^2 in u = a / 180: u = 1 - sqrt(1 - share).
    found = degrees(weighted(EVEN, [(0.0, 1.0), (180.0, 0.0)]))
    share = 2.0 * from_front(EVEN).abs()
    wanted = 180.0 * (1.0 - (1.0 - share).sqrt()) * from_front(EVEN).sign()
    torch.testing.assert_close(found, wanted, atol=0.1, rtol=0)


def test_nothing_is_drawn_where_the_weight_is_zero() -> None:
    found = degrees(weighted(EVEN, [(0.0, 1.0), (60.0, 1.0), (60.5, 0.0), (180.0, 0.0)])).abs()
    assert float(found.max()) <= 60.5
    with pytest.raises(ValueError, match="within 45 degrees"):
        weighted(EVEN, [(90.0, 0.0), (91.0, 1.0)], 90.0)


def test_the_arc_widens_over_the_steps() -> None:
    config = CameraConfig(azimuth_width=[(0, 60), (100, 360)])
    for step, half in ((0, 30.0), (50, 105.0), (100, 180.0)):
        found = degrees(sample_cameras(config, 4000, step).azimuth / (2 * math.pi)).abs()
        assert 0.99 * half < float(found.max()) <= half + 1e-3


def test_the_draws_of_other_runs_stay_the_same() -> None:
    torch.manual_seed(5)
    plain = sample_cameras(CameraConfig(), 4)
    torch.manual_seed(5)
    narrow = sample_cameras(CameraConfig(azimuth_width=90.0), 4)
    assert torch.equal(plain.elevation, narrow.elevation)
    assert torch.equal(plain.fovy, narrow.fovy)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"azimuth_width": 0.0}, "azimuth_width"),
        ({"azimuth_width": [(0, 90), (9, 400)]}, "azimuth_width"),
        ({"azimuth_weights": [(90, 1.0), (0, 1.0)]}, "growing"),
        ({"azimuth_weights": [(0, 1.0), (200, 1.0)]}, r"\[0, 180\]"),
        ({"azimuth_weights": [(0, 0.0), (90, 1.0)]}, "at the front"),
    ],
)
def test_mistakes_are_told(wrong: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        CameraConfig(**wrong)
