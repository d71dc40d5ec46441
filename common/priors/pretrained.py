"""What all adapters over diffusers share: schedules, conversions to noise, the VAE, text, memory.

A family adds to `PretrainedPrior` how its text is embedded (`embed`), how its denoiser is called
(`denoise`) and how an image becomes its x (`encode_image`). The maths stands above the class as
pure functions. Images stay float32 at the door; the model runs in its own dtype.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UserError
from ..scene.cameras import Cameras
from .base import Prior, TextEmbedding
from .memory import move, out_of_memory_advice, release, resident
from .noise import NoiseSchedule

if TYPE_CHECKING:
    from .loading import LoadOptions

log = logging.getLogger(__name__)

Prediction = Literal["epsilon", "v_prediction", "sample", "velocity"]
# A tokenizer, the number of tokens its encoder takes, and what to call that encoder.
TextLimit = tuple[Any, int, str]


@dataclass(frozen=True)
class LoadedPipeline:
    """A diffusers pipeline as it came from disk, before an adapter takes it.

    pipeline: used as a container of components and for its own `encode_prompt`; never called.
    source: the hub id or folder the weights came from; revision: the commit (None for folders).
    options: with memory choices resolved; device, dtype: what the denoiser runs on and in.
    autocast: whether float32 weights compute in bfloat16, as they did in their training.
    wording: puts a prompt the way the model knows it, or raises `UserError`; None changes nothing.
    """

    pipeline: Any
    source: str
    revision: str | None
    options: LoadOptions
    device: torch.device
    dtype: torch.dtype
    autocast: bool = False
    wording: Callable[[str], str] | None = None


def to_noise(kind: Prediction, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The noise in `x_t = alpha x_0 + sigma eps` that a model's output of some kind stands for.

    All tensors broadcast together. By kind the output is
        epsilon: eps;
        v_prediction: v = alpha eps - sigma x_0 (Salimans and Ho 2022, appendix D), for
            alpha^2 + sigma^2 = 1, hence eps = sigma x_t + alpha v;
        velocity: v = eps - x_0 (Liu et al. 2023, rectified flow), for alpha + sigma = 1, hence
            eps = x_t + alpha v;
        sample: x_0, hence eps = (x_t - alpha x_0) / sigma.
    """
    match kind:
        case "epsilon":
            return output
        case "v_prediction":
            return sigma * x_t + alpha * output
        case "velocity":
            return x_t + alpha * output
        case "sample":
            return (x_t - alpha * output) / sigma


def diffusion_schedule(scheduler: Any) -> tuple[NoiseSchedule, Prediction]:
    """Noise levels and prediction type of a U-Net's scheduler, from its `alphas_cumprod`.

    The step rule of the scheduler (DDIM, Euler, ...) plays no part in distillation, only its
    betas do. Raises `UserError` for schedulers that have none, or another prediction type.
    """
    products = getattr(scheduler, "alphas_cumprod", None)
    kind = scheduler.config.get("prediction_type", "epsilon")
    if products is None or kind not in ("epsilon", "v_prediction", "sample"):
        raise UserError(
            f"the scheduler {type(scheduler).__name__} (prediction type {kind}) has no noise levels"
            " maquette can read; it takes schedulers with betas and epsilon, v or sample prediction"
        )
    products = products.double().cpu()
    return NoiseSchedule(products.sqrt().float(), (1.0 - products).sqrt().float()), kind


def to_pixels(image: Tensor, resolution: int) -> Tensor:
    """Images `[B, H, W, 3]` in [0, 1] as a model sees them: `[B, 3, r, r]` in [-1, 1].

    Resized bilinearly with antialiasing where H or W is not `resolution`; differentiable.
    Raises ValueError for another shape.
    """
    if image.ndim != 4 or image.shape[-1] != 3:
        raise ValueError(f"image: expected [B, H, W, 3], got {tuple(image.shape)}")
    pixels = image.permute(0, 3, 1, 2)
    if tuple(pixels.shape[2:]) != (resolution, resolution):
        size = (resolution, resolution)
        pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True, align_corners=False)
    return 2.0 * pixels - 1.0


def encode_latents(vae: Any, pixels: Tensor) -> Tensor:
    """Latents float32 `[B, C, h, w]`, scaled as the denoiser wants them, of `pixels` in [-1, 1].

    The mean of the VAE's posterior, not a sample: its spread is far below any noise level used,
    and a distillation gradient is then a function of the image alone. Differentiable in `pixels`.
    """
    encoded = vae.encode(pixels.to(vae.dtype))
    latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
    return normalise_latents(latents.float(), vae.config)


