"""Blurred views are less crisp than the truth's, noisy ones more; the same models do not differ."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.likeness import MARGIN, detail, diversity, sharpness
from maquette.common.scene.cameras import orbit
from maquette.common.toybox.objects import build
from maquette.common.toybox.studio import albedo_views

GREY = (0.5, 0.5, 0.5)


@pytest.fixture(scope="module")
def views() -> tuple[Tensor, Tensor]:
    return albedo_views(build("an orange cat"), orbit(4), 64, GREY)


def blurred(images: Tensor) -> Tensor:
    x = F.pad(images.permute(0, 3, 1, 2), (1,) * 4, mode="replicate")
    return F.avg_pool2d(x, 3, stride=1).permute(0, 2, 3, 1)


def everywhere(images: Tensor) -> Tensor:
    return torch.ones(images.shape[:-1], dtype=torch.bool)


def test_the_truth_is_as_crisp_as_itself(views: tuple[Tensor, Tensor]) -> None:
    assert sharpness(*views, *views) == pytest.approx(1.0)


def test_blur_is_less_crisp_and_more_blur_less_still(views: tuple[Tensor, Tensor]) -> None:
    images, masks = views
    once = sharpness(blurred(images), masks, *views)
    twice = sharpness(blurred(blurred(images)), masks, *views)
    assert twice < once < 0.7


def test_noise_is_crisper_than_the_truth(views: tuple[Tensor, Tensor]) -> None:
    images, masks = views
    assert sharpness(images + 0.2 * torch.randn_like(images), masks, *views) > 1.5


def test_contrast_scales_sharpness(views: tuple[Tensor, Tensor]) -> None:
    images, masks = views
    assert sharpness(0.5 + 0.5 * (images - 0.5), masks, *views) == pytest.approx(0.5, rel=1e-5)


def test_detail_of_a_paraboloid() -> None:
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(10.0), indexing="ij")
    bowl = (0.01 * x**2 + 0.02 * y**2)[None, ..., None]
    assert detail(bowl, everywhere(bowl)) == pytest.approx(2 * 0.01 + 2 * 0.02, rel=1e-4)


def test_detail_of_a_slope_is_zero() -> None:
    slope = torch.linspace(0, 1, 16, dtype=torch.float64).expand(1, 16, 16)[..., None]
    assert detail(slope, everywhere(slope)) == pytest.approx(0.0, abs=1e-12)


def test_detail_of_a_step_counts_the_pixels_on_both_its_sides() -> None:
    step = torch.zeros(1, 16, 16, 1)
    step[:, :, 8:] = 1.0
    inside = 16 - 2 * MARGIN  # columns and rows that count, two of them beside the step
    assert detail(step, everywhere(step)) == pytest.approx(math.sqrt(2 / inside))


def test_the_rim_of_a_silhouette_does_not_count() -> None:
    image, mask = torch.zeros(1, 20, 20, 3), torch.zeros(1, 20, 20, dtype=torch.bool)
    mask[:, 5:15, 5:15] = True
    image[mask] = 1.0
    image[:, 5, 5:15] = 0.3  # what antialiasing may do to the rim
    assert detail(image, mask) == 0.0
    image[:, 10, 10] = 0.0
    assert detail(image, mask) > 0.0


def test_a_silhouette_too_thin_to_have_an_inside_has_no_detail() -> None:
    image, mask = torch.rand(1, 16, 16, 3), torch.zeros(1, 16, 16, dtype=torch.bool)
    mask[:, 6:10] = True
    assert detail(image, mask) == 0.0


def test_a_truth_without_detail_is_refused() -> None:
    flat = torch.full((1, 16, 16, 3), 0.5)
    with pytest.raises(ValueError, match="true_images"):
        sharpness(flat, everywhere(flat), flat, everywhere(flat))


def test_the_same_model_twice_has_no_diversity(views: tuple[Tensor, Tensor]) -> None:
    images, masks = views
    assert diversity(images.expand(3, *images.shape), masks.expand(3, *masks.shape)) == 0.0


def test_black_and_white_are_as_unlike_as_can_be() -> None:
    images = torch.stack([torch.zeros(2, 8, 8, 3), torch.ones(2, 8, 8, 3)])
    assert diversity(images, everywhere(images)) == 1.0


def test_diversity_is_the_mean_over_pairs() -> None:
    grey = torch.tensor([0.0, 0.3, 0.9])
    images = grey[:, None, None, None, None].expand(3, 2, 8, 8, 3)
    assert diversity(images, everywhere(images)) == pytest.approx((0.3 + 0.6 + 0.9) / 3)


def test_diversity_is_measured_on_what_either_covers() -> None:
    images = torch.full((2, 1, 8, 8, 3), 0.5)
    masks = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    masks[0, :, :, :2] = True
    masks[1, :, :, 2:4] = True
    images[0, :, :, :2] = 0.9  # 0.4 from the other's backdrop
    images[1, :, :, 2:4] = 0.2  # 0.3 from the first's
    wanted = math.sqrt((0.4**2 + 0.3**2) / 2)
    assert diversity(images, masks) == pytest.approx(wanted, rel=1e-6)


def test_instances_of_a_caption_are_diverse() -> None:
    pairs = [albedo_views(build("an orange cat", i), orbit(3), 48, GREY) for i in range(3)]
    images, masks = (torch.stack(parts) for parts in zip(*pairs, strict=True))
    assert 0.02 < diversity(images, masks) < 0.5


def test_nothing_at_all_is_not_diverse() -> None:
    images = torch.rand(2, 1, 8, 8, 3)
    assert diversity(images, torch.zeros(2, 1, 8, 8, dtype=torch.bool)) == 0.0


def test_wrong_arguments_are_named() -> None:
    images, masks = torch.rand(2, 1, 8, 8, 3), torch.ones(2, 1, 8, 8, dtype=torch.bool)
    with pytest.raises(ValueError, match="two models"):
        diversity(images[:1], masks[:1])
    with pytest.raises(ValueError, match="images, masks"):
        diversity(images, masks[:, :, 1:])
    with pytest.raises(ValueError, match="masks: expected bool"):
        detail(images[0], masks[0].float())
