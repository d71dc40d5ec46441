"""Presets: how much work a run puts into the same thing, whatever configuration it starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from .reading import DEFAULT_CONFIG, Beneath, build_config

_COUNTS = ("steps", "albedo_steps", "opacity_steps", "paint_from")
"""Settings that count steps; schedules, pairs of a step and a value, do so too."""


@dataclass(frozen=True)
class Preset:
    """steps: what all counts of steps are multiplied with. views: the same of views a step."""

    line: str
    steps: float
    views: float = 1.0


PRESETS: Mapping[str, Preset] = {
    "fast": Preset("half of the steps: a first look", steps=0.5),
    "default": Preset("the configuration as it is", steps=1.0),
    "best": Preset("twice the steps with twice the views each: for keeping", steps=2.0, views=2.0),
}


def preset_settings(
    name: str, prompt: str, config: str | None, beneath: Beneath = DEFAULT_CONFIG
) -> dict[str, Any] | None:
    """Settings of a configuration under a preset, to start from; None leaves it as it is.

    beneath: what the configuration differs from; see `build_config`. Raises UserError for an
    unknown name.
    """
    if name not in PRESETS:
        raise UserError(f"--preset: expected {', '.join(PRESETS)}, got '{name}'")
    preset = PRESETS[name]
    if preset == PRESETS["default"]:
        return None
    # A picture may stand in for the prompt; whichever it is comes later.
    built = build_config(prompt.strip() or "a picture", config, beneath=beneath)
    tree = built.model_dump(mode="json")
    for stage in ("coarse", "fine"):
        tree[stage] = scaled(tree[stage], preset.steps)
        tree[stage]["views"] = max(1, round(tree[stage]["views"] * preset.views))
    return tree


def scaled(value: Any, factor: float, key: str = "") -> Any:
    """Settings with every count of steps in them times a factor, at least 1 where it was."""
    if isinstance(value, dict):
        return {name: scaled(each, factor, name) for name, each in value.items()}
    if key in _COUNTS and isinstance(value, int) and value > 0:
        return max(1, round(value * factor))
    if isinstance(value, list) and value and all(_is_point(point) for point in value):
        # Points that fall on one step become the later one, so that steps still grow.
        return [list(point) for point in {round(s * factor): h for s, h in value}.items()]
    return value


def _is_point(value: Any) -> bool:
    """Whether it is a pair of a step and a value, and not a range or a colour's part."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], int)
