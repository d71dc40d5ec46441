"""CLIP as the judge: Dream Fields (Jain 2022).

No diffusion model is asked: a view is good if CLIP finds its image like the prompt. That alone
fills space with whatever excites CLIP, so views are shown as random crops before random
backgrounds, and emptiness is rewarded up to a target that grows over the first steps.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..config.judges import ClipConfig
from ..device import shown
from ..priors.adaptation import weight_errors
from ..priors.location import hub_errors, missing_libraries
from ..priors.pretrained import quiet_libraries, truncation_note
from ..scene.cameras import Cameras
from .judges import Judged, Unchanging, Views, advising

log = logging.getLogger(__name__)

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""What OpenAI's models take for the mean and spread of an image's colours."""
DISTANCE = 4.0  # at which the target of the opacity counts as it stands
CHECKS = 8  # squares of a checkered background a side
BLUR_SIDE = 224.0  # pixels a side of the views to which `ClipConfig.blur` refers


class ClipJudge(Unchanging):
    """CLIP as a `Judge`: `-mean cos(image, text) - w min(tau, mean transmittance)`."""

    group = 1

    def __init__(
        self, encode: Callable[[Tensor], Tensor], text: Tensor, side: int, config: ClipConfig
    ) -> None:
        """encode: from images `[N, 3, side, side]` in [0, 1] to embeddings `[N, D]`.

        text: the prompt's embedding `[D]`. Neither needs to be of unit length.
        """
        self.encode, self.side, self.config = encode, side, config
        self.text = F.normalize(text, dim=-1)

    @staticmethod
    def of_model(config: ClipConfig, prompt: str, device: torch.device) -> ClipJudge:
        """The judge of a prompt by a CLIP model of `transformers`, from a folder or the hub.

        Raises UserError if it can't be found or read; a prompt that is cut is logged.
        """
        with missing_libraries():
            from transformers import CLIPModel, CLIPTokenizer
        place: Any = {"revision": config.revision or "main"}
        with quiet_libraries(), hub_errors(config.model, config.revision):
            with weight_errors(config.model, None):
                model: Any = CLIPModel.from_pretrained(config.model, use_safetensors=True, **place)
                tokenizer = CLIPTokenizer.from_pretrained(config.model, **place)
            mean, std = _statistics(config)
        model = model.requires_grad_(False).eval().to(device)
        most = model.config.text_config.max_position_embeddings
        if note := truncation_note(prompt, (tokenizer, most, "CLIP")):
            log.warning(note)
        tokens = tokenizer([prompt], truncation=True, max_length=most, return_tensors="pt")
        with torch.no_grad():
            pooled = model.text_model(**tokens.to(device)).pooler_output
            text = model.text_projection(pooled)[0]
        shift, scale = (torch.tensor(v, device=device).view(3, 1, 1) for v in (mean, std))

        def encode(images: Tensor) -> Tensor:
            seen = model.vision_model(pixel_values=(images - shift) / scale)
            return model.visual_projection(seen.pooler_output)

        return ClipJudge(encode, text, model.config.vision_config.image_size, config)

    def __call__(self, views: Views, step: int) -> Judged:
        """The loss of views at a step; to watch: the mean cosine and the mean opacity."""
        images = self.augmented(views)
        cosine = F.normalize(self.encode(images), dim=-1) @ self.text
        opacity = views.opacity.mean(dim=(1, 2))
        target = 1.0 - opacity_target(self.config, views.cameras, step).to(opacity)
        emptiness = torch.minimum(1.0 - opacity, target).mean()
        loss = -cosine.mean() - self.config.transmittance_weight * emptiness
        watch = {
            "similarity": shown(cosine.mean()),
            "opacity": shown(opacity.mean()),
        }
        return Judged(loss, watch)

    def augmented(self, views: Views) -> Tensor:
        """Each view's crops before their own backgrounds, `[B * crops, 3, side, side]` in [0, 1].

        All draws come from torch's CPU generator.
        """
        config, shown = self.config, []
        for _ in range(config.crops):
            image = views.image
            if config.backgrounds:
                count, height, width = image.shape[:3]
                blur = config.blur * height / BLUR_SIDE
                image = views.before(random_backgrounds(count, height, width, blur).to(image))
            shown.append(random_crops(image.permute(0, 3, 1, 2), config.crop_share, self.side))
        return torch.stack(shown, dim=1).flatten(0, 1)

    def memory_advice(self) -> AbstractContextManager[None]:
        """Turn running out of the device's memory within the block into a `UserError`."""
        return advising(
            f"{self.config.model} ran out of the device's memory; try fewer clip.crops, fewer "
            "views a step, or a smaller resolution"
        )


