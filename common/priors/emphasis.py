"""Signs in a prompt: weights of words, and learned words of several tokens.

`(word)` weighs 1.1, `[word]` 1 / 1.1, `(word:1.3)` 1.3; they nest and multiply, and a backslash
makes a bracket a plain sign. So the field's programs read them; how a weight moves an embedding is
compel's way: away from the embedding of no words, token by token (`PretrainedPrior`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

STEP = 1.1
_SIGNS = re.compile(
    r"\\([()\[\]\\])"  # a plain bracket
    r"|([(\[])"  # one that opens
    r"|:\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*\)"  # a weight, and the bracket it ends with
    r"|([)\]])"
)


@dataclass(frozen=True)
class Span:
    """Characters `start` to `end` (exclusive) of a plain text, and their weight."""

    start: int
    end: int
    weight: float


@dataclass(frozen=True)
class ClipPart:
    """A CLIP encoder's tokenizer, and which columns of the states its embeddings are."""

    tokenizer: Any
    columns: slice


def emphasis(text: str) -> tuple[str, list[Span]]:
    """A prompt without its signs, and the spans whose weight isn't 1.

    A bracket that is never closed, or closes nothing, is a plain sign.
    """
    partners = _partners(text)
    plain: list[str] = []
    weights: list[float] = []
    open_weights = [1.0]
    at = 0
    while at < len(text):
        sign = _SIGNS.match(text, at)
        piece = text[at]
        if sign is None:
            at += 1
        else:
            escaped, opening, _, _ = sign.groups()
            closing = sign.end() - 1
            if escaped is not None:
                piece, at = escaped, sign.end()
            elif opening is not None and at in partners:
                open_weights.append(open_weights[-1] * partners[at][1])
                at += 1
                continue
            elif opening is None and any(end == closing for end, _ in partners.values()):
                open_weights.pop()
                at = sign.end()
                continue
            else:
                at += 1
        plain.append(piece)
        weights.append(open_weights[-1])
    return "".join(plain), _runs(weights)


def _partners(text: str) -> dict[int, tuple[int, float]]:
    """For each bracket that is closed: where, and by what its inside is multiplied."""
    found: dict[int, tuple[int, float]] = {}
    stack: list[tuple[int, str]] = []
    at = 0
    while at < len(text):
        sign = _SIGNS.match(text, at)
        if sign is None:
            at += 1
            continue
        escaped, opening, weight, closing = sign.groups()
        at = sign.end()
        if escaped is not None:
            continue
        if opening is not None:
            stack.append((sign.start(), opening))
        elif stack:
            kind = "]" if closing == "]" else ")"
            start, opened = stack[-1]
            if (opened, kind) in (("(", ")"), ("[", "]")):
                stack.pop()
                factor = STEP if opened == "(" else 1.0 / STEP
                found[start] = (sign.end() - 1, factor if weight is None else float(weight))
    return found


def _runs(weights: Sequence[float]) -> list[Span]:
    spans: list[Span] = []
    for at, weight in enumerate(weights):
        if weight == 1.0:
            continue
        if spans and spans[-1].end == at and spans[-1].weight == weight:
            spans[-1] = Span(spans[-1].start, at + 1, weight)
        else:
            spans.append(Span(at, at + 1, weight))
    return spans


def token_weights(tokenizer: Any, text: str, spans: Sequence[Span]) -> list[float] | None:
    """The weight of every token of a text as its tokenizer cuts it; None if all are 1."""
    if not spans:
        return None
    cut = tokenizer(
        text, truncation=True, max_length=tokenizer.model_max_length, return_offsets_mapping=True
    )
    weights = []
    for start, end in cut["offset_mapping"]:
        of_token = [s.weight for s in spans if s.start < end and s.end > start and end > start]
        weights.append(of_token[0] if of_token else 1.0)
    return weights


def with_learned_words(text: str, words: Mapping[str, str]) -> str:
    """A prompt with each learned word as the tokens that stand for it, in whatever case."""
    for word, tokens in sorted(words.items(), key=lambda pair: -len(pair[0])):
        pattern = rf"(?<!\w){re.escape(word)}(?!\w)"
        text = re.sub(pattern, lambda _, t=tokens: t, text, flags=re.IGNORECASE)
    return text
