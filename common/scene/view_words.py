"""From a camera to the words for its view: front, side, back or overhead.

Angles are degrees in the configuration and radians inside; azimuth 0 is the front.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..config.prompts import BACK, FRONT, OVERHEAD, SIDE, VIEWS, PromptConfig
from ..device import send
from .cameras import Cameras


def view_phrase(azimuth: float, elevation: float, config: PromptConfig | None = None) -> str:
    """The words for one direction in radians, such as "side view" (DreamFusion, sec. 3.2)."""
    config = config or PromptConfig()
    return config.phrase(VIEWS[view_index(azimuth, elevation, config)])


def view_index(azimuth: float, elevation: float, config: PromptConfig) -> int:
    """The index into VIEWS of one direction in radians; any azimuth, wrapped to one turn."""
    if math.degrees(elevation) > config.overhead_angle:
        return OVERHEAD
    from_front = abs(math.degrees(_wrapped(azimuth)))
    if from_front <= config.front_angle:
        return FRONT
    return BACK if from_front >= 180.0 - config.back_angle else SIDE


def view_indices(cameras: Cameras, config: PromptConfig) -> list[int]:
    """The index into VIEWS of each camera."""
    home = cameras.at_home
    pairs = zip(home.azimuth.tolist(), home.elevation.tolist(), strict=True)
    return [view_index(azimuth, elevation, config) for azimuth, elevation in pairs]


def view_blend(cameras: Cameras, config: PromptConfig) -> tuple[list[int], list[int], Tensor]:
    """Two views a camera and the share of the first, `[B]` in [0, 1], linear in azimuth.

    Front at 0, side at 90, back at 180 degrees. Above the overhead angle: overhead alone.
    """
    first, second, share = [], [], []
    home = cameras.at_home
    pairs = zip(home.azimuth.tolist(), home.elevation.tolist(), strict=True)
    for azimuth, elevation in pairs:
        quarter = abs(_wrapped(azimuth)) / (0.5 * math.pi)  # 0 front, 1 side, 2 back
        overhead = math.degrees(elevation) > config.overhead_angle
        behind = quarter > 1.0
        first.append(OVERHEAD if overhead else SIDE if behind else FRONT)
        second.append(OVERHEAD if overhead else BACK if behind else SIDE)
        share.append(1.0 if overhead else (2.0 if behind else 1.0) - quarter)
    return first, second, send(torch.tensor(share, dtype=torch.float32), cameras.azimuth.device)


def _wrapped(azimuth: float) -> float:
    """An angle in [-pi, pi]."""
    return math.remainder(azimuth, 2.0 * math.pi)
