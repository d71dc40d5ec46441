"""A kernel of one line, by which is found out whether Triton works on a device at all."""

from __future__ import annotations

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]

from .device import launch


@triton.jit
def _double(value_ptr, BLOCK: tl.constexpr):
    place = value_ptr + tl.arange(0, BLOCK)
    tl.store(place, 2.0 * tl.load(place))


def problem(device: torch.device) -> str | None:
    """None where the kernel does what it says; errors of Triton's are the caller's to catch."""
    values = torch.ones(16, device=device)
    launch(_double, (1,), values, BLOCK=16)
    return None if values.tolist() == [2.0] * 16 else "its kernels give wrong numbers here"
