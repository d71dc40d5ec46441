"""Who makes the conditions that a prior is asked under, view by view.

A `Conditioner` turns a batch of cameras into rows: what is wanted, what stands for nothing, what
isn't wanted, and what each view is to be pushed away from. A text with view words is one; a picture
of the object and where it was taken from is another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Protocol

import torch
from torch import Tensor

from ..light.skies import Skies
from ..priors.base import Condition, Reference
from ..priors.camera_features import turned
from ..scene.cameras import Cameras
from .prompts import ViewPrompts

RowName = Literal["wanted", "empty", "negative", "viewless"]


@dataclass(frozen=True)
class Rows:
    """The conditions of one batch of B views, each of B rows.

    wanted: what the views are to show. empty: the unconditional one. negative: what they are not to
    show, if there is such a thing. repelled: n conditions that the views are pushed away from
    across the direction of what is wanted (Perp-Neg), with their weights `[n, B]`. viewless: what
    is wanted without the words for the view, if those are guided on their own, with view_scale (see
    `Ask.direction`). turn: by how much the prior's world is turned about Z from the run's, radians.
    """

    wanted: Condition
    empty: Condition
    negative: Condition | None = None
    repelled: tuple[Condition, ...] = ()
    weights: Tensor | None = None
    viewless: Condition | None = None
    view_scale: float = 0.0
    turn: float = 0.0

    def __post_init__(self) -> None:
        if bool(self.repelled) != (self.weights is not None):
            raise ValueError("weights: expected [n, B] with repelled, and none without")

    def on(self, surface: Tensor) -> Rows:
        """The same conditions, all told the surface of the views, `[B, 7, h, w]`."""
        if self.turn:
            surface = turned(surface, surface.new_full((len(surface),), self.turn))
        return self._told(partial(replace, surface=surface))

    def under(self, skies: Skies) -> Rows:
        """The same conditions, all told what lights the views."""
        skies = skies.turned(self.turn) if self.turn else skies
        return self._told(partial(replace, skies=skies))

    def _told(self, told: Callable[[Condition], Condition]) -> Rows:
        return Rows(
            told(self.wanted),
            told(self.empty),
            None if self.negative is None else told(self.negative),
            tuple(told(condition) for condition in self.repelled),
            self.weights,
            None if self.viewless is None else told(self.viewless),
            self.view_scale,
            self.turn,
        )

    def __getitem__(self, name: RowName) -> Condition:
        named: dict[RowName, Condition | None] = {
            "wanted": self.wanted,
            "empty": self.empty,
            "negative": self.negative,
            "viewless": self.viewless,
        }
        condition = named[name]
        if condition is None:
            raise KeyError(name)
        return condition


class Conditioner(Protocol):
    """Makes the rows for a batch of cameras."""

    def rows(self, cameras: Cameras) -> Rows:
        """One row of each kind a camera."""
        ...


@dataclass(frozen=True)
class TextConditioner:
    """A prompt whose text may name the view, for a prior that may be told the camera.

    tell_camera: whether the prior is told it. perp_neg: push each view away from the others' texts.
    turn: what to add to an azimuth of the run for where it lies around the object, radians.
    """

    prompts: ViewPrompts
    tell_camera: bool = True
    perp_neg: bool = False
    turn: float = 0.0

    def rows(self, cameras: Cameras) -> Rows:
        """The view's own text, the empty and the negative prompt, and Perp-Neg's negatives."""
        prompts, cameras = self.prompts, cameras.turned(self.turn)
        told = cameras if self.tell_camera else None
        negative = prompts.negative_rows(cameras)
        repelled, weights = prompts.perp_neg_rows(cameras) if self.perp_neg else ((), None)
        return Rows(
            wanted=Condition(prompts.rows(cameras), told),
            empty=Condition(prompts.unconditional_rows(cameras), told),
            negative=None if negative is None else Condition(negative, told),
            repelled=tuple(Condition(text, told) for text in repelled),
            weights=weights,
            viewless=None
            if prompts.plain is None
            else Condition(prompts.plain_rows(cameras), told),
            view_scale=prompts.config.view_guidance,
            turn=self.turn,
        )


@dataclass(frozen=True)
class ImageConditioner:
    """A picture of the object and where each view lies from it, and a prompt if there is one.

    x, token: what the prior makes of the picture, `[1, C, h, w]` and `[1, D]`, see `Reference`.
    camera: where it was taken from, one. turn: what to add to an azimuth of the run for where it
    lies around the object, radians; None where nobody knows where the front of what it shows is, so
    that the views' cameras are told relative to its own alone. What stands for nothing isn't told
    the picture.
    """

    prompts: ViewPrompts
    x: Tensor
    camera: Cameras
    token: Tensor | None = None
    turn: float | None = None

    def rows(self, cameras: Cameras) -> Rows:
        """The picture with the view's text, the empty one without it, the negative prompt."""
        prompts, count = self.prompts, len(cameras)
        index = torch.zeros(count, dtype=torch.long)
        camera = self.camera[index.to(self.camera.azimuth.device)]
        token = None if self.token is None else self.token.expand(count, -1)
        shown = Reference(self.x.expand(count, -1, -1, -1), camera, cameras, token)
        negative = prompts.negative_rows(cameras)
        told = None if self.turn is None else cameras.turned(self.turn)
        return Rows(
            wanted=Condition(prompts.rows(cameras), told, shown),
            empty=Condition(prompts.unconditional_rows(cameras), told),
            negative=None if negative is None else Condition(negative, told, shown),
            turn=self.turn or 0.0,
        )