def decode_latents(vae: Any, latents: Tensor) -> Tensor:
    """Pixels float32 `[B, 3, H, W]` in about [-1, 1] that a VAE makes of the denoiser's latents.

    latents: `[B, C, h, w]`, scaled as `encode_latents` does; it leads back to them but for what
    the VAE loses.
    """
    own = restore_latents(latents, vae.config).to(vae.dtype)
    return vae.decode(own, return_dict=False)[0].float()


def normalise_latents(latents: Tensor, config: Any) -> Tensor:
    """From the VAE's own latents to the denoiser's, by the VAE's configuration.

    `(z - shift_factor) scaling_factor`, or with per-channel statistics
    `(z - latents_mean) / latents_std * scaling_factor`; the inverse of what diffusers' pipelines
    do before they decode.
    """
    mean, std = config.get("latents_mean"), config.get("latents_std")
    scale = config.get("scaling_factor") or 1.0
    if mean is not None and std is not None:
        mean, std = (latents.new_tensor(v).reshape(1, -1, 1, 1) for v in (mean, std))
        return (latents - mean) * scale / std
    return (latents - (config.get("shift_factor") or 0.0)) * scale


def restore_latents(latents: Tensor, config: Any) -> Tensor:
    """From the denoiser's latents to the VAE's own: the inverse of `normalise_latents`."""
    mean, std = config.get("latents_mean"), config.get("latents_std")
    scale = config.get("scaling_factor") or 1.0
    if mean is not None and std is not None:
        mean, std = (latents.new_tensor(v).reshape(1, -1, 1, 1) for v in (mean, std))
        return latents * std / scale + mean
    return latents / scale + (config.get("shift_factor") or 0.0)


def latent_factor(vae: Any) -> int:
    """By how much a VAE shrinks an image's sides."""
    widths = vae.config.get("block_out_channels") or vae.config.encoder_block_out_channels
    return 2 ** (len(widths) - 1)


def choose_resolution(loaded: LoadedPipeline, default: int, multiple: int) -> int:
    """The user's resolution or the model's own; raises `UserError` if it is no `multiple`."""
    resolution = loaded.options.resolution or default
    if resolution < multiple or resolution % multiple:
        raise UserError(
            f"resolution: {loaded.source} takes multiples of {multiple}, got {resolution}"
        )
    return resolution


def truncation_note(prompt: str, limit: TextLimit) -> str | None:
    """Where a text encoder stops reading `prompt`: at which word, and what it leaves; or None."""
    tokenizer, most, name = limit

    def fits(text: str) -> bool:
        return len(tokenizer(text, truncation=False, verbose=False).input_ids) <= most

    if fits(prompt):
        return None
    words = prompt.split()
    low, high = 0, len(words)  # the first `low` words fit, the first `high` do not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(" ".join(words[:middle])) else (low, middle)
    rest = " ".join(words[low:])
    rest = rest if len(rest) <= 80 else rest[:77] + "..."
    return (
        f"the prompt is longer than the {name} text encoder takes ({most} tokens): it is cut at"
        f' word {low + 1}, "{words[low]}"; not read: "{rest}"'
    )


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence diffusers' and transformers' own warnings and bars; what matters is said here."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, (verbosity, bars) in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            if bars:
                library.enable_progress_bar()


