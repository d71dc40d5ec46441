"""Latent U-Nets: Stable Diffusion 1.x, 2.x (epsilon and v-prediction) and SDXL.

Text goes through the pipeline's own `encode_prompt`. SDXL joins two encoders, adds the second
one's pooled embedding, and tells the U-Net the image's size and crop ("time ids", Podell et al.
2023, section 2.2): here the size of x in pixels, uncropped, as its pipeline does by default.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..device import constant
from ..errors import UserError
from .base import Condition, TextEmbedding
from .camera_features import reads_camera, reads_reference, unet_inputs
from .emphasis import ClipPart
from .latents import latent_factor
from .noise import diffusion_schedule, to_noise
from .pretrained import LoadedPipeline, PretrainedPrior, TextLimit, choose_resolution


class LatentUNetPrior(PretrainedPrior):
    """A U-Net over a VAE's latents; the base of the SD and SDXL adapters."""

    space: Literal["pixel", "latent"] = "latent"

    def __init__(self, loaded: LoadedPipeline) -> None:
        unet, vae = loaded.pipeline.unet, loaded.pipeline.vae
        self.schedule, kind = diffusion_schedule(loaded.pipeline.scheduler)
        super().__init__(loaded, unet, kind)
        channels = vae.config.latent_channels
        self.takes_reference = self.takes_surface = reads_reference(unet.config)
        takes = channels if self.takes_reference else unet.config.in_channels
        if (takes, unet.config.out_channels) != (channels, channels):
            raise UserError(
                f"{loaded.source} takes {unet.config.in_channels} channels where its VAE makes"
                f" {channels}: it is not a text-to-image model (inpainting, editing or upscaling)"
            )
        self.factor = latent_factor(vae)
        default = unet.config.sample_size * self.factor
        self.resolution = choose_resolution(loaded, default, self.factor)
        side = self.resolution // self.factor
        self.latent_shape = (channels, side, side)
        self.takes_camera = reads_camera(unet.config)

    def text_limits(self) -> list[TextLimit]:
        """The CLIP encoders and their tokens."""
        tokenizers = [self.pipeline.tokenizer, getattr(self.pipeline, "tokenizer_2", None)]
        return [(t, t.model_max_length, "CLIP") for t in tokenizers if t is not None]

    def denoise(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """`predict_noise` inside the autograd graph."""
        x, labels = unet_inputs(
            self.denoiser.config,
            x_t.to(self.dtype),
            condition.cameras,
            condition.reference,
            condition.surface,
        )
        output = self.denoiser(
            x,
            t,
            encoder_hidden_states=condition.text.tensors["states"],
            class_labels=labels,
            timestep_cond=self._guidance_condition(x),
            added_cond_kwargs=self.added_conditions(x, condition.text),
            return_dict=False,
        )[0]
        return to_noise(self.prediction, output.float(), x_t, *self.schedule.at(t))

    def added_conditions(self, x: Tensor, text: TextEmbedding) -> dict[str, Tensor] | None:
        """What the U-Net is told beside timestep and text; None for nothing."""
        return None

    def _guidance_condition(self, x: Tensor) -> Tensor | None:
        """The guidance scale's embedding for U-Nets distilled with it (Meng et al. 2023)."""
        width = self.denoiser.config.time_cond_proj_dim
        if width is None:
            return None
        scale = torch.full((len(x),), self.options.embedded_guidance - 1.0, device=x.device)
        return self.pipeline.get_guidance_scale_embedding(scale, embedding_dim=width).to(x)


class StableDiffusionPrior(LatentUNetPrior):
    """Stable Diffusion 1.x and 2.x: one CLIP encoder."""

    family = "sd"

    def clip_parts(self) -> list[ClipPart]:
        """The one encoder."""
        return [ClipPart(self.pipeline.tokenizer, slice(None))]

    def embed(self, prompts: list[str], device: torch.device) -> dict[str, Tensor]:
        """The encoder's hidden states `[N, 77, width]` as "states"."""
        return {"states": self.pipeline.encode_prompt(prompts, device, 1, False)[0]}


class SDXLPrior(LatentUNetPrior):
    """SDXL: two CLIP encoders side by side, a pooled embedding and time ids."""

    family = "sdxl"

    def embed(self, prompts: list[str], device: torch.device) -> dict[str, Tensor]:
        """As "states" `[N, 77, width]` and "pooled" `[N, width]`.

        The empty prompt is zeros where the model's configuration says so, as in its pipeline.
        """
        states, pooled = self._read(prompts, device)
        if self.pipeline.config.force_zeros_for_empty_prompt:
            told = torch.tensor([bool(p.strip()) for p in prompts], device=device)
            states, pooled = states * told[:, None, None], pooled * told[:, None]
        return {"states": states, "pooled": pooled}

    def _read(self, prompts: list[str], device: torch.device) -> tuple[Tensor, Tensor]:
        states, _, pooled, _ = self.pipeline.encode_prompt(
            prompts, device=device, do_classifier_free_guidance=False
        )
        return states, pooled

    def unweighted(self, device: torch.device) -> Tensor:
        """What the encoders make of no words, though the U-Net may be told zeros."""
        return self._read([""], device)[0]

    def clip_parts(self) -> list[ClipPart]:
        """The two encoders, side by side."""
        pipeline = self.pipeline
        width = pipeline.text_encoder.config.hidden_size
        return [
            ClipPart(pipeline.tokenizer, slice(0, width)),
            ClipPart(pipeline.tokenizer_2, slice(width, None)),
        ]

    def added_conditions(self, x: Tensor, text: TextEmbedding) -> dict[str, Tensor]:
        """The pooled text and the time ids: original size, crop corner, target size."""
        height, width = (self.factor * side for side in x.shape[2:])
        sizes = (height, width, 0, 0, height, width)
        ids = constant(sizes, x.device, x.dtype).expand(len(x), 6)
        return {"text_embeds": text.tensors["pooled"], "time_ids": ids}
