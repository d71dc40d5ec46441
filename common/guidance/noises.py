"""Whose noise a view is noised with: its own, its step's, or the run's.

One noise for all views of an object makes what a prior wants of them less unlike, and one for the
whole run makes distillation follow one deterministic path of the sampler (Consistent3D, Wu 2024,
keeps its noise fixed; with ours it lies in the image, not in the scene).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .. import ranks

NoiseOf = Literal["view", "step", "run"]


class Noises:
    """Draws noises from the run's own random numbers, but for one that all of the run shares.

    That one depends on the seed which torch was last given alone, so a resumed run has it too.
    """

    def __init__(self, of: NoiseOf) -> None:
        self._of: NoiseOf = of
        self._seed = torch.initial_seed()

    def __call__(self, shape: torch.Size) -> Tensor:
        """Standard normal noise `[B, C, h, w]` on the CPU; rows that share one are views of it."""
        match self._of:
            case "view":
                return ranks.drawn(torch.randn, *shape)
            case "step":
                return torch.randn(1, *shape[1:]).expand(shape)
            case "run":
                generator = torch.Generator().manual_seed(self._seed)
                return torch.randn(1, *shape[1:], generator=generator).expand(shape)
