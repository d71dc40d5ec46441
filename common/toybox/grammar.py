"""The captions of the toybox: their words, their grammar, and what to say to any other prompt.

[a | an | the | one] [PATTERN] COLOR [and COLOR] [PATTERN] CATEGORY [, front view]
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import UserError, nearest

Rgb = tuple[float, float, float]

CATEGORIES: tuple[str, ...] = (
    "airplane", "bear", "birdhouse", "boat", "cactus", "car", "castle", "cat",
    "chair", "cupcake", "dog", "duck", "elephant", "fish", "house", "ice cream",
    "lamp", "mug", "mushroom", "owl", "penguin", "rabbit", "robot", "rocket",
    "snowman", "sofa", "table", "teapot", "train", "tree", "truck", "turtle",
)  # fmt: skip
"""The objects, in alphabetical order."""

FRONTED: tuple[str, ...] = (
    "airplane", "bear", "birdhouse", "boat", "car", "castle", "cat", "chair", "dog", "duck",
    "elephant", "fish", "house", "owl", "penguin", "rabbit", "robot", "rocket", "snowman", "sofa",
    "teapot", "train", "truck", "turtle",
)  # fmt: skip
"""The objects that look another way from the front (+X) than from behind."""

COLORS: dict[str, Rgb] = {
    "red": (0.86, 0.12, 0.11),
    "orange": (0.97, 0.50, 0.06),
    "yellow": (0.98, 0.84, 0.13),
    "green": (0.17, 0.62, 0.21),
    "teal": (0.04, 0.66, 0.66),
    "blue": (0.12, 0.30, 0.84),
    "purple": (0.48, 0.18, 0.72),
    "pink": (0.98, 0.55, 0.73),
    "brown": (0.46, 0.26, 0.12),
    "white": (0.96, 0.96, 0.94),
    "black": (0.09, 0.09, 0.11),
}
"""The colours, sRGB-encoded in [0, 1]; all stand out from each other and from mid-grey."""

PATTERNS: tuple[str, ...] = ("striped", "dotted", "checkered")
"""What the main paint can carry."""

PARTNERS: dict[str, str] = {
    "red": "white", "orange": "white", "yellow": "black", "green": "yellow", "teal": "white",
    "blue": "white", "purple": "yellow", "pink": "white", "brown": "white", "white": "black",
    "black": "white",
}  # fmt: skip
"""A pattern's other colour where the caption names none."""

VIEWS: tuple[str, ...] = ("front view", "side view", "back view", "overhead view")
"""Phrases about the camera that may end a prompt; they say nothing about the object."""

ARTICLES = ("a", "an", "the", "one")
MOST_TOLD, LONGEST_WORD = 95, 24  # characters: an error about a novel stays one readable line
EXAMPLE = "a striped red and white cat"
ALL_WORDS = (
    "What the toybox, the default prior, makes: [PATTERN] COLOUR [and COLOUR] OBJECT. "
    f"Objects: {', '.join(CATEGORIES)}. Colours: {', '.join(COLORS)}. "
    f"Patterns: {', '.join(PATTERNS)}. Any other prior takes any prompt."
)
"""For the help of the commands."""


@dataclass(frozen=True)
class Caption:
    """What the toybox is asked for.

    category: of CATEGORIES. color: of COLORS, the main paint. second: of COLORS or None: the other
    colour of the pattern if there is one, else of the category's second paint (wheels, roof, stem).
    pattern: of PATTERNS or None. Raises ValueError for any other word.
    """

    category: str
    color: str
    second: str | None = None
    pattern: str | None = None

    def __post_init__(self) -> None:
        if self.category not in CATEGORIES:
            raise ValueError(f"category: expected one of {CATEGORIES}, got {self.category!r}")
        for name, value in (("color", self.color), ("second", self.second or self.color)):
            if value not in COLORS:
                raise ValueError(f"{name}: expected one of {tuple(COLORS)}, got {value!r}")
        if self.second == self.color:
            raise ValueError(f"second: expected a colour other than {self.color!r}")
        if self.pattern is not None and self.pattern not in PATTERNS:
            raise ValueError(f"pattern: expected one of {PATTERNS}, got {self.pattern!r}")

    @property
    def text(self) -> str:
        """The one canonical wording, which `parse` reads back."""
        colors = self.color if self.second is None else f"{self.color} and {self.second}"
        words = f"{colors} {self.category}"
        words = words if self.pattern is None else f"{self.pattern} {words}"
        return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def captions() -> list[Caption]:
    """Every plain caption, "a COLOR CATEGORY": categories in order, colours within."""
    return [Caption(category, color) for category in CATEGORIES for color in COLORS]


