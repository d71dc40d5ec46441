"""What the benchmarks ask of a prior goes to the prior's own device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.knowledge import denoised, sample
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
    found, true = denoised(prior, torch.zeros(2, 8, 8, 3), VIEWS, 0.5, told=True)
    assert found.shape == true.shape == (2, 3, 8, 8)
    assert len(prior.seen) == 4
    assert {tensor.device.type for tensor in prior.seen} == {"meta"}


def test_what_is_sampled_is_on_the_priors_device() -> None:
    prior: Any = Far()
    image = sample(prior, VIEWS, steps=3)
    assert image.shape == (2, 8, 8, 3)
    assert len(prior.seen) == 3 * 4
    assert {tensor.device.type for tensor in [image, *prior.seen]} == {"meta"}
