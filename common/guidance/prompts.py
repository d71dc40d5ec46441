"""What the prior reads about each view: view-dependent text, negatives, Perp-Neg.

A prompt is encoded once with each of four view phrases, together with the empty and the negative
prompt; after that the text encoder is not needed again, and a step only picks rows. Angles are
degrees in the configuration and radians inside; azimuth 0 is the front.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..config.prompts import FRONT, SIDE, ExponentialDecay, PromptConfig
from ..device import send
from ..priors.base import TextEmbedding
from ..scene.cameras import Cameras
from ..scene.view_words import view_blend, view_indices
from .texts import all_texts


class TextEncoder(Protocol):
    """Whatever embeds texts: a prior, or a store of what one has embedded."""

    def encode_text(self, prompts: Sequence[str]) -> TextEmbedding:
        """One row a prompt."""
        ...


@dataclass(frozen=True)
class ViewPrompts:
    """A prompt's embeddings for every view; `encode` makes it, the training loop picks rows.

    views: 4 rows in the order of VIEWS. unconditional: 1 row. negative: 1 row, or None. plain: the
    prompt without words for the view, 1 row, where those are guided on their own.
    """

    config: PromptConfig
    views: TextEmbedding
    unconditional: TextEmbedding
    negative: TextEmbedding | None
    plain: TextEmbedding | None = None

    @staticmethod
    def encode(
        prior: TextEncoder,
        prompt: str,
        config: PromptConfig | None = None,
        told: bool = False,
        pictured: bool = False,
    ) -> ViewPrompts:
        """Encode all texts in one call of `prior.encode_text`, each distinct one once.

        told: whether the prior is told the camera itself, so that its texts name no view.
        pictured: whether it is told a picture, so that the prompt may be empty.

        Raises UserError as `view_texts` does, and whatever the prior raises about a text.
        """
        config = config or PromptConfig()
        texts = all_texts(prompt, config, told, pictured)
        distinct = list(dict.fromkeys(texts))
        embedding = prior.encode_text(distinct)
        rows = [distinct.index(text) for text in texts]
        return ViewPrompts(
            config,
            views=embedding.select(rows[:4]),
            unconditional=embedding.select(rows[4:5]),
            negative=embedding.select(rows[5:6]) if config.negative.strip() else None,
            plain=embedding.select(rows[-1:]) if config.view_guidance > 0.0 else None,
        )

    def rows(self, cameras: Cameras) -> TextEmbedding:
        """One row of text a camera: the view's own, or a blend of two if the config says so."""
        if not self.config.blends:
            return self.views.select(view_indices(cameras, self.config))
        first, second, share = view_blend(cameras, self.config)
        return mix(self.views.select(first), self.views.select(second), share)

    def unconditional_rows(self, cameras: Cameras) -> TextEmbedding:
        """The empty prompt, once a camera."""
        return self.unconditional.select([0] * len(cameras))

    def negative_rows(self, cameras: Cameras) -> TextEmbedding | None:
        """The negative prompt, once a camera, if there is one."""
        return None if self.negative is None else self.negative.select([0] * len(cameras))

    def plain_rows(self, cameras: Cameras) -> TextEmbedding:
        """The prompt without words for the view, once a camera."""
        assert self.plain is not None
        return self.plain.select([0] * len(cameras))

    def perp_neg_rows(self, cameras: Cameras) -> tuple[tuple[TextEmbedding, ...], Tensor]:
        """Two negatives a camera and their weights `[2, B]`, for `Distillation`'s Perp-Neg.

        The first negative is the front before 90 degrees of azimuth and the side behind it, the
        second the side and the front: what the view must not look like (Armandpour 2023).
        """
        indices, weights = perp_neg_weights(cameras, self.config)
        return tuple(self.views.select(row) for row in indices), weights


def perp_neg_weights(cameras: Cameras, config: PromptConfig) -> tuple[list[list[int]], Tensor]:
    """Perp-Neg's two negative views for each camera, `[2][B]`, and their weights `[2, B]` <= 0.

    With r the share of the nearer-to-front view (`view_blend`) and f(r) = a exp(-b r) + c:
    in front, front by -f(r) and side by -f(1 - r); behind, side by -f(r) and front by -f(r).
    The defaults vanish (below 1e-3) for the view the camera is at and grow away from it; overhead
    views have no negatives. A weight that would be positive (it would attract) is 0.

    Views and signs are those of the code released with the paper (Armandpour 2023), which has
    `w exp(-b r)` with a step to 0 near the camera's own view; shape and numbers are threestudio's.
    """
    decay = config.perp_neg_decay
    near, _, share = view_blend(cameras.at_home, config)
    pairs: list[tuple[int, int]] = []
    weights: list[tuple[float, float]] = []
    for view, r in zip(near, share.tolist(), strict=True):
        if view == FRONT:
            pairs.append((FRONT, SIDE))
            weights.append((_decay(decay.front, r), _decay(decay.side, 1.0 - r)))
        elif view == SIDE:
            pairs.append((SIDE, FRONT))
            weights.append((_decay(decay.side_behind, r), _decay(decay.front_behind, r)))
        else:
            pairs.append((FRONT, SIDE))
            weights.append((0.0, 0.0))
    indices = [[pair[i] for pair in pairs] for i in range(2)]
    return indices, send(-torch.tensor(weights).clamp(min=0.0).T, cameras.azimuth.device)


def mix(first: TextEmbedding, second: TextEmbedding, share: Tensor) -> TextEmbedding:
    """`share * first + (1 - share) * second`, row by row, in embedding space.

    share: `[B]` in [0, 1]. What cannot be blended, the prompts' names and tensors that are not
    floating point (token masks), is taken from the larger share.
    """
    tensors = {}
    for key, a in first.tensors.items():
        b = second.tensors[key]
        part = share.to(a.device).reshape(-1, *(1,) * (a.ndim - 1))
        if a.is_floating_point():
            tensors[key] = part.to(a) * a + (1.0 - part.to(a)) * b
        else:
            tensors[key] = torch.where(part >= 0.5, a, b)
    names = [
        a if s >= 0.5 else b
        for a, b, s in zip(first.prompts, second.prompts, share.tolist(), strict=True)
    ]
    return TextEmbedding(tuple(names), tensors)


def _decay(coefficients: ExponentialDecay, r: float) -> float:
    a, b, c = coefficients
    return a * math.exp(-b * r) + c
