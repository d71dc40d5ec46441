"""The exact prior of the toybox: a denoiser that knows every caption's true views.

Given the camera, the images that fit a caption are the photographs of its K instances. For such a
finite set the best possible denoiser is known in closed form, the posterior mean
    x0hat = sum_k p_k y_k,   p_k ~ exp(-|x_t - alpha y_k|^2 / (2 sigma^2)),
so what a run with this prior falls short of is the pipeline's own fault. As a latent prior it sees
512 px images through a fixed linear encoder, so that the gradient really passes through
`encode_image`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..light.skies import Skies
from ..priors.base import Condition, Prior, TextEmbedding
from ..priors.noise import cosine_schedule
from ..scene.cameras import Cameras
from ..toybox.grammar import CATEGORIES, COLORS, Caption, parse
from ..toybox.objects import ToyObject, build
from ..toybox.studio import photograph
from .names import EXACT_RESOLUTIONS

TIMESTEPS = 1000
BLOCK = 8  # pixels of an image to one latent cell, as in Stable Diffusion's autoencoder
_ANYTHING = 8  # captions that stand for the empty prompt
KEPT = 32  # views that are kept


@dataclass(frozen=True)
class Turned:
    """What a picture shows: a toy's caption, and by how much the toy is turned in the world.

    turn: what to add to a camera's azimuth for where it stands around the toy, radians.
    """

    caption: str
    turn: float


class ExactPrior(Prior):
    """The toybox's true views as a diffusion model, in pixels at 64 px or in latents at 512 px."""

    takes_camera = True
    takes_skies = True

    def __init__(
        self,
        space: Literal["pixel", "latent"],
        instances: int = 1,
        device: torch.device | str = "cpu",
        first: int = 0,
        shown: Turned | None = None,
    ) -> None:
        """instances: how many of a caption it knows, from number `first` on.

        shown: what a picture shows, which the empty prompt then stands for; the world is turned so
        that the picture's camera looks from where the run has it.
        """
        self.first, self.shown = first, shown
        self.space = space
        self.resolution = EXACT_RESOLUTIONS[space]
        self.instances = instances
        self.device = torch.device(device)
        self.schedule = cosine_schedule(TIMESTEPS)
        self.encoder = linear_encoder().to(device)
        self._views: dict[tuple[str | float, ...], Tensor] = {}

    def encode_text(self, prompts: Sequence[str]) -> TextEmbedding:
        """Check prompts against the toybox's grammar; the empty prompt stands for any toy."""
        for prompt in prompts:
            if prompt:
                parse(prompt)
        return TextEmbedding(tuple(prompts), {"row": torch.arange(len(prompts))})

    def encode_image(self, image: Tensor) -> Tensor:
        x = 2.0 * image.permute(0, 3, 1, 2) - 1.0
        return x if self.space == "pixel" else F.conv2d(x, self.encoder, stride=BLOCK)

    @torch.no_grad()
    def predict_noise(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        text, camera = condition.text, condition.cameras
        if camera is None:
            raise ValueError("cameras: the exact prior knows true views only, got None")
        alpha, sigma = self.schedule.at(t, x_t.ndim)
        noise = torch.empty_like(x_t)
        for prompt in dict.fromkeys(text.prompts):
            rows = [row for row, other in enumerate(text.prompts) if other == prompt]
            here = torch.tensor(rows)
            skies = None if condition.skies is None else condition.skies[here]
            known = self.true_views(prompt, camera[here], skies)
            for row, views in zip(rows, known, strict=True):
                here = slice(row, row + 1)
                x0 = posterior_mean(x_t[here], alpha[here], sigma[here], views[None])
                noise[here] = (x_t[here] - alpha[here] * x0) / sigma[here]
        return noise

    def true_views(self, prompt: str, cameras: Cameras, skies: Skies | None = None) -> list[Tensor]:
        """What each of B cameras may see of a prompt: B times `[K, C, h, w]`, in the model's space.

        skies: what lights them in place of the studio's lamp. The last ones are kept: some losses
        ask for the same view many times a step.
        """
        angles = torch.stack(
            [cameras.azimuth, cameras.elevation, cameras.distance, cameras.fovy], dim=-1
        )
        prompt = self.shown.caption if self.shown and not prompt else prompt
        if skies is not None:
            told = [skies.kind[:, None].float(), skies.turn.flatten(1), skies.exposure[:, None]]
            angles = torch.cat([angles, *(t.to(angles) for t in told)], dim=-1)
        keys = [(prompt, *row) for row in angles.tolist()]
        found = {key: self._views[key] for key in keys if key in self._views}
        missing = {key: number for number, key in enumerate(keys) if key not in found}
        if missing:
            index = torch.tensor(list(missing.values()))
            here, sky = cameras[index].to(self.device), None
            turn = 0.0 if self.shown is None else self.shown.turn
            here = here.turned(turn)
            toys = self._toys(prompt)
            if skies is not None:
                sky = skies[index].turned(turn).to(self.device)
            photos = [photograph(toy, here, self.resolution, skies=sky) for toy in toys]
            views = torch.stack(photos, dim=1)
            found |= {key: self.encode_image(v) for key, v in zip(missing, views, strict=True)}
        kept = [*self._views.items(), *((key, found[key]) for key in missing)]
        self._views = dict(kept[-KEPT:])
        return [found[key] for key in keys]

    def _toys(self, prompt: str) -> list[ToyObject]:
        if prompt:
            numbers = range(self.first, self.first + self.instances)
            return [_toy(parse(prompt).text, i, str(self.device)) for i in numbers]
        pairs = zip(CATEGORIES[:: len(CATEGORIES) // _ANYTHING], sorted(COLORS), strict=False)
        some = [Caption(category, color) for category, color in pairs]
        return [_toy(caption.text, 0, str(self.device)) for caption in some[:_ANYTHING]]


def posterior_mean(
    x_t: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    candidates: Tensor,
    log_weights: Tensor | None = None,
) -> Tensor:
    """E[x | x_t] when x is one of K known images a sample.

    The weights are `softmax(log_weights - |x_t - alpha c|^2 / (2 sigma^2))`, in float64: the
    distances of a whole image are thousands, and their differences decide.

    x_t: `[B, ...]`; candidates: `[B, K, ...]`; log_weights: `[B, K]` log prior probabilities up to
    a constant (-inf leaves a candidate out), even if None. Returns `[B, ...]` like `x_t`.
    Raises ValueError for shapes that do not match.
    """
    if candidates.ndim != x_t.ndim + 1 or candidates[:, 0].shape != x_t.shape:
        raise ValueError(
            f"candidates: expected [{x_t.shape[0]}, K, *{tuple(x_t.shape[1:])}], "
            f"got {tuple(candidates.shape)}"
        )
    if candidates.shape[1] == 1:
        return candidates[:, 0].to(x_t.dtype)
    flat = candidates.flatten(2).double()  # (B, K, D)
    a, s = (level.reshape(-1, 1).double() for level in (alpha, sigma))
    inner = (flat @ x_t.flatten(1).double()[:, :, None])[..., 0]
    # |x_t|^2 is the same for all candidates and drops out of the softmax.
    logits = (a * inner - 0.5 * a**2 * (flat**2).sum(dim=-1)) / s**2
    if log_weights is not None:
        logits = logits + log_weights.double()
    mean = torch.softmax(logits, dim=1)[:, None] @ flat  # (B, 1, D)
    return mean.reshape(x_t.shape).to(x_t.dtype)


@lru_cache(maxsize=256)
def _toy(caption: str, instance: int, device: str) -> ToyObject:
    return build(caption, instance).to(device)


def linear_encoder() -> Tensor:
    """A fixed linear autoencoder's encoder, convolution weights `[4, 3, 8, 8]`.

    Three channels are a block's mean colour, the fourth its slope in brightness along the diagonal.
    The four rows are orthogonal and of equal length, so that white noise keeps its variance ratio.
    """
    weights = torch.zeros(4, 3, BLOCK, BLOCK)
    for channel in range(3):
        weights[channel, channel] = 1.0 / BLOCK**2
    ramp = torch.arange(BLOCK) - (BLOCK - 1) / 2
    slope = (ramp[:, None] + ramp[None, :]).expand(3, -1, -1)
    weights[3] = slope / slope.norm() / BLOCK
    assert math.isclose(float(weights[3].norm()), float(weights[0].norm()), rel_tol=1e-5)
    return weights
