"""What the benchmarks ask of a prior goes to the prior's own device."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.knowledge import (
    CAMERA,
    Hints,
    condition,
    denoised,
    reference_of,
    sample,
    small_things,
)
from maquette.common.embedded.training.data import View
from maquette.common.priors.base import Condition, Prior, TextEmbedding
from maquette.common.priors.noise import cosine_schedule
from maquette.common.toybox.grammar import Caption

VIEWS = [View(Caption("mug", "red"), 0, 0.3, 0.2, 0.7)] * 2


class Far(Prior):
    """A prior on a device that holds shapes and no values, as strict about devices as a GPU."""

    takes_camera = True
    space = "pixel"
    resolution = 8
    latent_shape = (3, 8, 8)

    def __init__(self) -> None:
        self.device = torch.device("meta")
        self.schedule = cosine_schedule(1000)
        self.seen: list[Tensor] = []

    def encode_text(self, prompts: list[str]) -> TextEmbedding:
        return TextEmbedding(tuple(prompts), {"row": torch.zeros(len(prompts), device="meta")})

    def encode_image(self, image: Tensor) -> Tensor:
        return image.permute(0, 3, 1, 2).to(self.device)

    def decode_image(self, x: Tensor) -> Tensor | None:
        return None

    def predict_noise(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        assert condition.cameras is not None
        self.seen += [x_t, t, condition.cameras.azimuth, *condition.text.tensors.values()]
        return x_t


def test_what_is_denoised_is_on_the_priors_device() -> None:
    prior = Far()
    found, true = denoised(prior, torch.zeros(2, 8, 8, 3), VIEWS, 0.5, CAMERA)
    assert found.shape == true.shape == (2, 3, 8, 8)
    assert len(prior.seen) == 4
    assert {tensor.device.type for tensor in prior.seen} == {"meta"}


def test_what_is_sampled_is_on_the_priors_device() -> None:
    prior: Any = Far()
    image = sample(prior, VIEWS, steps=3)
    assert image.shape == (2, 8, 8, 3)
    assert len(prior.seen) == 3 * 4
    assert {tensor.device.type for tensor in [image, *prior.seen]} == {"meta"}


class Plain(Far):
    """The same, where values are."""

    def __init__(self) -> None:
        super().__init__()
        self.device = torch.device("cpu")


def test_a_picture_turns_the_world_so_that_it_looks_from_the_front() -> None:
    views = [replace(VIEWS[0], azimuth=1.5, reference=(0.5, 0.1))]
    reference = reference_of(Plain(), views, torch.device("cpu"))
    assert reference.cameras.azimuth.tolist() == [0.0]
    assert reference.cameras.elevation.tolist() == pytest.approx([0.1])
    assert reference.views.azimuth.tolist() == pytest.approx([1.0])
    assert reference.views.elevation.tolist() == pytest.approx([0.2])
    assert float(reference.x[0, :, 0, 0].mean()) == 1.0  # before white
    with pytest.raises(ValueError, match="expected a reference for each, got 1 of 2"):
        reference_of(Plain(), [*views, VIEWS[0]], torch.device("cpu"))


def test_hints_are_what_is_told() -> None:
    views = [replace(VIEWS[0], azimuth=math.pi, reference=(0.5, 0.1))]
    device, prior = torch.device("cpu"), Plain()
    all_of_it = condition(prior, views, Hints(surface=True, picture=True), device)
    assert all_of_it.cameras is not None
    assert all_of_it.surface is not None
    assert all_of_it.surface.shape == (1, 7, 8, 8)
    assert all_of_it.text.prompts == ("a red mug",)
    picture = condition(prior, views, Hints(camera=False, picture=True, caption=False), device)
    assert picture.cameras is None
    assert picture.surface is None
    assert picture.text.prompts == ("",)
    blind = condition(prior, views, Hints(camera=False), device)
    assert blind.text.prompts == ("a red mug, back view",)


def test_small_things_are_the_eyes() -> None:
    views = [View(Caption("cat", "orange"), 0, azimuth, 0.1, 0.7) for azimuth in (0.0, math.pi)]
    front, back = small_things(views, 64).flatten(1).float().mean(dim=1).tolist()
    assert 0.001 < front < 0.05
    assert back < front
