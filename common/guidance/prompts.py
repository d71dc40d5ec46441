"""What the prior reads about each view: view-dependent text, negatives, Perp-Neg.

A prompt is encoded once with each of four view phrases, together with the empty and the negative
prompt; after that the text encoder is not needed again, and a step only picks rows. Angles are
degrees in the configuration and radians inside; azimuth 0 is the front.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from ..errors import UserError
from ..priors.base import TextEmbedding
from ..scene.cameras import Cameras

View = Literal["front", "side", "back", "overhead"]
VIEWS: tuple[View, ...] = ("front", "side", "back", "overhead")
FRONT, SIDE, BACK, OVERHEAD = range(4)

PHRASES: Mapping[View, str] = {
    "front": "front view",
    "side": "side view",
    "back": "back view",
    "overhead": "overhead view",
}
CONFLICTING_WORDS: Mapping[View, tuple[str, ...]] = {
    "front": (),
    "side": (),
    "back": (
        *("face", "facing", "eye", "eyes", "mouth", "nose", "beak"),
        *("smile", "smiling", "grinning", "laughing", "crying", "looking"),
    ),
    "overhead": (),
}
"""Words that only a view from the front can show; they pull a face onto the back."""

ExponentialDecay = tuple[float, float, float]
"""(a, b, c) of `a exp(-b r) + c`."""


@dataclass(frozen=True)
class ViewConfig:
    """How a camera turns into words.

    view_dependent: off, every view reads the bare prompt (for priors that are told the camera).
    front_angle, back_angle: half-widths around azimuth 0 and 180, degrees; between them is side.
    overhead_angle: elevation above which a view is overhead, degrees (DreamFusion: 60).
    phrases: what is appended to the prompt, after a comma.
    prompts: whole prompts of the user's own for some views, taken as they are.
    negative: the negative prompt; empty is none.
    interpolate: blend the embeddings of neighbouring views by azimuth (front 0, side 90, back 180)
        in place of switching between them.
    debias: drop words that contradict a view from its prompt.
    conflicting_words: which words, for each view.
    decay_front, decay_side, ..._behind: Perp-Neg's weights, see `perp_neg_weights`.
    """

    view_dependent: bool = True
    front_angle: float = 45.0
    back_angle: float = 45.0
    overhead_angle: float = 60.0
    phrases: Mapping[View, str] = field(default_factory=lambda: dict(PHRASES))
    prompts: Mapping[View, str] = field(default_factory=dict)
    negative: str = ""
    interpolate: bool = False
    debias: bool = False
    conflicting_words: Mapping[View, tuple[str, ...]] = field(
        default_factory=lambda: dict(CONFLICTING_WORDS)
    )
    decay_front: ExponentialDecay = (4.0, 0.5, -2.426)
    decay_side: ExponentialDecay = (4.0, 0.5, -2.426)
    decay_side_behind: ExponentialDecay = (1.0, 0.5, -0.606)
    decay_front_behind: ExponentialDecay = (1.0, 0.5, 0.967)

    def __post_init__(self) -> None:
        if self.front_angle < 0 or self.back_angle < 0 or self.front_angle + self.back_angle > 180:
            raise ValueError(
                "front_angle, back_angle: expected at least 0 and at most 180 together, "
                f"got {self.front_angle} and {self.back_angle}"
            )


def view_phrase(azimuth: float, elevation: float, config: ViewConfig | None = None) -> str:
    """The words for one direction in radians, such as "side view" (DreamFusion, sec. 3.2)."""
    config = config or ViewConfig()
    return config.phrases[VIEWS[view_index(azimuth, elevation, config)]]


def view_index(azimuth: float, elevation: float, config: ViewConfig) -> int:
    """The index into VIEWS of one direction in radians; any azimuth, wrapped to one turn."""
    if math.degrees(elevation) > config.overhead_angle:
        return OVERHEAD
    from_front = abs(math.degrees(_wrapped(azimuth)))
    if from_front <= config.front_angle:
        return FRONT
    return BACK if from_front >= 180.0 - config.back_angle else SIDE


def drop_words(prompt: str, words: Sequence[str]) -> str:
    """The prompt without the given whole words, in any case, and without the holes they leave."""
    for word in words:
        prompt = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", " ", prompt, flags=re.IGNORECASE)
    prompt = re.sub(r"\s+", " ", prompt)
    prompt = re.sub(r"\s+,", ",", prompt)
    return re.sub(r",(\s*,)+", ",", prompt).strip(" ,")


def view_texts(prompt: str, config: ViewConfig) -> tuple[str, ...]:
    """The four texts of a prompt in the order of VIEWS.

    A view with a prompt of its own takes that. Otherwise the prompt, without conflicting words if
    debiasing is on (a plain list of words; Hong 2023 lets a language model find them), and the
    view's phrase. Raises UserError for an empty prompt, or one of which debiasing leaves nothing.
    """
    if not prompt.strip():
        raise UserError('the prompt is empty; say what to make, for example "a red mushroom"')
    texts = []
    for view in VIEWS:
        if view in config.prompts:
            text = config.prompts[view].strip()
            if not text:
                raise UserError(f"the prompt of the {view} view is empty; fill it or leave it out")
        else:
            text = _view_text(prompt.strip(), view, config)
        texts.append(text)
    return tuple(texts)


def all_texts(prompt: str, config: ViewConfig) -> tuple[str, ...]:
    """Every text a prompt needs: the four of `view_texts`, the empty one, the negative if any."""
    negative = config.negative.strip()
    return (*view_texts(prompt, config), "", *([negative] if negative else []))


class TextEncoder(Protocol):
    """Whatever embeds texts: a prior, or a store of what one has embedded."""

    def encode_text(self, prompts: Sequence[str]) -> TextEmbedding:
        """One row a prompt."""
        ...


@dataclass(frozen=True)
class ViewPrompts:
    """A prompt's embeddings for every view; `encode` makes it, the training loop picks rows.

    views: 4 rows in the order of VIEWS. unconditional: 1 row. negative: 1 row, or None.
    """

    config: ViewConfig
    views: TextEmbedding
    unconditional: TextEmbedding
    negative: TextEmbedding | None

    @staticmethod
    def encode(prior: TextEncoder, prompt: str, config: ViewConfig | None = None) -> ViewPrompts:
        """Encode all texts in one call of `prior.encode_text`, each distinct one once.

        Raises UserError as `view_texts` does, and whatever the prior raises about a text.
        """
        config = config or ViewConfig()
        texts = all_texts(prompt, config)
        distinct = list(dict.fromkeys(texts))
        embedding = prior.encode_text(distinct)
        rows = [distinct.index(text) for text in texts]
        return ViewPrompts(
            config,
            views=embedding.select(rows[:4]),
            unconditional=embedding.select(rows[4:5]),
            negative=embedding.select(rows[5:6]) if len(rows) > 5 else None,
        )

    def rows(self, cameras: Cameras) -> TextEmbedding:
        """One row of text a camera: the view's own, or a blend of two if the config says so."""
        if not self.config.interpolate:
            return self.views.select(view_indices(cameras, self.config))
        first, second, share = view_blend(cameras, self.config)
        return mix(self.views.select(first), self.views.select(second), share)

    def unconditional_rows(self, cameras: Cameras) -> TextEmbedding:
        """The empty prompt, once a camera."""
        return self.unconditional.select([0] * len(cameras))

    def negative_rows(self, cameras: Cameras) -> TextEmbedding | None:
        """The negative prompt, once a camera, if there is one."""
        return None if self.negative is None else self.negative.select([0] * len(cameras))

    def perp_neg_rows(self, cameras: Cameras) -> tuple[tuple[TextEmbedding, ...], Tensor]:
        """Two negatives a camera and their weights `[2, B]`, for `Distillation`'s Perp-Neg.

        The first negative is the front before 90 degrees of azimuth and the side behind it, the
        second the side and the front: what the view must not look like (Armandpour 2023).
        """
        indices, weights = perp_neg_weights(cameras, self.config)
        return tuple(self.views.select(row) for row in indices), weights


