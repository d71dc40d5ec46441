"""Which cells of space are worth looking into: nerfacc's occupancy grid and a march through it."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..common import ranks
from ..common.config.models import OccupancyConfig
from ..common.device import Waiting, send
from ..common.fields.field import EXTENT
from .ray_marching import Samples, march

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # nerfacc speaks of a missing CUDA toolkit; we don't need one
    from nerfacc import OccGridEstimator

_WARMUP = 64  # steps in which every cell is looked at
AT_ONCE = 2**20  # cells whose density is asked in one go; what a field keeps of each adds up


class Occupancy(nn.Module):
    """An `OccGridEstimator` on [-1, 1]^3 and the step length of rays."""

    def __init__(self, config: OccupancyConfig, samples: int) -> None:
        super().__init__()
        self.config = config
        self.step_size = 2.0 * EXTENT / samples
        box = torch.tensor([-EXTENT] * 3 + [EXTENT] * 3)
        self.estimator = OccGridEstimator(roi_aabb=box, resolution=config.resolution, levels=1)
        self._buffer("occs").fill_(config.start)
        self._buffer("binaries").fill_(True)

    def update(self, step: int, density: Callable[[Tensor], Tensor]) -> None:
        """Every few steps, look at cells anew: decayed maximum of density times step length.

        Magic3D (app. A) thresholds densities of a grid that starts at 20; nerfacc keeps the same
        decayed maximum in units of opacity of one step.
        """
        self.estimator.train()
        with Waiting(self._buffer("occs").device):  # nerfacc asks how many cells are occupied
            self.estimator.update_every_n_steps(
                step,
                occ_eval_fn=lambda points: self._opacities(points, density)[:, None],
                occ_thre=self.config.threshold,
                ema_decay=self.config.decay,
                warmup_steps=_WARMUP,
                n=self.config.every,
            )

    def _opacities(self, points: Tensor, density: Callable[[Tensor], Tensor]) -> Tensor:
        """Density times step length at points `[N, 3]`, so many at a time; `[N]`."""
        parts = [density(part) * self.step_size for part in points.split(AT_ONCE)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def sample(self, origins: Tensor, directions: Tensor, jitter: bool) -> Samples:
        """Packed samples of rays `[R, 3]` in occupied cells; `jitter` shifts each ray's steps."""
        shift = send(ranks.drawn(torch.rand, origins.shape[0]), origins.device) if jitter else None
        return march(
            origins,
            directions,
            self._buffer("binaries")[0],
            self._buffer("aabbs")[0],
            self.step_size,
            jitter=shift,
        )

    def _buffer(self, name: str) -> Tensor:
        """A tensor of the estimator: `occs`, `binaries` or `aabbs`."""
        return self.estimator.get_buffer(name)
