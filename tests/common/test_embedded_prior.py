"""The weights that come with the program: they know the toybox as well as the pages say."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.knowledge import CAMERA, denoised, sample, true_views
from maquette.common.config.priors import PriorConfig
from maquette.common.embedded.door import load
from maquette.common.embedded.names import EMBEDDED
from maquette.common.embedded.training.data import View
from maquette.common.embedded.version import check_version
from maquette.common.embedded.vocabulary import HELD_OUT_COLORS
from maquette.common.priors.pretrained import PretrainedPrior
from maquette.common.scene.images import psnr_of_each
from maquette.common.toybox.grammar import CATEGORIES, COLORS, Caption, captions

FOVY = math.radians(40.0)
SAMPLED = (
    ("mushroom", "red"),
    ("chair", "blue"),
    ("cat", "orange"),
    ("truck", "red"),
    ("duck", "yellow"),
    ("robot", "white"),  # never shown in training
)
BOUNDS = {0.1: 30.0, 0.5: 25.0, 0.9: 22.0}
"""Noise level, and what the mean PSNR in dB of the denoised view must reach."""


@pytest.fixture(scope="module")
def pixel() -> PretrainedPrior:
    return load(PriorConfig(name="toybox-pixel"))


@pytest.fixture(scope="module")
def latent() -> PretrainedPrior:
    return load(PriorConfig(name="toybox-latent"))


def view(caption: Caption, azimuth: float = 0.6, elevation: float = 0.35) -> View:
    return View(caption, 0, azimuth, elevation, FOVY)


def unseen_views(count: int) -> list[View]:
    """Views of held-out pairs, turned a little from each to the next."""
    pairs = [(category, color[0]) for category, color in sorted(HELD_OUT_COLORS.items())]
    return [
        view(Caption(*pairs[k % len(pairs)]), azimuth=2.4 * k, elevation=0.5 * math.sin(k))
        for k in range(count)
    ]


def test_the_folders_belong_to_this_toybox() -> None:
    size = 0
    for folder in EMBEDDED.values():
        check_version(folder)
        for file in Path(folder).rglob("*.safetensors"):
            assert file.stat().st_size < 16 * 2**20, file
            size += file.stat().st_size
    assert size <= 64e6


def test_both_are_told_the_camera(pixel: PretrainedPrior, latent: PretrainedPrior) -> None:
    for prior, resolution, shape in ((pixel, 64, (3, 64, 64)), (latent, 512, (4, 64, 64))):
        assert prior.takes_camera
        assert prior.resolution == resolution
        assert prior.latent_shape == shape


def test_samples_are_nearest_to_their_own_truth(pixel: PretrainedPrior) -> None:
    views = [view(Caption(category, color)) for category, color in SAMPLED]
    samples = sample(pixel, views, steps=12)
    known = captions()
    assert len(known) == len(CATEGORIES) * len(COLORS)
    truths = true_views([view(caption) for caption in known], pixel.resolution)
    for (category, color), found in zip(SAMPLED, samples, strict=True):
        errors = (truths - found).square().flatten(1).mean(dim=1)
        assert known[int(errors.argmin())] == Caption(category, color)


@pytest.mark.parametrize("share", BOUNDS)
def test_denoised_views_are_near_what_the_exact_prior_says(
    pixel: PretrainedPrior, share: float
) -> None:
    """The exact prior's answer is the view itself, at any noise level."""
    views = unseen_views(16)
    found, true = denoised(pixel, true_views(views, pixel.resolution), views, share, CAMERA)
    assert float(psnr_of_each(found, true, 2.0).mean()) >= BOUNDS[share]


def test_the_autoencoder_keeps_unseen_views(latent: PretrainedPrior) -> None:
    views = unseen_views(4)
    images = true_views(views, latent.resolution)
    with torch.no_grad():
        again: Tensor = latent.decode_image(latent.encode_image(images))
    assert float(psnr_of_each(again, images, 1.0).mean()) >= 30.0
