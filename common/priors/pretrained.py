"""What all adapters over diffusers share: schedules, conversions to noise, the VAE, text, memory.

A family adds to `PretrainedPrior` how its text is embedded (`embed`), how its denoiser is called
(`denoise`) and how an image becomes its x (`encode_image`). Images stay float32 at the door; the
model runs in its own dtype.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..config.priors import PriorConfig
from ..errors import UserError
from .base import Condition, Prior, TextEmbedding
from .emphasis import ClipPart, Span, emphasis, token_weights, with_learned_words
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
    words: learned words, and the tokens that stand for each.
    """

    pipeline: Any
    source: str
    revision: str | None
    options: PriorConfig
    device: torch.device
    dtype: torch.dtype
    autocast: bool = False
    wording: Callable[[str], str] | None = None
    words: Mapping[str, str] = field(default_factory=dict)


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
        rows_at_once: how many rows `predict_noise` hands to the denoiser in one call; None is all.
        truncation_notes: one line for every prompt that was longer than an encoder takes.
        notes: what else is to be told: weights left out, a LoRA that fits in part, prompts whose
            signs an encoder doesn't read.
        tell: hears of what is found out later; the run's warning, once there is a run.
    """

    family: str
    latent_shape: tuple[int, int, int]

    def __init__(self, loaded: LoadedPipeline, denoiser: nn.Module, kind: Prediction) -> None:
        self.pipeline = loaded.pipeline
        self.denoiser: Any = denoiser
        self.vae: Any = getattr(loaded.pipeline, "vae", None)
        self.source, self.revision = loaded.source, loaded.revision
        self.options, self.device, self.dtype = loaded.options, loaded.device, loaded.dtype
        self.autocast, self.wording, self.words = loaded.autocast, loaded.wording, loaded.words
        self.prediction: Prediction = kind
        self.rows_at_once = loaded.options.rows_at_once
        self.truncation_notes: list[str] = []
        self.notes: list[str] = []
        self.tell: Callable[[str], None] = log.warning
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
        texts, spans = self._put(prompts)
        self._note_truncations(texts)
        device = torch.device("cpu") if self.options.text_on_cpu else self.device
        with torch.no_grad(), quiet_libraries(), self.memory_advice():
            for encoder in encoders.values():
                move(encoder, device)
            tensors = self.embed(texts, device)
            if any(spans):
                tensors["states"] = self._emphasized(tensors["states"], texts, spans, device)
            for encoder in encoders.values():
                move(encoder, torch.device("cpu"))
        self._check_told_apart(texts, tensors)
        placed = {k: v.to(self.device, self.dtype) for k, v in tensors.items()}
        return TextEmbedding(tuple(prompts), placed)

    def clip_parts(self) -> list[ClipPart]:
        """The CLIP encoders whose tokens' embeddings lie in "states"; those read weights."""
        return []

    def unweighted(self, device: torch.device) -> Tensor:
        """The "states" `[1, tokens, width]` of a prompt of no words."""
        return self.embed([""], device)["states"]

    def _put(self, prompts: Sequence[str]) -> tuple[list[str], list[list[Span]]]:
        """Prompts the way the encoders read them, and which signs of each have weights."""
        texts, spans = [], []
        reads = bool(self.clip_parts())
        for prompt in prompts:
            text = self.wording(prompt) if self.wording else prompt
            text = with_learned_words(text, self.words)
            plain, weighted = emphasis(text) if reads else (text, [])
            if not reads and emphasis(text)[1]:
                self._note(
                    "weights such as (word:1.3) are read by CLIP text encoders alone; this model "
                    "takes the signs for words"
                )
            texts.append(plain)
            spans.append(weighted)
        if any(spans) and self.reads_other_texts:
            self._note("weights such as (word:1.3) reach this model's CLIP encoders, not its T5")
        return texts, spans

    @property
    def reads_other_texts(self) -> bool:
        """Whether an encoder beside CLIP reads the prompt."""
        return any(name != "CLIP" for _, _, name in self.text_limits())

    def _emphasized(
        self, states: Tensor, texts: list[str], spans: list[list[Span]], device: torch.device
    ) -> Tensor:
        """States `[N, tokens, width]` moved away from no words' by the weight of each token."""
        base, moved = self.unweighted(device), states.clone()
        for part in self.clip_parts():
            weights = [
                token_weights(part.tokenizer, t, s) for t, s in zip(texts, spans, strict=True)
            ]
            for row, weight in enumerate(weights):
                if weight is None:
                    continue
                scale = states.new_tensor(weight)[:, None]
                here = (slice(0, len(weight)), part.columns)
                moved[row][here] = base[0][here] + scale * (states[row][here] - base[0][here])
        return moved

    def _check_told_apart(self, texts: list[str], tensors: Mapping[str, Tensor]) -> None:
        """Raise UserError if the encoder makes the same of something and of nothing."""
        for key, rows in tensors.items():
            if not bool(rows.isfinite().all()):
                raise UserError(
                    f"{self.source}: its text encoder gives values that are not finite ({key}); "
                    "fetch the model again, or give another dtype"
                )
        empty = next((i for i, text in enumerate(texts) if not text.strip()), None)
        told = [i for i, text in enumerate(texts) if text.strip()]
        if empty is None or not told:
            return
        if all(torch.equal(rows[told[0]], rows[empty]) for rows in tensors.values()):
            raise UserError(
                f"{self.source}: its text encoder gives the same for every prompt (weights or "
                "vocabulary are missing or damaged); fetch the model again"
            )

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)
            log.warning(note)

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
            return self._in_parts(x_t.detach(), t, condition)

    def _in_parts(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """`denoise`, so many rows at a time; half as many from now on whenever memory runs out.

        Views that are denoised jointly stay together. Raises the device's own error when there is
        nothing left to halve.
        """
        total = len(x_t)
        tried = at_once = min(self.rows_at_once or total, total)
        while (found := self._tried(x_t, t, condition, at_once)) is None:
            # Outside of the error's own block, which would keep what the failed call has made.
            at_once = max(self.group, at_once // 2 // self.group * self.group)
            self.rows_at_once = at_once
            release()
        if at_once < tried:
            self.tell(
                f"{self.options.name} ran out of the device's memory with {tried} rows; it takes "
                f"{at_once} at a time from now on, which is slower and gives the same answer "
                f"(prior.rows_at_once={at_once} begins so)"
            )
        return found

    def _tried(self, x_t: Tensor, t: Tensor, condition: Condition, at_once: int) -> Tensor | None:
        """The rows' noise, or None where memory ran out and fewer rows are worth a try."""
        starts = range(0, len(x_t), at_once)
        try:
            if len(starts) == 1:
                return self._denoised(x_t, t, condition)
            parts = [slice(start, start + at_once) for start in starts]
            rows = range(len(x_t))
            return torch.cat(
                [self._denoised(x_t[p], t[p], condition.select(rows[p])) for p in parts]
            )
        except torch.OutOfMemoryError:
            if at_once <= self.group:
                raise
            return None

    def _denoised(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """`denoise`; what a CUDA graph gives is copied out of where its next replay writes."""
        if self.options.compile != "graphs":
            return self.denoise(x_t, t, condition)
        torch.compiler.cudagraph_mark_step_begin()
        return self.denoise(x_t, t, condition).clone()

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
