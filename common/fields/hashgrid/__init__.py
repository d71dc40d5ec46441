"""The multiresolution hash encoding: one function, three twins (torch, numba, Triton).

`encode` picks the twin for the device and dtype of the points; `twin` says which and why. The
definition and the table layout are in `reference`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...backends import Twin, everywhere, module_of, numba_obstacle, pick, triton_obstacle
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


def encode(x: Tensor, tables: Tensor, config: HashGridConfig) -> Tensor:
    """Multiresolution hash encoding by the fastest twin for the tensors' device and dtype.

    x: points `[N, 3]` in [0, 1]; a point outside takes the value at the nearest point of the box.
    tables: `[total_entries, F]`, all levels one after another.
    Returns `[N, levels * F]`, the first level first. Differentiable in `tables` and, where
    `x.requires_grad`, in `x`; once only, except for the torch twin. Raises ValueError on a wrong
    shape. Müller et al. 2022, section 3; see `reference.encode` for how ours differs. On the CPU
    the bits of the result and of its gradients repeat from run to run.
    """
    match twin(x.device, x.dtype).name:
        case "numba":
            return numba_twin.encode(x, tables, config)
        case "triton":
            return module_of(".triton_twin", __package__).encode(x, tables, config)
        case _:
            return reference.encode(x, tables, config)


def twin(device: torch.device | str, dtype: torch.dtype = torch.float32) -> Twin:
    """Which twin encodes points on `device`, and why."""
    obstacles = {"numba": numba_obstacle, "triton": triton_obstacle, "torch": everywhere}
    return pick("hash_grid", device, obstacles, dtype == torch.float32)


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
