"""The words the embedded prior reads, their numbers, and the captions it never sees in training.

Every word of the toybox is one token of a CLIP tokenizer, so that the prior's folder loads with the
stock classes and no prompt is ever cut. `wording` is the door for prompts: it refuses words outside
the toybox by name and puts the rest the way the training captions are put.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ..errors import UserError, nearest
from ..toybox.grammar import CATEGORIES, COLORS, PATTERNS, VIEWS, Caption, parse

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

HELD_OUT_COLORS: dict[str, tuple[str, ...]] = {
    "airplane": ("green",), "bear": ("white",), "birdhouse": ("yellow",), "boat": ("black",),
    "cactus": ("blue",), "car": ("orange", "pink"), "castle": ("brown",), "cat": ("purple",),
    "chair": ("yellow",), "cupcake": ("white",), "dog": ("teal",), "duck": ("blue",),
    "elephant": ("red",), "fish": ("brown",), "house": ("pink",), "ice cream": ("green",),
    "lamp": ("black",), "mug": ("blue", "red"), "mushroom": ("orange",), "owl": ("brown",),
    "penguin": ("purple",), "rabbit": ("green",), "robot": ("white",), "rocket": ("teal",),
    "snowman": ("yellow",), "sofa": ("orange",), "table": ("red",), "teapot": ("pink",),
    "train": ("purple",), "tree": ("teal",), "truck": ("black", "green"), "turtle": ("white",),
}  # fmt: skip
"""Colours in which training never shows a category: a tenth of all such pairs."""

HELD_OUT_PATTERNS: dict[str, str] = {
    "bear": "striped", "boat": "checkered", "castle": "dotted", "dog": "checkered",
    "fish": "dotted", "house": "striped", "mug": "checkered", "owl": "dotted",
    "rocket": "checkered", "teapot": "striped",
}  # fmt: skip
"""The pattern in which training never shows a category: a tenth of all such pairs."""

START, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 16
"""Tokens of a prompt with its start and end; the longest wording takes twelve."""

WORDS: tuple[str, ...] = tuple(
    dict.fromkeys(
        [
            *("a", "an", "and", ","),
            *(word for view in VIEWS for word in view.split()),
            *(*COLORS, *PATTERNS),
            *(word for category in CATEGORIES for word in category.split()),
        ]
    )
)
"""Everything a caption with a view phrase is made of, in the order of the tokens' numbers."""


def is_held_out(caption: Caption) -> bool:
    """Whether training never shows this caption.

    It never shows a category of `HELD_OUT_COLORS` in that colour, be it the main or the second one,
    and none of `HELD_OUT_PATTERNS` in that pattern.
    """
    colors = HELD_OUT_COLORS.get(caption.category, ())
    return (
        caption.color in colors
        or caption.second in colors
        or (
            caption.pattern is not None
            and HELD_OUT_PATTERNS.get(caption.category) == caption.pattern
        )
    )


def wording(prompt: str) -> str:
    """A prompt as the training captions put it: "a COLOR CATEGORY[, front view]".

    The empty prompt stays empty: it is the unconditional one. Raises UserError with one line that
    names the words the toybox doesn't know, and the nearest it does.
    """
    if not prompt.strip():
        return ""
    caption = parse(prompt).text
    ending = " ".join(prompt.lower().split()).rstrip(" .,;:!?")
    view = next((v for v in VIEWS if ending.endswith(v)), None)
    return caption if view is None else f"{caption}, {view}"


def token_ids(text: str) -> list[int]:
    """The `LENGTH` token numbers of a wording, as the tokenizer of `build_tokenizer` gives them.

    Raises UserError that names every word outside the vocabulary, ValueError for a text of more
    words than a prompt has room for.
    """
    ids = word_ids()
    words = re.findall(r"[^\W\d_]+|[^\s]", text.lower())
    unknown = [word for word in dict.fromkeys(words) if word not in ids]
    if unknown:
        named = ", ".join(repr(word) for word in unknown)
        like = sorted({known for word in unknown for known in nearest(word, WORDS, 1)})
        hint = f" (nearest: {', '.join(like)})" if like else ""
        raise UserError(f"the embedded prior's vocabulary has no {named}{hint}")
    if len(words) > LENGTH - 2:
        raise ValueError(f"text: expected at most {LENGTH - 2} words, got {len(words)}: {text!r}")
    end = ids[END]
    return [ids[START], *(ids[word] for word in words), *[end] * (LENGTH - 1 - len(words))]


def word_ids() -> dict[str, int]:
    """Token numbers of all words, and of `START` and `END`."""
    pieces, _ = _byte_pairs()
    return {word: pieces[f"{word}</w>"] for word in WORDS} | {t: pieces[t] for t in (START, END)}


def token_count() -> int:
    """How many tokens there are, those of parts of words included."""
    return len(_byte_pairs()[0])


def build_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer to which every word of `WORDS` is one token.

    Byte pairs outside the vocabulary come out as `END`, CLIP's unknown token; `wording` keeps such
    prompts away from it.
    """
    from transformers import CLIPTokenizer

    pieces, merges = _byte_pairs()
    pairs: Any = list(merges)  # annotated as text, taken as pairs
    return CLIPTokenizer(vocab=dict(pieces), merges=pairs, pad_token=END, model_max_length=LENGTH)


@lru_cache(maxsize=1)
def _byte_pairs() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Numbers of all pieces of words, and the merges that make each word one piece.

    A merge that is added comes after all others, so it can't undo a word that is one piece already.
    """
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        while len(pieces := _split(word, merges)) > 1:
            merges.append((pieces[0], pieces[1]))
    whole = [f"{word}</w>" for word in WORDS]
    joined = ["".join(pair) for pair in merges]
    letters = sorted({piece for word in WORDS for piece in _letters(word)})
    names = dict.fromkeys([START, END, *whole, *joined, *letters])
    return {name: number for number, name in enumerate(names)}, merges


def _split(word: str, merges: list[tuple[str, str]]) -> list[str]:
    """The pieces that byte-pair encoding (Sennrich 2016) leaves a word in."""
    pieces = list(_letters(word))
    for pair in merges:
        at = 0
        while at < len(pieces) - 1:
            if (pieces[at], pieces[at + 1]) == pair:
                pieces[at : at + 2] = ["".join(pair)]
            at += 1
    return pieces


def _letters(word: str) -> Iterator[str]:
    """The letters of a word, the last one marked as CLIP marks it."""
    yield from word[:-1]
    yield f"{word[-1]}</w>"
