"""What a picture shows, asked of a prior that was trained on the toybox: caption and direction.

The picture is noised, and denoised under captions and cameras; under the true ones the noise is
found best (Li 2023, see `classify`). First every category in the picture's own colours from all
around, then every paint of the best one, then the angles. It is what textual inversion is for
models of an open world (RealFusion, Magic123), where there are few enough words to try them all;
and it tells where the front of what is shown lies, which a picture alone leaves open.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..priors.base import Condition, Prior
from ..scene.cameras import Cameras
from ..toybox.grammar import CATEGORIES, COLORS, Caption, paints
from .classify import noise_errors
from .reference import Portrait
from .timesteps import share_to_timestep

LEVELS = (0.5, 0.7, 0.85)
"""Noise levels, as shares of the timesteps, at which a few candidates are compared."""
PAINT_LEVELS = (0.3, 0.5, 0.7)
"""The same for paints and small turns, which show where there is less noise."""
TURNS = 12
HEIGHTS = (0.0, 25.0, 50.0)
"""Elevations (degrees) that are tried at first where none is known."""
KEPT = 24
"""Candidates that are looked at more closely."""
OWN_COLORS = 2
MARGIN = 0.06
"""By how much of its error a paint must explain the picture better than a plainer one. False second
colours, of proportions or pairs that training never showed, were better by up to 0.05."""
DRAWS = 2
LEAST_PSNR = 15.5
"""In dB; a prior that comes no nearer to a picture at the highest level doesn't know what it is."""


@dataclass(frozen=True)
class Candidate:
    """A caption, and where the picture's camera stands around the object, radians."""

    caption: Caption
    azimuth: float
    elevation: float


@dataclass(frozen=True)
class Described(Candidate):
    """The candidate that explains the picture best; psnr: how near the prior comes to it, dB."""

    psnr: float


def describe(
    prior: Prior,
    rgba: Tensor,
    camera: Cameras,
    elevation: float | None,
    backdrop: Tensor,
    caption: Caption | None = None,
    seed: int = 0,
) -> Described:
    """What a picture shows, and from where, as a prior has it that is told cameras.

    rgba: straight, `[S, S, 4]` in [0, 1]. camera: one; its distance and field of view count.
    elevation: radians, None if it isn't known. backdrop: `[3]`, of the prior's own pictures.
    caption: what it shows, if that is known. About a thousand rows of the prior, three times as
    many for an unknown elevation. Draws no random numbers of the run.
    """
    shown = Portrait(rgba, camera).before(backdrop.to(rgba))
    jury = _Jury(prior, prior.encode_image(shown[None]), camera, seed)
    heights = [math.radians(h) for h in HEIGHTS] if elevation is None else [elevation]
    directions = [(2.0 * math.pi * i / TURNS, h) for h in heights for i in range(TURNS)]
    if caption is None:
        captions = [Caption(c, color) for c in CATEGORIES for color in own_colors(rgba)]
    else:
        captions = [caption]
    best = jury.best([Candidate(c, *d) for c in captions for d in directions], (0.6,))
    found = jury.best(best, LEVELS, DRAWS)[0]
    if caption is None:
        painted = jury.best([replace(found, caption=c) for c in paints(found.caption)], (0.5,))
        found = jury.plainest(painted, PAINT_LEVELS, 2 * DRAWS)
    found = _refined(jury, found, elevation is None)
    return Described(found.caption, found.azimuth, found.elevation, jury.psnr(found))


