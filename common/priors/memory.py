"""What keeps a diffusion model small in memory: presets by card size, and where modules live.

While text is embedded only the text encoders are on the device; while the model denoises, the
denoiser and the VAE are. Offloading moves the denoiser away between its calls ("model"), or keeps
it away and brings one layer at a time ("group"). On the CPU nothing is offloaded.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..config.priors import Offload, PriorConfig
from ..errors import UserError

GIB = 1024**3

# Shares of the card that weights may take, the rest being left to activations and the renderer.
RESIDENT_SHARE = 0.5
TRANSIENT_SHARE = 0.8


def choose_memory(
    options: PriorConfig, denoiser_bytes: int, text_bytes: int, card_bytes: int
) -> PriorConfig:
    """The options with what `options.vram` calls for filled in.

    denoiser_bytes, text_bytes: the weights of the denoiser and of all text encoders as loaded;
    card_bytes: the device's memory, used by "auto" alone (the presets name theirs in GiB).

    The denoiser stays on the card if its weights take at most half of it, leaves it between calls
    if at most four fifths, and is else streamed layer by layer. Text encoders that would take more
    than four fifths run on the CPU. On cards up to 16 GiB the VAE works through one image at a
    time and recomputes its activations. What the user chose already is kept.
    """
    if options.vram == "none":
        return options
    card = card_bytes if options.vram == "auto" else int(options.vram) * GIB
    if denoiser_bytes <= RESIDENT_SHARE * card:
        offload: Offload = "none"
    else:
        offload = "model" if denoiser_bytes <= TRANSIENT_SHARE * card else "group"
    small = card <= 16.5 * GIB
    chosen = {
        "offload": offload if options.offload == "none" else options.offload,
        "text_on_cpu": options.text_on_cpu or text_bytes > TRANSIENT_SHARE * card,
        "vae_slicing": options.vae_slicing or small,
        "checkpoint_vae": options.checkpoint_vae or small,
    }
    return options.model_copy(update=chosen)


def card_bytes(device: torch.device) -> int:
    """The memory of a CUDA device in bytes; 0 for any other."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0


def weight_bytes(*modules: nn.Module) -> int:
    """The bytes of all parameters of `modules`."""
    return sum(p.numel() * p.element_size() for m in modules for p in m.parameters())


def move(module: nn.Module, device: torch.device) -> None:
    """Put `module` on `device` in place, if its first parameter is not there already."""
    first = next(module.parameters(), None)
    if first is not None and (first.device.type, first.device.index or 0) != (
        device.type,
        device.index or 0,
    ):
        module.to(device)


@contextmanager
def resident(module: nn.Module, device: torch.device, offload: Offload) -> Iterator[None]:
    """Have `module` on `device` within the block; with "model" it is back on the CPU after it."""
    if offload != "group":
        move(module, device)
    try:
        yield
    finally:
        if offload == "model":
            move(module, torch.device("cpu"))


def stream_layers(module: nn.Module, device: torch.device) -> None:
    """Keep `module` on the CPU and bring each layer to `device` only while it runs."""
    from diffusers.hooks.group_offloading import apply_group_offloading

    apply_group_offloading(
        module,
        onload_device=device,
        offload_device=torch.device("cpu"),
        offload_type="leaf_level",
        use_stream=device.type == "cuda",
    )


def release() -> None:
    """Give the memory of dropped modules back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def out_of_memory_advice(options: PriorConfig) -> Iterator[None]:
    """Turn a device's out-of-memory error within the block into a `UserError` with remedies."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{options.name} ran out of the device's memory; try {remedies(options)}"
        ) from error


def remedies(options: PriorConfig) -> str:
    """What `options` has not yet done to save memory, as a list in words, cheapest first."""
    untried = []
    if options.dtype == "float32":
        untried.append("dtype float16 or bfloat16")
    if not options.checkpoint_vae or not options.vae_slicing:
        untried.append("checkpoint_vae and vae_slicing (VAE)")
    if options.offload == "none":
        untried.append("offload model")
    if options.offload != "group":
        untried.append("offload group, or a vram preset (8, 12, 16, 24, auto)")
    if not options.text_on_cpu:
        untried.append("text_on_cpu")
    return ", ".join([*untried, "a smaller resolution, fewer views a step"])