def view_indices(cameras: Cameras, config: ViewConfig) -> list[int]:
    """The index into VIEWS of each camera."""
    pairs = zip(cameras.azimuth.tolist(), cameras.elevation.tolist(), strict=True)
    return [view_index(azimuth, elevation, config) for azimuth, elevation in pairs]


def view_blend(cameras: Cameras, config: ViewConfig) -> tuple[list[int], list[int], Tensor]:
    """Two views a camera and the share of the first, `[B]` in [0, 1], linear in azimuth.

    Front at 0, side at 90, back at 180 degrees. Above the overhead angle: overhead alone.
    """
    first, second, share = [], [], []
    pairs = zip(cameras.azimuth.tolist(), cameras.elevation.tolist(), strict=True)
    for azimuth, elevation in pairs:
        quarter = abs(_wrapped(azimuth)) / (0.5 * math.pi)  # 0 front, 1 side, 2 back
        overhead = math.degrees(elevation) > config.overhead_angle
        behind = quarter > 1.0
        first.append(OVERHEAD if overhead else SIDE if behind else FRONT)
        second.append(OVERHEAD if overhead else BACK if behind else SIDE)
        share.append(1.0 if overhead else (2.0 if behind else 1.0) - quarter)
    return first, second, torch.tensor(share, dtype=torch.float32).to(cameras.azimuth.device)


