"""The multiresolution hash encoding: one function, three twins (torch, numba, Triton).

`encode` picks the twin for the device and dtype of the points; `twin` says which and why. The
definition and the table layout are in `reference`.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any, Literal, assert_never

import torch
from torch import Tensor, nn

from . import numba_twin, reference
from .reference import (
    HashGridConfig,
    extend,
    is_hashed,
    resolutions,
    table_offsets,
    table_sizes,
)

__all__ = [
    "HashGrid",
    "HashGridConfig",
    "encode",
    "extend",
    "is_hashed",
    "resolutions",
    "table_offsets",
    "table_sizes",
    "twin",
]

Twin = Literal["torch", "numba", "triton"]


def encode(x: Tensor, tables: Tensor, config: HashGridConfig) -> Tensor:
    """Multiresolution hash encoding by the fastest twin for the tensors' device and dtype.

    x: points `[N, 3]` in [0, 1]; a point outside takes the value at the nearest point of the box.
    tables: `[total_entries, F]`, all levels one after another.
    Returns `[N, levels * F]`, the first level first. Differentiable in `tables` and, where
    `x.requires_grad`, in `x`; once only, except for the torch twin. Raises ValueError on a wrong
    shape. Müller et al. 2022, section 3; see `reference.encode` for how ours differs. On the CPU
    the bits of the result and of its gradients repeat from run to run.
    """
    name, _ = _choose(x.device.type, x.dtype)
    match name:
        case "numba":
            return numba_twin.encode(x, tables, config)
        case "triton":
            return _triton_twin().encode(x, tables, config)
        case "torch":
            return reference.encode(x, tables, config)
        case _:
            assert_never(name)


def twin(device: torch.device | str, dtype: torch.dtype = torch.float32) -> str:
    """Which twin encodes points on `device`, and why; one line such as `numba (compiled, ...)`."""
    name, reason = _choose(torch.device(device).type, dtype)
    return f"{name} ({reason})"


def _choose(device_type: str, dtype: torch.dtype) -> tuple[Twin, str]:
    """The twin for a device and dtype, with the reason."""
    if dtype != torch.float32:
        return "torch", f"the compiled twins are float32 only, not {dtype}"
    if device_type == "cpu":
        return "numba", "compiled for this processor"
    if device_type != "cuda":
        return "torch", f"there is no compiled twin for the device {device_type}"
    if _triton_twin() is None:
        return "torch", "triton can't be imported"
    return "triton", "compiled for this GPU"


@cache
def _triton_twin() -> Any:
    """The Triton twin's module, or None where triton isn't installed; imported on first use."""
    try:
        return importlib.import_module(".triton_twin", __package__)
    except ImportError:
        return None


class HashGrid(nn.Module):
    """A hash grid that learns: the tables of `config` as one parameter, encoded by `encode`.

    The entries start uniform in ±1e-4 (Müller et al. 2022, section 4), drawn from `generator`.
    """

    def __init__(self, config: HashGridConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        start = torch.empty(table_offsets(config)[-1], config.features)
        self.tables = nn.Parameter(start.uniform_(-1e-4, 1e-4, generator=generator))

    @property
    def width(self) -> int:
        """Features a point: levels * F."""
        return self.config.depth * self.config.features

    def forward(self, x: Tensor) -> Tensor:
        """Encode points `[N, 3]` in [0, 1] to `[N, width]`."""
        return encode(x, self.tables, self.config)
