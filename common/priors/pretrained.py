"""What all adapters over diffusers share: schedules, conversions to noise, the VAE, text, memory.

A family adds to `PretrainedPrior` how its text is embedded (`embed`), how its denoiser is called
(`denoise`) and how an image becomes its x (`encode_image`). Images stay float32 at the door; the
model runs in its own dtype.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..config.priors import PriorConfig
from ..errors import UserError
from .base import Condition, Prior, TextEmbedding
from .latents import decode_latents, encode_latents, restore_latents, to_pixels
from .memory import move, out_of_memory_advice, release, resident
from .noise import Prediction

log = logging.getLogger(__name__)

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
    options: PriorConfig
    device: torch.device
    dtype: torch.dtype
    autocast: bool = False
    wording: Callable[[str], str] | None = None


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
        family: of `location.Family`.
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
    def denoise(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
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
        with torch.no_grad(), quiet_libraries(), self.memory_advice():
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
            # bfloat16 group norms go back through that slowly (benchmarks/embedded.py).
            pixels = pixels.contiguous()
        with self.memory_advice(), self.computing():
            move(self.vae, self.device)
            return encode_latents(self.vae, pixels)

    @torch.no_grad()
    def encode_reference(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the model makes of a picture `[H, W, 3]` in [0, 1] that it is told: x and token.

        See `Reference`; x is `[1, C, h, w]`, for latent models the VAE's own latents, not scaled.
        """
        x = self.encode_image(image[None])
        return (x if self.vae is None else restore_latents(x, self.vae.config)), None

    @torch.no_grad()
    def decode_image(self, x: Tensor) -> Tensor | None:
        """From latents `[B, C, h, w]` to images `[B, H, W, 3]` in [0, 1]; carries no gradient.

        `encode_image` backwards, but for what the VAE loses; what it makes beyond [0, 1] is cut.
        None for models without a VAE.
        """
        if self.vae is None:
            return None
        with self.memory_advice(), self.computing():
            move(self.vae, self.device)
            pixels = decode_latents(self.vae, x)
        return (0.5 * pixels + 0.5).clamp(0.0, 1.0).permute(0, 2, 3, 1)

    def predict_noise(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The noise `[B, C, h, w]` the model sees in `x_t`, outside the autograd graph.

        Raises ValueError if the batch sizes of the arguments differ.
        """
        sizes = [len(x_t), len(t), len(condition)]
        if condition.cameras is not None:
            sizes.append(len(condition.cameras))
        if len(set(sizes)) != 1:
            raise ValueError(f"predict_noise: x_t, t, condition differ in batch size: {sizes}")
        place = resident(self.denoiser, self.device, self.options.offload)
        with torch.no_grad(), self.memory_advice(), place, self.computing():
            return self.denoise(x_t.detach(), t, condition)

    def memory_advice(self) -> AbstractContextManager[None]:
        return out_of_memory_advice(self.options)

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
