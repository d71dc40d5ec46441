"""Pixel-space U-Nets: DeepFloyd IF's first stage, and plain `UNet2DConditionModel` folders.

IF predicts noise and a variance side by side (Nichol and Dhariwal 2021); the second half of its
channels is the variance and is dropped. T5 encoders read the prompt as IF's do (lower case, 77
tokens, padding masked); CLIP encoders read it as it is.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..errors import UserError
from .base import Condition
from .camera_features import reads_camera, reads_reference, unet_inputs
from .emphasis import ClipPart
from .noise import diffusion_schedule, to_noise
from .pretrained import LoadedPipeline, PretrainedPrior, TextLimit, choose_resolution

IF_TOKENS = 77


class PixelUNetPrior(PretrainedPrior):
    """A U-Net over RGB images in [-1, 1]: x is the image."""

    space: Literal["pixel", "latent"] = "pixel"
    family = "pixel"

    def __init__(self, loaded: LoadedPipeline) -> None:
        unet = loaded.pipeline.unet
        self.schedule, kind = diffusion_schedule(loaded.pipeline.scheduler)
        super().__init__(loaded, unet, kind)
        self.takes_reference = self.takes_surface = reads_reference(unet.config)
        takes = 3 if self.takes_reference else unet.config.in_channels
        if takes != 3 or unet.config.out_channels not in (3, 6):
            raise UserError(
                f"{loaded.source} takes {unet.config.in_channels} channels and gives"
                f" {unet.config.out_channels}; a pixel prior takes 3 and gives 3 or 6 (the first"
                " stage of a cascade, not an upscaler)"
            )
        halvings = len(unet.config.block_out_channels) - 1
        self.resolution = choose_resolution(loaded, unet.config.sample_size, 2**halvings)
        self.latent_shape = (3, self.resolution, self.resolution)
        self.takes_camera = reads_camera(unet.config)

    @property
    def reads_t5(self) -> bool:
        """Whether the text encoder is a T5, whose prompts go in lower case with padding masked."""
        return type(self.pipeline.text_encoder).__name__.startswith("T5")

    def text_limits(self) -> list[TextLimit]:
        """The one encoder and its tokens."""
        tokenizer = self.pipeline.tokenizer
        if self.reads_t5:
            return [(tokenizer, IF_TOKENS, "T5")]
        positions = self.pipeline.text_encoder.config.max_position_embeddings
        return [(tokenizer, min(tokenizer.model_max_length, positions), "CLIP")]

    def clip_parts(self) -> list[ClipPart]:
        """The one encoder, unless it is a T5."""
        return [] if self.reads_t5 else [ClipPart(self.pipeline.tokenizer, slice(None))]

    def embed(self, prompts: list[str], device: torch.device) -> dict[str, Tensor]:
        """The encoder's last hidden states `[N, tokens, width]` as "states"."""
        ((tokenizer, most, _),) = self.text_limits()
        texts = [p.lower().strip() for p in prompts] if self.reads_t5 else prompts
        tokens = tokenizer(
            texts, padding="max_length", max_length=most, truncation=True, return_tensors="pt"
        ).to(device)
        mask = tokens.attention_mask if self.reads_t5 else None
        return {"states": self.pipeline.text_encoder(tokens.input_ids, attention_mask=mask)[0]}

    def denoise(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """`predict_noise` inside the autograd graph."""
        states = condition.text.tensors["states"]
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
            encoder_hidden_states=states,
            class_labels=labels,
            return_dict=False,
        )[0]
        output = output[:, : x_t.shape[1]].float()  # the rest is the learned variance
        return to_noise(self.prediction, output, x_t, *self.schedule.at(t))