def perp_neg_weights(cameras: Cameras, config: ViewConfig) -> tuple[list[list[int]], Tensor]:
    """Perp-Neg's two negative views for each camera, `[2][B]`, and their weights `[2, B]` <= 0.

    With r the share of the nearer-to-front view (`view_blend`) and f(r) = a exp(-b r) + c:
    in front, front by -f(r) and side by -f(1 - r); behind, side by -f(r) and front by -f(r).
    The defaults vanish (below 1e-3) for the view the camera is at and grow away from it; overhead
    views have no negatives. A weight that would be positive (it would attract) is 0.

    Views and signs are those of the code released with the paper (Armandpour 2023), which has
    `w exp(-b r)` with a step to 0 near the camera's own view; shape and numbers are threestudio's.
    """
    near, _, share = view_blend(cameras, config)
    pairs: list[tuple[int, int]] = []
    weights: list[tuple[float, float]] = []
    for view, r in zip(near, share.tolist(), strict=True):
        if view == FRONT:
            pairs.append((FRONT, SIDE))
            weights.append((_decay(config.decay_front, r), _decay(config.decay_side, 1.0 - r)))
        elif view == SIDE:
            pairs.append((SIDE, FRONT))
            weights.append(
                (_decay(config.decay_side_behind, r), _decay(config.decay_front_behind, r))
            )
        else:
            pairs.append((FRONT, SIDE))
            weights.append((0.0, 0.0))
    indices = [[pair[i] for pair in pairs] for i in range(2)]
    return indices, -torch.tensor(weights).clamp(min=0.0).T.to(cameras.azimuth.device)


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


def _view_text(prompt: str, view: View, config: ViewConfig) -> str:
    if not config.view_dependent:
        return prompt
    if config.debias:
        kept = drop_words(prompt, config.conflicting_words.get(view, ()))
        if not kept:
            raise UserError(
                f"debiasing leaves nothing of the prompt '{prompt}' for the {view} view; "
                "turn it off or reword the prompt"
            )
        prompt = kept
    return f"{prompt}, {config.phrases[view]}"


def _wrapped(azimuth: float) -> float:
    """An angle in [-pi, pi]."""
    return math.remainder(azimuth, 2.0 * math.pi)


def _decay(coefficients: ExponentialDecay, r: float) -> float:
    a, b, c = coefficients
    return a * math.exp(-b * r) + c