class _Jury:
    """A prior that judges candidates for one picture, each time under noise of its own."""

    def __init__(self, prior: Prior, x: Tensor, camera: Cameras, seed: int) -> None:
        self.prior, self.x, self.camera = prior, x, camera
        self.generator = torch.Generator().manual_seed(seed)

    def errors(
        self, candidates: Sequence[Candidate], levels: Sequence[float], draws: int
    ) -> Tensor:
        """The mean squared errors of the noise under each candidate, `[D, n]`, by draw."""
        condition, count = self._condition(candidates), len(candidates)
        alike, found = (count, -1, -1, -1), []
        for share in levels:
            for _ in range(draws):
                noise = torch.randn(self.x.shape, generator=self.generator).to(self.x)
                x, eps = self.x.expand(alike), noise.expand(alike)
                found.append(noise_errors(self.prior, x, eps, share, [condition])[0])
        return torch.stack(found)

    def best(
        self, candidates: Sequence[Candidate], levels: Sequence[float], draws: int = 1
    ) -> list[Candidate]:
        """Those of the candidates that explain the picture best, the best one first."""
        errors = self.errors(candidates, levels, draws).log().mean(dim=0)
        return [candidates[i] for i in errors.argsort()[:KEPT].tolist()]

    def plainest(
        self, candidates: Sequence[Candidate], levels: Sequence[float], draws: int
    ) -> Candidate:
        """The one with the fewest words that none explains the picture clearly better than."""
        errors = self.errors(candidates, levels, draws).log().mean(dim=0)
        alike = (errors < errors.min() + MARGIN).nonzero().flatten().tolist()

        def plainness(i: int) -> tuple[int, float]:
            return len(candidates[i].caption.text.split()), float(errors[i])

        return candidates[min(alike, key=plainness)]

    def psnr(self, candidate: Candidate) -> float:
        """How near the prior's one-step answer comes to the picture at the highest level, dB.

        The error of the clean x is the noise's times (sigma / alpha)^2; the peak is x's own range.
        """
        error = float(self.errors([candidate], LEVELS[-1:], DRAWS).mean())
        schedule = self.prior.schedule
        t = share_to_timestep(LEVELS[-1], len(schedule))
        ratio = float(schedule.sigma[t] / schedule.alpha[t])
        peak = float(self.x.max() - self.x.min())
        return 10.0 * math.log10(peak**2 / (error * ratio**2))

    def _condition(self, candidates: Sequence[Candidate]) -> Condition:
        texts = [c.caption.text for c in candidates]
        distinct = list(dict.fromkeys(texts))
        text = self.prior.encode_text(distinct).select([distinct.index(t) for t in texts])
        even = torch.ones(len(candidates))
        cameras = Cameras(
            torch.tensor([c.azimuth for c in candidates]),
            torch.tensor([c.elevation for c in candidates]),
            self.camera.distance.cpu() * even,
            self.camera.fovy.cpu() * even,
        )
        return Condition(text, cameras.to(self.x.device))


def own_colors(rgba: Tensor) -> list[str]:
    """The names of the colours that most of a picture's solid pixels are nearest to.

    Compared by their hue and saturation first, for a shaded red is darker and still red.
    """
    solid = rgba[..., :3][rgba[..., 3] > 0.5].cpu()
    named = torch.tensor(list(COLORS.values()))

    def hue(colors: Tensor) -> Tensor:
        return colors / (colors.norm(dim=-1, keepdim=True) + 0.05)

    far = (hue(solid)[:, None] - hue(named)).square().sum(dim=-1)
    far = far + 0.3 * (solid.mean(dim=-1, keepdim=True) - named.mean(dim=-1)).square()
    counts = far.argmin(dim=1).bincount(minlength=len(named))
    return [list(COLORS)[i] for i in counts.argsort(descending=True)[:OWN_COLORS].tolist()]


def _refined(jury: _Jury, found: Candidate, free: bool) -> Candidate:
    """The same with its angles to two degrees, and once from the other side; free: both angles."""
    turned = replace(found, azimuth=found.azimuth + math.pi)
    found = jury.best([found, turned], LEVELS, DRAWS)[0]
    for step in (12.0, 6.0, 3.0):
        d = math.radians(step)
        heights = (-1, 0, 1) if free else (0,)
        near = [
            replace(found, azimuth=found.azimuth + i * d, elevation=found.elevation + j * d)
            for i in (-1, 0, 1)
            for j in heights
        ]
        found = jury.best(near, PAINT_LEVELS, DRAWS)[0]
    return found
