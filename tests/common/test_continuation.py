"""Pictures continued by a prior: which views are asked for, and that the table tells them apart."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks.continuation import TURNS, WAYS, Continued, report, views_of
from maquette.common.embedded.training.settings import TrainConfig


def test_views_lie_around_toys_that_were_never_shown() -> None:
    views = views_of(["a red mushroom", "a blue chair"])
    assert len(views) == 2 * len(TURNS)
    assert len({view.instance for view in views}) == 2
    assert min(view.instance for view in views) > TrainConfig(kind="pixel", images=1).instances
    for view, turn in zip(views, TURNS * 2, strict=True):
        assert view.reference is not None
        assert math.degrees(view.azimuth - view.reference[0]) == pytest.approx(turn)


def test_the_table_has_the_mean_error_of_every_turn() -> None:
    shape = (2 * len(TURNS), 8, 8, 3)
    truth = torch.full(shape, 0.5)
    errors = torch.tensor([0.1, 0.01, 0.001, 0.0001] * 2).reshape(-1, 1, 1, 1)
    guesses = {name: truth + 10**k * errors for k, name in enumerate(WAYS)}
    pictures = torch.zeros(2, 8, 8, 3)
    body = report(Continued(pictures, truth, guesses, dict.fromkeys(WAYS, truth + errors)))
    rows = [line for line in body.splitlines() if line.startswith("| ")][2:]
    assert [row.split(" | ")[0] for row in rows] == [f"| {turn}" for turn in TURNS]
    assert rows[1].strip("| ").split(" | ")[1:] == ["40.0", "40.0", "20.0", "40.0", "0.0", "40.0"]