def paints(caption: Caption) -> list[Caption]:
    """The same category in every colour, with every second colour and every pattern, or none."""
    return [
        Caption(caption.category, first, second, pattern)
        for first in COLORS
        for second in (None, *(color for color in COLORS if color != first))
        for pattern in (None, *PATTERNS)
    ]


def parse(prompt: str) -> Caption:
    """Read a caption; upper case, extra spaces, closing marks and a view phrase don't matter.

    Raises UserError with one line that names the words not known, the nearest known ones and an
    example; `maquette run --help` names all words.
    """
    words = _words(prompt)
    if not words:
        raise UserError(f"the prompt is empty; {_help()}")
    unknown = [w for w in words if w not in _VOCABULARY]
    if unknown:
        raise UserError(f"{_unknown(unknown)}; {_help()}")
    match = _FORM.fullmatch(" ".join(words))
    if match is None or (match["before"] and match["after"]):
        raise UserError(f"the toybox can't read {' '.join(words)!r}: it wants {_ORDER}; {_help()}")
    color, second = match["color"], match["second"]
    if color == second:
        raise UserError(f"the two colours of a caption must differ, got {color!r} twice; {_help()}")
    return Caption(match["category"], color, second, match["before"] or match["after"])


def _words(prompt: str) -> list[str]:
    """Lower-case words without closing marks and view phrase."""
    text = " ".join(prompt.lower().split()).rstrip(" .,;:!?")
    for view in VIEWS:
        if text == view or text.endswith((f" {view}", f",{view}")):
            text = text[: -len(view)].rstrip(" .,;:!?")
            break
    words = text.split()
    return words[1:] if words and words[0] in ARTICLES else words


def _unknown(unknown: list[str]) -> str:
    """The part of the error line that names the words and their likeliest meanings."""
    candidates = (*CATEGORIES, *COLORS, *PATTERNS)
    distinct = list(dict.fromkeys(unknown))
    told = []
    for word in distinct:
        short = word if len(word) <= LONGEST_WORD else f"{word[:LONGEST_WORD]}..."
        like = nearest(short, candidates, 2 if len(distinct) == 1 else 1)
        lead = "did you mean " if len(distinct) == 1 else ""
        told.append(f"{short!r}" + (f" ({lead}{' or '.join(like)}?)" if like else ""))
        if len(", ".join(told)) > MOST_TOLD:
            if len(told) > 1:
                told.pop()
            break
    more = len(distinct) - len(told)
    return f"the toybox doesn't know {', '.join(told)}" + (f" and {more} more words" * (more > 0))


def _help() -> str:
    return f"for example: {EXAMPLE} (all words: maquette run --help)"


_VOCABULARY = {"and", *COLORS, *PATTERNS, *(w for c in CATEGORIES for w in c.split())}
_ORDER = "[pattern] colour [and colour] [pattern] category"
_FORM = re.compile(
    r"(?:(?P<before>{p}) )?(?P<color>{c})(?: and (?P<second>{c}))?"
    r"(?: (?P<after>{p}))? (?P<category>{k})".format(
        p="|".join(PATTERNS), c="|".join(COLORS), k="|".join(CATEGORIES)
    )
)
