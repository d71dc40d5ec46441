"""The embedded prior's words: one token each, unknown ones refused by name, held-out captions."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from maquette.common.config.prompts import PHRASES
from maquette.common.embedded import names, version, vocabulary
from maquette.common.embedded.vocabulary import (
    END,
    HELD_OUT_COLORS,
    HELD_OUT_PATTERNS,
    LENGTH,
    START,
    WORDS,
    build_tokenizer,
    is_held_out,
    token_count,
    token_ids,
    word_ids,
    wording,
)
from maquette.common.errors import UserError
from maquette.common.toybox import grammar
from maquette.common.toybox.grammar import CATEGORIES, COLORS, PATTERNS, Caption, captions


def test_every_word_is_one_token_of_its_own() -> None:
    tokenizer, ids = build_tokenizer(), word_ids()
    for word in WORDS:
        assert tokenizer(word).input_ids == [ids[START], ids[word], ids[END]]
    assert len({ids[word] for word in WORDS}) == len(WORDS)
    assert max(tokenizer.get_vocab().values()) == token_count() - 1
    assert {w for c in captions() for w in c.text.split()} <= set(WORDS)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a red mushroom",
        "an orange teapot, side view",
        "a checkered purple and yellow ice cream, overhead view",
    ],
)
def test_token_numbers_are_those_of_the_tokenizer(text: str) -> None:
    theirs = build_tokenizer()(text, padding="max_length", max_length=LENGTH).input_ids
    assert token_ids(text) == theirs
    assert len(theirs) == LENGTH


def test_every_wording_leaves_room_for_its_end() -> None:
    longest = max(CATEGORIES, key=lambda c: len(c.split()))
    text = Caption(longest, "red", "white", "striped").text
    for phrase in PHRASES.values():
        assert token_ids(f"{text}, {phrase}")[-1] == word_ids()[END]


def test_a_tokenizer_comes_back_from_its_folder(tmp_path: Path) -> None:
    from transformers import CLIPTokenizer

    build_tokenizer().save_pretrained(tmp_path)
    again = CLIPTokenizer.from_pretrained(tmp_path)
    text = "a dotted pink and white owl, back view"
    assert again(text, padding="max_length").input_ids == token_ids(text)


def test_words_outside_the_vocabulary_are_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"'glowing', 'mushrom' \(nearest: .*mushroom\)"):
        token_ids("a glowing mushrom")
    with pytest.raises(UserError, match="'unicorn'"):
        wording("a red unicorn")
    with pytest.raises(UserError, match="'blurry'"):
        wording("a blurry red mushroom, front view")
    with pytest.raises(ValueError, match="at most 14 words, got 15"):
        token_ids("red " * 15)


@pytest.mark.parametrize(
    ("prompt", "put"),
    [
        ("", ""),
        ("  ", ""),
        ("Red  Mushroom.", "a red mushroom"),
        ("the striped orange cat, back view", "a striped orange cat, back view"),
        ("A red mushroom, overhead view.", "a red mushroom, overhead view"),
        ("an orange striped cat front view", "a striped orange cat, front view"),
    ],
)
def test_prompts_are_put_as_the_training_captions_are(prompt: str, put: str) -> None:
    assert wording(prompt) == put


def test_a_tenth_of_the_pairs_is_held_out_and_every_word_is_still_seen() -> None:
    colors = [(k, c) for k, held in HELD_OUT_COLORS.items() for c in held]
    patterns = list(HELD_OUT_PATTERNS.items())
    assert len(set(colors)) == round(0.1 * len(CATEGORIES) * len(COLORS))
    assert len(set(patterns)) == round(0.1 * len(CATEGORIES) * len(PATTERNS))
    assert {k for k, _ in colors} == set(CATEGORIES)
    assert {k for k, _ in patterns} <= set(CATEGORIES)
    assert set(Counter(c for _, c in colors)) == set(COLORS)
    assert {p for _, p in patterns} == set(PATTERNS)
    seen = [c for c in captions() if not is_held_out(c)]
    assert {c.category for c in seen} == set(CATEGORIES)
    assert {c.color for c in seen} == set(COLORS)


def test_what_is_held_out() -> None:
    assert is_held_out(Caption("chair", "yellow"))
    assert is_held_out(Caption("chair", "blue", "yellow"))
    assert is_held_out(Caption("dog", "red", None, "checkered"))
    assert not is_held_out(Caption("chair", "blue"))
    assert not is_held_out(Caption("dog", "red", None, "striped"))
    assert not is_held_out(Caption("mushroom", "red"))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A folder that looks like one of the embedded prior."""
    folder = tmp_path / "model"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "weights.safetensors").write_bytes(b"weights")
    build_tokenizer().save_pretrained(folder / "tokenizer")
    version.write_version(folder, {"images": 1})
    return folder


