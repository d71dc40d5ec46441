"""What the toys' paints are made of: how rough they are, and whether they are metal.

Only pictures taken under a sky show it (`studio.photograph`); the learned prior's never are.
"""

from __future__ import annotations

from .clay import PRIMARY, SECONDARY

Finish = tuple[float, float]
"""Roughness and metallic, both in [0, 1]."""

CLOTH, WOOD, PAINT, LACQUER = (0.9, 0.0), (0.65, 0.0), (0.45, 0.0), (0.22, 0.0)
BRUSHED, POLISHED, GLASS = (0.45, 1.0), (0.25, 1.0), (0.12, 0.0)

ACCENT_FINISHES: dict[str, Finish] = {
    **dict.fromkeys(("gold", "silver"), POLISHED),
    **dict.fromkeys(("ink", "pupil", "sparkle", "glass"), GLASS),
    **dict.fromkeys(("wood", "waffle", "leaf", "tire"), WOOD),
    **dict.fromkeys(("terracotta", "slate", "snow", "cocoa"), CLOTH),
}
"""Of accents; all others are PAINT."""

PRIMARY_FINISHES: dict[str, Finish] = {
    **dict.fromkeys(("airplane", "robot", "rocket"), BRUSHED),
    **dict.fromkeys(("car", "mug", "teapot", "train", "truck", "lamp"), LACQUER),
    **dict.fromkeys(("bear", "cat", "dog", "owl", "rabbit", "sofa", "snowman"), CLOTH),
    **dict.fromkeys(("birdhouse", "chair", "house", "table", "tree"), WOOD),
}
"""Of a toy's main paint by its category; all others are PAINT."""
METAL_SECOND = frozenset({"lamp", "robot", "teapot"})
"""Toys whose second paint is a brushed metal; that of others is as their first, and no metal."""


def finish(category: str, paint: str) -> Finish:
    """The finish of one paint of a toy."""
    main = PRIMARY_FINISHES.get(category, PAINT)
    if paint == PRIMARY:
        return main
    if paint == SECONDARY:
        return BRUSHED if category in METAL_SECOND else (main[0], 0.0)
    return ACCENT_FINISHES.get(paint, PAINT)
