"""How the networks compute: in which number format, and how they attend."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...device import computes_bf16
from .settings import TrainConfig


def autocast(config: TrainConfig, device: torch.device) -> torch.autocast:
    """A context in which the networks compute in bfloat16 where it is wanted and there is any."""
    return torch.autocast(device.type, torch.bfloat16, enabled=wants_bf16(config, device))


def wants_bf16(config: TrainConfig, device: torch.device) -> bool:
    """Whether a training computes in bfloat16 on this device."""
    if config.precision != "auto":
        return config.precision == "bfloat16"
    return computes_bf16(device)


def attention(device: torch.device) -> AbstractContextManager[object]:
    """A context for steps down a loss, in which attention on a CPU is a product of matrices.

    The way back through torch's fused one takes the CPU a tenth of a step, for sixteen tokens.
    """
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()
