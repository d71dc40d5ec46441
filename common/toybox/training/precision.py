"""Which number format the networks compute in."""

from __future__ import annotations

import torch

from common.device import computes_bf16
from common.toybox.training.settings import TrainConfig


def autocast(config: TrainConfig, device: torch.device) -> torch.autocast:
    """A context in which the networks compute in bfloat16 where it is wanted and there is any."""
    return torch.autocast(device.type, torch.bfloat16, enabled=wants_bf16(config, device))


def wants_bf16(config: TrainConfig, device: torch.device) -> bool:
    """Whether a training computes in bfloat16 on this device."""
    if config.precision != "auto":
        return config.precision == "bfloat16"
    return computes_bf16(device)
