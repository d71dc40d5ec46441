"""The benchmark of remedies: every row is a configuration, and its numbers are what they say."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch

from benchmarks.blind import (
    CAPTIONS,
    HELD_OUT,
    REMEDIES,
    Answer,
    report,
    settings_of,
    spread,
)
from benchmarks.view_knowledge import AHEAD, BEHIND, LEVELS, TURNS, agreement, ideal, told_by_level
from maquette.common.config.prompts import BACK, FRONT
from maquette.common.config.reading import build_config
from maquette.common.embedded.vocabulary import is_held_out
from maquette.common.toybox.grammar import FRONTED, parse


@pytest.mark.parametrize("name", REMEDIES)
def test_every_remedy_is_a_configuration(name: str) -> None:
    plain = build_config("an orange cat", "blind", ["coarse.steps=200"])
    config = build_config("an orange cat", "blind", settings_of(name, 200))
    assert not config.coarse.prior.tell_camera
    assert not config.fine.prior.tell_camera
    assert (config == plain) == (name == "none")


def test_the_captions_have_a_front_and_the_last_are_held_out() -> None:
    assert all(parse(caption).category in FRONTED for caption in CAPTIONS)
    held = [is_held_out(parse(caption)) for caption in CAPTIONS]
    assert held == [False] * (len(CAPTIONS) - HELD_OUT) + [True] * HELD_OUT


def knowing(right: float) -> torch.Tensor:
    """Errors of a prior that prefers a view's own words by `right`, at every level and noise."""
    errors = torch.ones(2, len(LEVELS), 2, 5, TURNS)
    errors[:, :, :, FRONT, list(AHEAD)] -= right
    errors[:, :, :, BACK, list(BEHIND)] -= right
    return errors + 1e-6 * torch.randn(errors.shape)


def test_what_a_prior_that_knows_would_reach() -> None:
    assert "| all levels | 100 % | 100 % | 0 |" in ideal(knowing(0.02))
    assert "| all levels | 0 % | 0 % | 192 |" in ideal(knowing(-0.02))
    captions = ["an orange cat", "a pink house"]
    assert agreement(knowing(0.02), captions).count("| 100 % | 100 % | 0 of 5 |") == 2
    assert agreement(knowing(-0.02), captions).count("| 100 % | 0 % | 5 of 5 |") == 2
    assert "100/0/0/0" in told_by_level(knowing(0.02))


def test_spreads_are_over_seeds() -> None:
    def run(f: float) -> Answer:
        return Answer(f, 0.5, 20.0, 2, 3, 4, False, 10.0)

    found = {("a", 0): run(0.2), ("b", 0): run(0.4), ("a", 1): run(0.6), ("b", 1): run(0.4)}
    assert spread(found, "f_score") == "0.400 (0.100)"
    assert spread({("a", 0): run(0.2)}, "psnr") == "20.0"


def test_a_row_counts_faces_and_the_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.blind.sheet", lambda *_: None)
    answers = {"none": {("a", 0): Answer(0.2, 0.5, 20.0, 2, 3, 4, False, 10.0)}}
    options = argparse.Namespace(steps=200, whole=False, runs=tmp_path)
    line = report(answers, options).splitlines()[-1]
    assert line == "| none (as it is) | 1 | 0.200 | 0.500 | 20.0 | 2 of 8 | 0 | 10 | 75 % of 4 |"