def opacity_target(config: ClipConfig, cameras: Cameras, step: int) -> Tensor:
    """The mean opacity that each of B views may have at a step, `[B]` in [0, 1].

    From `opacity_start` to `opacity_end` along a geometric curve, times
    `focal^2 / ((distance / 4)^2 focal_reference)`, the focal length in widths of the view: an
    object looks larger from nearby or through a long lens.
    """
    share = min(1.0, step / config.opacity_steps)
    start = max(config.opacity_start, 1e-6)
    target = start * (config.opacity_end / start) ** share
    focal = 0.5 / torch.tan(0.5 * cameras.fovy)
    apparent = focal**2 / ((cameras.distance / DISTANCE) ** 2 * config.focal_reference)
    return (target * apparent).clamp(max=1.0)


def random_crops(images: Tensor, share: float, side: int) -> Tensor:
    """A square crop of each image `[B, C, H, H]` at a random place, resized to `side`.

    share: of the image's side that the crop has.
    """
    height = images.shape[-1]
    crop = max(1, round(share * height))
    corners = torch.randint(0, height - crop + 1, (len(images), 2)).tolist()
    parts = [
        image[:, top : top + crop, left : left + crop]
        for image, (top, left) in zip(images, corners, strict=True)
    ]
    size = (side, side)
    resized = F.interpolate(torch.stack(parts), size, mode="bicubic", antialias=True)
    return resized.clamp(0.0, 1.0)


def random_backgrounds(count: int, height: int, width: int, blur: float) -> Tensor:
    """Backgrounds `[count, height, width, 3]` in [0, 1]: noise, checkers, smooth noise, at random.

    Each is blurred by a Gaussian whose standard deviation is drawn from 0 to `blur` pixels.
    """
    kinds = torch.randint(0, 3, (count,))
    noise = torch.rand(count, 3, height, width)
    made = torch.stack([noise, _checkers(count, height, width), _smooth(count, height, width)])
    chosen = made[kinds, torch.arange(count)]
    return blurred(chosen, blur * torch.rand(count)).clamp(0.0, 1.0).permute(0, 2, 3, 1)


def blurred(images: Tensor, sigma: Tensor) -> Tensor:
    """Images `[B, C, H, W]` blurred by Gaussians of `sigma` `[B]` pixels, wrapped at the rims."""
    height, width = images.shape[-2:]
    squared = _frequencies(height, width) ** 2
    gain = torch.exp(-2.0 * math.pi**2 * sigma[:, None, None] ** 2 * squared)
    return torch.fft.irfft2(torch.fft.rfft2(images) * gain[:, None], s=(height, width))


def _checkers(count: int, height: int, width: int) -> Tensor:
    """Two random colours in squares."""
    row, column = (torch.arange(n) * CHECKS // n for n in (height, width))
    odd = ((row[:, None] + column) % 2).bool()
    one, other = torch.rand(2, count, 3, 1, 1)
    return torch.where(odd, one, other)


def _smooth(count: int, height: int, width: int) -> Tensor:
    """Noise whose amplitude falls with the frequency, as in photographs, through a sigmoid."""
    frequency = _frequencies(height, width).clamp(min=1.0 / max(height, width))
    spectrum = torch.randn(count, 3, *frequency.shape, 2) / frequency[..., None]
    image = torch.fft.irfft2(torch.view_as_complex(spectrum), s=(height, width))
    spread = image.std(dim=(1, 2, 3), keepdim=True).clamp(min=1e-8)
    return torch.sigmoid(2.0 * image / spread)


def _frequencies(height: int, width: int) -> Tensor:
    """Cycles a pixel of the entries of `rfft2`, `[height, width // 2 + 1]`."""
    return torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None])


def _statistics(config: ClipConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and spread of colours as the model's own preprocessing has them, or OpenAI's."""
    from transformers.utils.hub import cached_file

    found = cached_file(
        config.model,
        "preprocessor_config.json",
        revision=config.revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if found is None:
        return MEAN, STD
    said = json.loads(Path(found).read_text("utf-8"))
    return tuple(said.get("image_mean", MEAN)), tuple(said.get("image_std", STD))