class PretrainedPrior(Prior):
    """A diffusers model as a `Prior`; the base of one adapter a family.

    Attributes beside those of `Prior`:
        source, revision: where the weights came from (hub id or folder; commit, None for folders).
        family: "pixel", "sd", "sdxl", "sd3" or "flux".
        denoiser: the U-Net or transformer; frozen, and never inside the autograd graph unless
            `denoise` is called directly.
        vae: the autoencoder, None for pixel models. latent_shape: (C, h, w) of x.
        truncation_notes: one line for every prompt that was longer than an encoder takes.
    """

    family: str
    latent_shape: tuple[int, int, int]

    def __init__(self, loaded: LoadedPipeline, denoiser: nn.Module, kind: Prediction) -> None:
        self.pipeline = loaded.pipeline
        self.denoiser: Any = denoiser
        self.vae: Any = getattr(loaded.pipeline, "vae", None)
        self.source, self.revision = loaded.source, loaded.revision
        self.options, self.device, self.dtype = loaded.options, loaded.device, loaded.dtype
        self.autocast, self.wording = loaded.autocast, loaded.wording
        self.prediction: Prediction = kind
        self.truncation_notes: list[str] = []
        self.takes_camera = False

    @abstractmethod
    def text_limits(self) -> list[TextLimit]:
        """Every text encoder that reads the prompt, with the number of tokens it takes."""

    @abstractmethod
    def embed(self, prompts: list[str], device: torch.device) -> dict[str, Tensor]:
        """What `denoise` needs of N prompts, each tensor with leading axis N."""

    @abstractmethod
    def denoise(
        self, x_t: Tensor, t: Tensor, text: TextEmbedding, camera: Cameras | None = None
    ) -> Tensor:
        """`predict_noise` inside the autograd graph, for training an adapter on `denoiser`."""

    def encode_text(self, prompts: Sequence[str]) -> TextEmbedding:
        """Embed prompts; the empty prompt is the unconditional one.

        The text encoders are on the device only meanwhile. Prompts that are cut are logged and
        kept in `truncation_notes`. Raises ValueError after `free_text_encoder`.
        """
        encoders = self._text_encoders()
        if not encoders:
            raise ValueError("encode_text: the text encoders were freed; embed all prompts before")
        self._note_truncations(prompts)
        device = torch.device("cpu") if self.options.text_on_cpu else self.device
        with torch.no_grad(), quiet_libraries(), out_of_memory_advice(self.options):
            for encoder in encoders.values():
                move(encoder, device)
            texts = [self.wording(p) if self.wording else p for p in prompts]
            tensors = self.embed(texts, device)
            for encoder in encoders.values():
                move(encoder, torch.device("cpu"))
        placed = {k: v.to(self.device, self.dtype) for k, v in tensors.items()}
        return TextEmbedding(tuple(prompts), placed)

    def free_text_encoder(self) -> None:
        """Drop the text encoders and their memory; no prompt can be embedded afterwards."""
        for name in self._text_encoders():
            setattr(self.pipeline, name, None)
        release()

    def encode_image(self, image: Tensor) -> Tensor:
        """From images `[B, H, W, 3]` in [0, 1] to x `[B, C, h, w]`, float32 and differentiable.

        Pixel models: the image at `resolution` in [-1, 1]. Latent models: `encode_latents` of it.
        """
        pixels = to_pixels(image.to(self.device), self.resolution)
        if self.vae is None:
            return pixels
        if self.autocast:
            # A permuted image lies channels last, and so would all that is made of it; on the CPU
            # bfloat16 group norms go back through that far slower.
            pixels = pixels.contiguous()
        with out_of_memory_advice(self.options), self.computing():
            move(self.vae, self.device)
            return encode_latents(self.vae, pixels)

    @torch.no_grad()
    def decode_image(self, x: Tensor) -> Tensor:
        """From latents `[B, C, h, w]` to images `[B, H, W, 3]` in [0, 1]; carries no gradient.

        `encode_image` backwards, but for what the VAE loses; what it makes beyond [0, 1] is cut.
        Raises ValueError for models without a VAE.
        """
        if self.vae is None:
            raise ValueError(f"decode_image: {self.source} has no VAE, its x is the image itself")
        with out_of_memory_advice(self.options), self.computing():
            move(self.vae, self.device)
            pixels = decode_latents(self.vae, x)
        return (0.5 * pixels + 0.5).clamp(0.0, 1.0).permute(0, 2, 3, 1)

    def predict_noise(
        self, x_t: Tensor, t: Tensor, text: TextEmbedding, camera: Cameras | None = None
    ) -> Tensor:
        """The noise `[B, C, h, w]` the model sees in `x_t`, outside the autograd graph.

        Raises ValueError if the batch sizes of the arguments differ.
        """
        sizes = [len(x_t), len(t), len(text), *([] if camera is None else [len(camera)])]
        if len(set(sizes)) != 1:
            raise ValueError(f"predict_noise: x_t, t, text (camera) differ in batch size: {sizes}")
        place = resident(self.denoiser, self.device, self.options.offload)
        with torch.no_grad(), out_of_memory_advice(self.options), place, self.computing():
            return self.denoise(x_t.detach(), t, text, camera)

    def computing(self) -> torch.autocast:
        """The context in which the denoiser and the VAE compute."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast)

    def _text_encoders(self) -> dict[str, nn.Module]:
        names = ("text_encoder", "text_encoder_2", "text_encoder_3")
        found = {name: getattr(self.pipeline, name, None) for name in names}
        return {name: encoder for name, encoder in found.items() if encoder is not None}

    def _note_truncations(self, prompts: Sequence[str]) -> None:
        for prompt in dict.fromkeys(prompts):
            for limit in self.text_limits():
                note = truncation_note(prompt, limit)
                if note is not None and note not in self.truncation_notes:
                    self.truncation_notes.append(note)
                    log.warning(note)
