"""The camera as a model is told it: twelve numbers of azimuth and elevation.

A U-Net built with `class_embed_type="projection"` and twelve inputs adds a small network of them
to its time embedding. All zeros stand for "not told": the row that is blind to the camera.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from common.cameras import Cameras

HARMONICS = 3
FEATURES = 4 * HARMONICS


def camera_features(cameras: Cameras) -> Tensor:
    """Sines and cosines of 1, 2 and 3 times azimuth and elevation, `[B, 12]`.

    Columns, three each by multiple: sin(k azimuth), cos(k azimuth), sin(k elevation),
    cos(k elevation). Values lie in [-1, 1] and no camera is all zeros.
    """
    multiples = torch.arange(1, HARMONICS + 1, device=cameras.azimuth.device)
    azimuth = cameras.azimuth[:, None] * multiples  # [B, 3]
    elevation = cameras.elevation[:, None] * multiples
    return torch.cat([azimuth.sin(), azimuth.cos(), elevation.sin(), elevation.cos()], dim=-1)


def reads_camera(config: Mapping[str, Any]) -> bool:
    """Whether a U-Net of this diffusers configuration takes `camera_features` as class labels."""
    return (
        config.get("class_embed_type") == "projection"
        and config.get("projection_class_embeddings_input_dim") == FEATURES
    )


def camera_labels(cameras: Cameras | None, like: Tensor) -> Tensor:
    """`camera_features` as class labels `[B, 12]` in the device and dtype of `like` `[B, ...]`.

    Zeros (camera not told) if `cameras` is None.
    """
    if cameras is None:
        return like.new_zeros(like.shape[0], FEATURES)
    return camera_features(cameras).to(like)
