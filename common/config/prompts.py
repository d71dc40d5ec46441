"""How the prompt is put to a prior, view by view."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ..options import Part

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
Angle = Annotated[float, Field(ge=0.0, le=180.0)]


class PerpNegDecay(Part):
    """Perp-Neg's weights, `a exp(-b r) + c` each; see `guidance.prompts.perp_neg_weights`."""

    front: ExponentialDecay = (4.0, 0.5, -2.426)
    side: ExponentialDecay = (4.0, 0.5, -2.426)
    side_behind: ExponentialDecay = (1.0, 0.5, -0.606)
    front_behind: ExponentialDecay = (1.0, 0.5, 0.967)


class PromptConfig(Part):
    """How the prompt is put to the prior, view by view; see `guidance.prompts`."""

    negative: str = ""
    """The negative prompt; empty is none."""
    suffix: str = ""
    """What every view's text ends with, such as ", 3d asset" for MVDream."""
    view_dependent: bool | None = None
    """Whether the text names the view; null does so for priors that aren't told the camera."""
    front_angle: Angle = 45.0
    """Half-width around azimuth 0 that is called front, degrees; what is neither is side."""
    back_angle: Angle = 45.0
    """Half-width around azimuth 180 that is called back, degrees."""
    overhead_angle: float = 60.0
    """Elevation above which a view is called overhead, degrees (DreamFusion: 60)."""
    phrases: dict[View, str] = {}
    """Other words for some views than "front view", "side view", "back view", "overhead view"."""
    prompts: dict[View, str] = {}
    """Whole prompts of your own for some views."""
    interpolate: bool | None = None
    """Blend the texts of neighbouring views by azimuth (front 0, side 90, back 180) in place of
    switching between them; null does so with Perp-Neg, whose weights follow the same blend."""
    perp_neg: bool = False
    """Push each view away from the texts of the others, across the prompt's direction."""
    perp_neg_decay: PerpNegDecay = PerpNegDecay()
    view_guidance: Annotated[float, Field(ge=0.0, le=100.0)] = 0.0
    """How much more the words for the view count than the rest of the text, in multiples of the
    guidance scale; a row more each step."""
    debias: bool = False
    """Drop words that contradict a view from its text."""
    conflicting_words: dict[View, tuple[str, ...]] = {}
    """Which words, for some views; the built-in list drops words of the face from the back."""

    @model_validator(mode="after")
    def _consistent(self) -> PromptConfig:
        if self.front_angle + self.back_angle > 180:
            raise ValueError(
                "front_angle and back_angle: expected at most 180 degrees together, got "
                f"{self.front_angle} and {self.back_angle}"
            )
        if self.perp_neg and self.view_dependent is False:
            raise ValueError("perp_neg needs texts that differ by view; leave view_dependent on")
        if self.view_guidance > 0.0 and self.view_dependent is False:
            raise ValueError("view_guidance needs words for the view; leave view_dependent on")
        return self

    @property
    def blends(self) -> bool:
        """Whether neighbouring views' texts are blended."""
        return self.perp_neg if self.interpolate is None else self.interpolate

    def names_views(self, told: bool) -> bool:
        """Whether the text names the view; told: whether the prior is told the camera itself."""
        return not told if self.view_dependent is None else self.view_dependent

    def phrase(self, view: View) -> str:
        """What is appended to the prompt for a view."""
        return self.phrases.get(view, PHRASES[view])

    def conflicts(self, view: View) -> tuple[str, ...]:
        """The words that debiasing drops for a view."""
        return self.conflicting_words.get(view, CONFLICTING_WORDS[view])
