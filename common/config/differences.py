"""What differs between configurations, as dotted keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .models import RunConfig
from .reading import build_config

Rows = dict[str, list[Any]]
"""Values by dotted key, one a configuration; None where a configuration has no such key."""


def flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted key; lists are values."""
    return dict(_walk(tree, ""))


def _walk(tree: Mapping[str, Any], above: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _walk(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def differing(configs: Sequence[RunConfig]) -> Rows:
    """The settings in which configurations differ, in the order in which they are declared."""
    trees = [flat(config.model_dump(mode="json")) for config in configs]
    keys = dict.fromkeys(key for tree in trees for key in tree)
    rows = {key: [tree.get(key) for tree in trees] for key in keys}
    return {key: values for key, values in rows.items() if any(v != values[0] for v in values)}


def from_default(config: RunConfig) -> Rows:
    """What differs between the default configuration (first) and another one, beside the prompt."""
    rows = differing([build_config(config.prompt), config])
    return {key: values for key, values in rows.items() if key != "prompt"}


def told_value(value: Any) -> str:
    """A value as it would be given to `--set`."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return f"[{', '.join(told_value(each) for each in value)}]"
    return "null" if value is None else str(value)


def clash(old: RunConfig, new: RunConfig, most: int = 4) -> str:
    """The settings in which two configurations differ, in a few words: `seed 0 -> 1, ...`."""
    rows = differing([old, new])
    told = [f"{key} {told_value(a)} -> {told_value(b)}" for key, (a, b) in rows.items()]
    rest = f" and {len(told) - most} more" if len(told) > most else ""
    return ", ".join(told[:most]) + rest