def test_weights_of_this_toybox_pass(weights: Path, tmp_path: Path) -> None:
    version.check_version(weights)
    assert names.is_toybox(weights)
    assert not names.is_toybox(tmp_path)
    again = shutil.copytree(weights, tmp_path / "elsewhere")
    version.check_version(again)


def test_weights_of_other_words_are_refused(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version, "WORDS", (*WORDS, "unicorn"))
    with pytest.raises(UserError, match=r"never learned 'unicorn'.*train-prior"):
        version.check_version(weights)
    monkeypatch.setattr(version, "WORDS", tuple(w for w in WORDS if w != "owl"))
    with pytest.raises(UserError, match="learned 'owl', which the toybox lacks"):
        version.check_version(weights)


def test_weights_of_another_toybox_are_refused(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version.look.cache_clear()
    first = next(iter(COLORS))  # in which the first category's thumbnail shows it
    monkeypatch.setitem(grammar.COLORS, first, (0.2, 0.9, 0.9))
    try:
        with pytest.raises(UserError, match=f"learned another toybox: {CATEGORIES[0]}"):
            version.check_version(weights)
    finally:
        version.look.cache_clear()


def test_a_tokenizer_that_numbers_words_another_way_is_refused(weights: Path) -> None:
    file = weights / "tokenizer" / "tokenizer.json"
    tree = json.loads(file.read_text())
    numbers = tree["model"]["vocab"]
    numbers["red</w>"], numbers["blue</w>"] = numbers["blue</w>"], numbers["red</w>"]
    file.write_text(json.dumps(tree))
    with pytest.raises(UserError, match=r"numbers red</w>, blue</w> another way"):
        version.check_version(weights)


def test_weights_that_were_exchanged_or_cut_off_are_named(weights: Path) -> None:
    (weights / "unet" / "weights.safetensors").write_bytes(b"weight")
    with pytest.raises(UserError, match=r"unet/weights\.safetensors is missing, damaged"):
        version.check_version(weights)
    (weights / "unet" / "weights.safetensors").unlink()
    with pytest.raises(UserError, match=r"unet/weights\.safetensors is missing, damaged"):
        version.check_version(weights)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"format": 1, "words": [], "look": 3}', '{"format": 1}']
)
def test_a_damaged_version_file_is_one_line(weights: Path, text: str) -> None:
    (weights / version.VERSION_FILE).write_text(text)
    with pytest.raises(UserError, match=r"toybox\.json is damaged"):
        version.check_version(weights)
    (weights / version.VERSION_FILE).write_text(
        '{"format": 2, "words": [], "look": {}, "weights": {}}'
    )
    with pytest.raises(UserError, match="is of format 2, this version reads 1"):
        version.check_version(weights)
    (weights / version.VERSION_FILE).unlink()
    with pytest.raises(UserError, match=r"toybox\.json can't be read"):
        version.check_version(weights)


def test_the_words_are_those_of_the_grammar() -> None:
    assert vocabulary.WORDS[:4] == ("a", "an", "and", ",")
    assert set(COLORS) | set(PATTERNS) <= set(WORDS)
