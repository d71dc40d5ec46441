"""The fine stage's model as people see it while it grows."""

from __future__ import annotations

import torch
from torch import Tensor

from ..common.config.models import FineConfig
from ..common.guidance.judges import Views
from ..common.scene.cameras import Cameras
from ..common.watch.looks import Look
from .material import studio
from .model import AnyModel, render_surface


class Pictured:
    """A `Subject` of a model that may still learn. background: what it is trained before, `[3]`."""

    def __init__(self, model: AnyModel, config: FineConfig, background: Tensor) -> None:
        self._model, self._config, self._background = model, config, background

    def pictured(self, cameras: Cameras, resolution: int) -> Look:
        """Lit views before white, with normals and opacity."""
        white = torch.ones_like(self._background)
        views = self._render(cameras, resolution, white, painting=True)
        assert views.surface is not None
        return Look(views.image, views.surface[..., 1:4], views.opacity)

    def judged(self, cameras: Cameras, step: int) -> Views:
        """Lit views at the stage's resolution, before the background that it is trained before."""
        painting = self._config.paint_from is not None and step >= self._config.paint_from
        return self._render(cameras, self._config.resolution, self._background, painting)

    @torch.no_grad()
    def _render(
        self, cameras: Cameras, resolution: int, background: Tensor, painting: bool
    ) -> Views:
        model, cameras = self._model, cameras.to(self._model.device)
        lights = studio(self._config, cameras)
        return render_surface(
            model.surface(), model.texture, cameras, lights, resolution, background, painting
        )
