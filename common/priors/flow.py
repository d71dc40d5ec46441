"""Flow-matching transformers: Stable Diffusion 3.x and FLUX.

`x_t = (1 - sigma) x_0 + sigma eps`, and the model predicts the velocity eps - x_0 (rectified flow,
Esser et al. 2024). A timestep t of `schedule` is a row of the table the pipeline itself would step
through with T steps, its shift towards noise included: sigma at t = T - 1 is 1, and uniform draws
of t spend more time at high noise where the scheduler does. What the transformer is told is not t
but sigma.

At sigma = 1 there is no signal in x_t: the noise is x_t whatever the model says.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from .base import Condition, TextEmbedding
from .emphasis import ClipPart
from .latents import latent_factor
from .noise import NoiseSchedule, to_noise
from .pretrained import LoadedPipeline, PretrainedPrior, TextLimit, choose_resolution

PATCH = 2  # both families' transformers read latents in 2 x 2 patches
SD3_T5_TOKENS, FLUX_T5_TOKENS = 256, 512  # the pipelines' own defaults


def flow_schedule(scheduler: Any, patches: int) -> NoiseSchedule:
    """The T noise levels of a flow scheduler for images of `patches` patches.

    u = 1/T, 2/T, ..., 1 goes through the scheduler's own shift: a fixed one,
    `s u / (1 + (s - 1) u)`, or one that grows with the image, with log s linear in `patches`
    through the scheduler's base and largest sizes. Raises `UserError` for other schedulers.
    """
    config = scheduler.config
    if "sigmas" not in inspect.signature(scheduler.set_timesteps).parameters or (
        config.get("shift") is None
    ):
        raise UserError(
            f"the scheduler {type(scheduler).__name__} has no flow-matching noise levels maquette"
            " can read; it takes FlowMatchEulerDiscreteScheduler"
        )
    steps = config.num_train_timesteps
    arguments = {}
    if config.get("use_dynamic_shifting"):
        small, large = config.base_image_seq_len, config.max_image_seq_len
        share = (patches - small) / (large - small)
        arguments["mu"] = config.base_shift + share * (config.max_shift - config.base_shift)
    fresh = type(scheduler).from_config(config)
    fresh.set_timesteps(sigmas=np.linspace(1.0, 1.0 / steps, steps), **arguments)
    sigma = fresh.sigmas[:steps].flip(0).float().cpu()
    return NoiseSchedule(1.0 - sigma, sigma)


def pack_latents(x: Tensor) -> Tensor:
    """Latents `[B, C, h, w]` as FLUX reads them: tokens `[B, h/2 w/2, 4 C]`, one a 2 x 2 patch."""
    batch, channels, height, width = x.shape
    x = x.reshape(batch, channels, height // 2, 2, width // 2, 2)
    x = x.permute(0, 2, 4, 1, 3, 5)  # (B, h/2, w/2, C, 2, 2)
    return x.reshape(batch, (height // 2) * (width // 2), 4 * channels)


def unpack_latents(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `pack_latents` for latents of `height` x `width`."""
    batch, _, channels = tokens.shape
    x = tokens.reshape(batch, height // 2, width // 2, channels // 4, 2, 2)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels // 4, height, width)


def patch_positions(height: int, width: int, like: Tensor) -> Tensor:
    """Where each token of `pack_latents` sits: rows (0, y, x), `[h/2 w/2, 3]`."""
    y, x = torch.meshgrid(torch.arange(height // 2), torch.arange(width // 2), indexing="ij")
    return torch.stack([torch.zeros_like(y), y, x], dim=-1).reshape(-1, 3).to(like)


class FlowPrior(PretrainedPrior):
    """A transformer over a VAE's latents that predicts a velocity; base of both families."""

    space: Literal["pixel", "latent"] = "latent"

    def __init__(self, loaded: LoadedPipeline, channels: int) -> None:
        pipeline = loaded.pipeline
        super().__init__(loaded, pipeline.transformer, "velocity")
        latent_channels = pipeline.vae.config.latent_channels
        if channels != latent_channels:
            raise UserError(
                f"{loaded.source} takes {channels} channels where its VAE makes {latent_channels}:"
                " it is not a text-to-image model (filling, editing or control)"
            )
        factor = latent_factor(pipeline.vae)
        default = pipeline.default_sample_size * factor
        self.resolution = choose_resolution(loaded, default, factor * PATCH)
        side = self.resolution // factor
        self.latent_shape = (channels, side, side)
        self.schedule = flow_schedule(pipeline.scheduler, (side // PATCH) ** 2)

    def denoise(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """`predict_noise` inside the autograd graph."""
        alpha, sigma = self.schedule.at(t)
        velocity = self.velocity(x_t.to(self.dtype), sigma.flatten(), condition.text).float()
        return to_noise(self.prediction, velocity, x_t, alpha, sigma)

    @abstractmethod
    def velocity(self, x: Tensor, sigma: Tensor, text: TextEmbedding) -> Tensor:
        """The transformer's output `[B, C, h, w]` for latents `x` at noise levels `sigma` `[B]`."""


class SD3Prior(FlowPrior):
    """Stable Diffusion 3 and 3.5: two CLIP encoders and, unless it was left out, a T5."""

    family = "sd3"

    def __init__(self, loaded: LoadedPipeline) -> None:
        super().__init__(loaded, loaded.pipeline.transformer.config.in_channels)

    def text_limits(self) -> list[TextLimit]:
        """The encoders and their tokens; what CLIP cuts, T5 may still read."""
        pipeline = self.pipeline
        most = pipeline.tokenizer_max_length
        limits = [(pipeline.tokenizer, most, "CLIP"), (pipeline.tokenizer_2, most, "CLIP")]
        if pipeline.text_encoder_3 is not None:
            limits.append((pipeline.tokenizer_3, SD3_T5_TOKENS, "T5"))
        return limits

    def clip_parts(self) -> list[ClipPart]:
        """The two CLIP encoders, side by side in the first tokens; the rest is T5's."""
        pipeline = self.pipeline
        first, second = (
            encoder.config.hidden_size
            for encoder in (pipeline.text_encoder, pipeline.text_encoder_2)
        )
        return [
            ClipPart(pipeline.tokenizer, slice(0, first)),
            ClipPart(pipeline.tokenizer_2, slice(first, first + second)),
        ]

    def embed(self, prompts: list[str], device: torch.device) -> dict[str, Tensor]:
        """As "states" `[N, 77 + 256, width]`, "pooled" `[N, width]`; zeros for a T5 left out."""
        states, _, pooled, _ = self.pipeline.encode_prompt(
            prompts, None, None, device=device, do_classifier_free_guidance=False,
            max_sequence_length=SD3_T5_TOKENS,
        )  # fmt: skip
        return {"states": states, "pooled": pooled}

    def velocity(self, x: Tensor, sigma: Tensor, text: TextEmbedding) -> Tensor:
        """The transformer's velocity; it is told sigma times T."""
        return self.denoiser(
            hidden_states=x,
            timestep=sigma * len(self.schedule),
            encoder_hidden_states=text.tensors["states"],
            pooled_projections=text.tensors["pooled"],
            return_dict=False,
        )[0]


class FluxPrior(FlowPrior):
    """FLUX: T5 for the text, CLIP's pooled output beside it, latents packed in patches.

    Models distilled with guidance are told `options.embedded_guidance`; classifier-free guidance
    on top of it is the distillation's business (its pipeline calls that "true" guidance).
    """

    family = "flux"

    def __init__(self, loaded: LoadedPipeline) -> None:
        super().__init__(loaded, loaded.pipeline.transformer.config.in_channels // PATCH**2)

    def text_limits(self) -> list[TextLimit]:
        """T5's tokens; CLIP gives one pooled vector and cuts without much loss."""
        return [(self.pipeline.tokenizer_2, FLUX_T5_TOKENS, "T5")]

    def embed(self, prompts: list[str], device: torch.device) -> dict[str, Tensor]:
        """As "states" `[N, 512, width]` (T5) and "pooled" `[N, width]` (CLIP)."""
        states, pooled, _ = self.pipeline.encode_prompt(
            prompts, device=device, max_sequence_length=FLUX_T5_TOKENS
        )
        return {"states": states, "pooled": pooled}

    def velocity(self, x: Tensor, sigma: Tensor, text: TextEmbedding) -> Tensor:
        """The transformer's velocity; it is told sigma, and the guidance scale if it reads one."""
        height, width = x.shape[2:]
        states = text.tensors["states"]
        guidance = None
        if self.denoiser.config.guidance_embeds:
            guidance = torch.full_like(sigma, self.options.embedded_guidance)
        tokens = self.denoiser(
            hidden_states=pack_latents(x),
            timestep=sigma,
            guidance=guidance,
            pooled_projections=text.tensors["pooled"],
            encoder_hidden_states=states,
            txt_ids=states.new_zeros(states.shape[1], 3),
            img_ids=patch_positions(height, width, x),
            return_dict=False,
        )[0]
        return unpack_latents(tokens, height, width)
