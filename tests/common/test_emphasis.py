"""Weights in prompts: how they are read, and what they do to an embedding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maquette.common.config.priors import PriorConfig
from maquette.common.priors.emphasis import Span, emphasis, token_weights, with_learned_words
from maquette.common.priors.loading import load_prior
from tests.reference.tiny_models import Family, build, clip_tokenizer


@pytest.mark.parametrize(
    ("text", "plain", "weights"),
    [
        ("a red chair", "a red chair", {}),
        ("a (red) chair", "a red chair", {"red": 1.1}),
        ("a [red] chair", "a red chair", {"red": 1 / 1.1}),
        ("a (red:1.3) chair", "a red chair", {"red": 1.3}),
        ("a (red: .5 ) chair", "a red chair", {"red": 0.5}),
        ("((red))", "red", {"red": 1.1**2}),
        ("(a (red:2) chair)", "a red chair", {"a ": 1.1, "red": 2.2, " chair": 1.1}),
        ("[(red)]", "red", {}),
        (r"a \(red\) chair", "a (red) chair", {}),
        ("a (red chair", "a (red chair", {}),
        ("a red) chair", "a red) chair", {}),
        ("a (red] chair", "a (red] chair", {}),
        ("time 12:30)", "time 12:30)", {}),
        ("(red:-1)", "red", {"red": -1.0}),
        ("()", "", {}),
        ("", "", {}),
    ],
)
def test_signs_are_read(text: str, plain: str, weights: dict[str, float]) -> None:
    found, spans = emphasis(text)
    assert found == plain
    told = {plain[s.start : s.end]: s.weight for s in spans}
    assert told.keys() == weights.keys()
    for key, weight in weights.items():
        assert told[key] == pytest.approx(weight)


@given(st.text(alphabet="ab ()[]:1.3\\-", max_size=40))
@settings(max_examples=300, deadline=None)
def test_any_text_is_read(text: str) -> None:
    plain, spans = emphasis(text)
    assert len(plain) <= len(text)
    assert all(0 <= s.start < s.end <= len(plain) for s in spans)
    letters = [c for c in text if c in "ab"]
    assert [c for c in plain if c in "ab"] == letters


def test_weights_go_to_the_tokens_of_their_words() -> None:
    tokenizer = clip_tokenizer()
    weights = token_weights(tokenizer, "a red chair", [Span(2, 5, 1.3)])
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("a red chair").input_ids)
    assert weights is not None
    assert {t: w for t, w in zip(tokens, weights, strict=True) if w != 1.0} == {"red</w>": 1.3}
    assert token_weights(tokenizer, "a red chair", []) is None


def test_learned_words_are_put_in_whole() -> None:
    words = {"<toy>": "<l0-0> <l0-1>", "<toy>s": "<l1-0>", "cat": "<l2-0>"}
    assert with_learned_words("a <TOY> cat, cats", words) == "a <l0-0> <l0-1> <l2-0>, cats"
    assert with_learned_words("<toy>s", words) == "<l1-0>"


@pytest.mark.parametrize("family", ["sd15", "sdxl", "sd3", "camera-pixel"])
def test_a_weight_moves_its_tokens_away_from_no_words(family: Family, tmp_path: Path) -> None:
    prior = load_prior(PriorConfig(name=str(build(family, tmp_path / family))))
    told = prior.encode_text(["a red chair", "a (red:1.5) chair", "a (red:1) chair", "[(red)]"])
    states = told.tensors["states"].double()
    empty = prior.unweighted(torch.device("cpu"))[0].double()
    part = prior.clip_parts()[0]
    at = part.tokenizer.convert_ids_to_tokens(part.tokenizer("a red chair").input_ids)
    row = at.index("red</w>")
    width = [p.columns for p in prior.clip_parts()]
    for columns in width:
        before, after = states[0, row, columns], states[1, row, columns]
        expected = empty[row, columns] + 1.5 * (before - empty[row, columns])
        torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(after, before)
    others = [i for i in range(states.shape[1]) if i != row]
    # The same but for the last bits, which go by the row of a batch.
    torch.testing.assert_close(states[1, others], states[0, others], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(states[2], states[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("family", "words"), [("if", "CLIP text encoders alone"), ("sd3", "T5")])
def test_where_weights_are_not_read_is_told(family: Family, words: str, tmp_path: Path) -> None:
    prior = load_prior(PriorConfig(name=str(build(family, tmp_path / family))))
    prior.encode_text(["a red chair"])
    assert prior.notes == []
    prior.encode_text(["a (red:1.3) chair"])
    assert any(words in note for note in prior.notes)
