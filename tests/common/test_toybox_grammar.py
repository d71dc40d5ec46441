"""The captions of the toybox: what is read, what is refused, and in which words."""

from __future__ import annotations

import itertools

import pytest

from maquette.common.errors import UserError
from maquette.common.toybox.grammar import (
    ALL_WORDS,
    CATEGORIES,
    COLORS,
    EXAMPLE,
    FRONTED,
    PARTNERS,
    PATTERNS,
    Caption,
    captions,
    parse,
)


def test_the_words_are_enough_and_fit_together() -> None:
    assert len(set(CATEGORIES)) == len(CATEGORIES) >= 26
    assert len(set(FRONTED)) == len(FRONTED) >= 12
    assert set(FRONTED) <= set(CATEGORIES)
    assert set(PARTNERS) == set(COLORS)
    assert set(PARTNERS.values()) <= set(COLORS)
    assert all(PARTNERS[color] != color for color in COLORS)


def test_colors_stand_out_from_each_other_and_from_grey() -> None:
    assert len(COLORS) >= 10
    named = {**COLORS, "grey": (0.5, 0.5, 0.5)}
    for a, b in itertools.combinations(named, 2):
        apart = sum((x - y) ** 2 for x, y in zip(named[a], named[b], strict=True)) ** 0.5
        assert apart > 0.3, (a, b)


def test_every_caption_reads_back() -> None:
    plain = captions()
    assert len(set(plain)) == len(CATEGORIES) * len(COLORS)
    for caption in plain:
        assert parse(caption.text) == caption
    for category, second, pattern in itertools.product(CATEGORIES, (None, "blue"), PATTERNS):
        caption = Caption(category, "orange", second, pattern)
        assert parse(caption.text) == caption


def test_canonical_words() -> None:
    assert Caption("cat", "red").text == "a red cat"
    assert Caption("ice cream", "orange", "white").text == "an orange and white ice cream"
    assert Caption("cat", "red", "white", "striped").text == "a striped red and white cat"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("red mushroom", Caption("mushroom", "red")),
        ("  The  RED\tmushroom!! ", Caption("mushroom", "red")),
        ("one red and white striped cat", Caption("cat", "red", "white", "striped")),
        ("a dotted pink ice cream.", Caption("ice cream", "pink", None, "dotted")),
        ("a red car, front view", Caption("car", "red")),
        ("a red car side view", Caption("car", "red")),
        ("a red car,back view.", Caption("car", "red")),
        ("A red car , Overhead View", Caption("car", "red")),
    ],
)
def test_loose_wordings_are_read(prompt: str, expected: Caption) -> None:
    assert parse(prompt) == expected


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("a red mushrom", ("'mushrom'", "mushroom")),
        ("a bleu elefant", ("'bleu'", "blue", "'elefant'", "elephant")),
        ("a spotted cat on a hill", ("'spotted'", "dotted", "'on'", "'hill'")),
        ("   ", ("empty",)),
        ("a mushroom", ("colour",)),
        ("a cat red", ("colour",)),
        ("a striped red dotted cat", ("colour",)),
        ("a red and red cat", ("differ",)),
        ("a red cream", ("colour",)),
    ],
)
def test_other_prompts_get_one_helpful_line(prompt: str, named: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as error:
        parse(prompt)
    line = str(error.value)
    assert "\n" not in line
    for word in (*named, "for example", EXAMPLE, "--help"):
        assert word in line
    assert len(line) < 200  # what is said about the prior comes behind it


def test_the_help_names_every_word() -> None:
    for word in (*CATEGORIES, *COLORS, *PATTERNS):
        assert word in ALL_WORDS


def test_a_novel_gets_a_short_answer() -> None:
    with pytest.raises(UserError) as error:
        parse(" ".join(f"word{i}" + "x" * i for i in range(200)))
    assert len(str(error.value)) < 250
    assert "more words" in str(error.value)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("unicorn", "red"), "category"),
        (("cat", "beige"), "color"),
        (("cat", "red", "beige"), "second"),
        (("cat", "red", "red"), "second"),
        (("cat", "red", None, "plaid"), "pattern"),
    ],
)
def test_a_caption_holds_known_words_only(words: tuple[str, ...], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        Caption(*words)
