"""Choosing the device of a run."""

from __future__ import annotations

import torch

from .errors import UserError


def pick_device(name: str) -> torch.device:
    """The torch device of a setting such as `auto`, `cpu`, `cuda` or `cuda:1`.

    `auto` is CUDA where there is one, else the CPU. Raises UserError for a device that isn't there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"'{name}' is no device; give auto, {', '.join(devices())}") from None
    if device.type not in {"cpu", "cuda"} or not _present(device):
        raise UserError(
            f"device '{name}' isn't there or isn't supported; this machine offers: "
            f"{', '.join(devices())}"
        )
    return device


def devices() -> list[str]:
    """Names of the devices this machine offers."""
    return ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]


def threads() -> int:
    """How many threads torch computes with on the CPU."""
    return torch.get_num_threads()


def use_threads(count: int) -> None:
    """Compute with so many threads on the CPU from now on."""
    if count != torch.get_num_threads():
        torch.set_num_threads(count)


def computes_bf16(device: torch.device) -> bool:
    """Whether a device has units for bfloat16, so that it computes in it natively."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported()


def _present(device: torch.device) -> bool:
    if device.type == "cpu":
        return device.index in (None, 0)
    return torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
