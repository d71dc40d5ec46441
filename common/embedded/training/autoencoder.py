"""Learning to compress: the autoencoder of the latent prior."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...scene.images import psnr_of_each, strip
from .data import Batch, Views, batches
from .models import build_autoencoder, save_autoencoder
from .precision import autocast
from .settings import TrainConfig

SEEN, HELD_OUT = 1, 2  # streams of batches beside the training's own
SHOWN = 4


class AutoencoderTask:
    """An autoencoder learns from crops: what `loop.train` asks of it.

    net, average: the network in training and its moving average.
    """

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        net: Any = build_autoencoder(config)
        self.net: Any = net.to(device)
        self.average: Any = copy.deepcopy(self.net).requires_grad_(False).eval()

    def batches(self, start: int, workers: int) -> Iterator[Batch]:
        """The training's batches from number `start` on."""
        return batches(Views(self.config), start, workers)

    def loss(self, batch: Batch, noise: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """L1 + 2 L2 of the pixels and a little KL (Rombach et al. 2022, without the critic)."""
        pixels = batch.unit()
        with autocast(self.config, self.device):
            posterior = self.net.encode(pixels).latent_dist
            again = self.net.decode(posterior.sample(noise)).sample
        errors = again.float() - pixels
        l1, l2 = errors.abs().mean(), errors.square().mean()
        kl = kl_per_number(posterior.mean.float(), posterior.logvar.float())
        parts = {"l1": l1, "l2": l2, "kl": kl}
        return l1 + 2.0 * l2 + self.config.kl * kl, {k: v.detach()[None] for k, v in parts.items()}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Mean PSNR in dB of whole views, and the spread of their latents."""
        scores: dict[str, float] = {}
        for name, stream, held_out in (("seen", SEEN, False), ("held out", HELD_OUT, True)):
            pixels = self._pixels(held_out, stream, max(2, self.config.eval_views // 4))
            pairs = zip(pixels.split(2), map(self._again, pixels.split(2)), strict=True)
            values = [psnr_of_each(again, true, 2.0) for true, again in pairs]
            scores[f"{name} psnr"] = float(torch.cat(values).mean())
        scores["latent std"] = 1.0 / self._scale()
        return scores

    @torch.no_grad()
    def picture(self) -> Tensor:
        """Views `[H, W, 3]` of held-out captions over what the average makes of them."""
        pixels = self._pixels(True, HELD_OUT, SHOWN)
        rows = torch.cat([pixels, *map(self._again, pixels.split(2))]).permute(0, 2, 3, 1)
        return strip((rows.cpu() * 0.5 + 0.5).clamp(0.0, 1.0), columns=SHOWN)

    def export(self, folder: Path) -> None:
        """Write the average as a diffusers autoencoder."""
        save_autoencoder(self.average, self._scale(), folder)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds beside the network and the optimizer: nothing."""
        return {}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave."""

    def _again(self, pixels: Tensor) -> Tensor:
        with torch.no_grad(), autocast(self.config, self.device):
            latents = self.average.encode(pixels).latent_dist.mode()
            return self.average.decode(latents).sample.float()

    @torch.no_grad()
    def _scale(self) -> float:
        """What brings the latents of views to unit variance about zero."""
        pixels = self._pixels(False, SEEN, max(2, self.config.eval_views // 4))
        squares = []
        for part in pixels.split(2):
            with autocast(self.config, self.device):
                latents = self.average.encode(part).latent_dist.mode()
            squares.append(latents.float().square().mean())
        return 1.0 / max(math.sqrt(float(torch.stack(squares).mean())), 1e-6)

    def _pixels(self, held_out: bool, stream: int, count: int) -> Tensor:
        return Views(self.config, held_out, stream).draw(0, count).to(self.device).unit()


def kl_per_number(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL divergence of normal posteriors from N(0, 1), averaged over all latent numbers, a scalar.

    Kingma and Welling 2014, appendix B: `(mean^2 + var - 1 - log var) / 2`, as a mean.
    """
    return 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).mean()
