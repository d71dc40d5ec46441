"""What is added to a model's weights before they are used: LoRAs and learned words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..config.priors import PriorConfig, parse_lora
from ..errors import UserError
from .location import missing_libraries, weights_file
from .pretrained import quiet_libraries


def add_textual_inversions(pipeline: Any, options: PriorConfig) -> None:
    """Teach the CLIP encoders the learned words of `options.textual_inversions`.

    A word is the one its file names; files that name none (SDXL's "clip_l" and "clip_g") are
    called by their own name without the suffix.
    """
    for path in options.textual_inversions:
        file = weights_file(path, "textual inversion")
        if not hasattr(pipeline, "load_textual_inversion"):
            raise UserError(f"{options.name} does not take textual inversions; leave {file} out")
        from safetensors.torch import load_file

        with weight_errors(str(file), None):
            words = load_file(file)
            for key, vectors in words.items():
                second = key == "clip_g"
                encoder = pipeline.text_encoder_2 if second else pipeline.text_encoder
                tokenizer = pipeline.tokenizer_2 if second else pipeline.tokenizer
                token = file.stem if key in ("clip_l", "clip_g", "emb_params") else key
                pipeline.load_textual_inversion(
                    {token: vectors}, text_encoder=encoder, tokenizer=tokenizer
                )


def merge_loras(pipeline: Any, options: PriorConfig) -> None:
    """Merge `options.loras` into the weights, so that they cost nothing afterwards."""
    loras = [parse_lora(text) for text in options.loras]
    if not loras:
        return
    with missing_libraries():
        import peft  # noqa: F401  diffusers needs it and names it only deep inside
    for number, (path, _) in enumerate(loras):
        file, name = weights_file(path, "LoRA"), f"lora{number}"
        with weight_errors(str(file), None), quiet_libraries():
            pipeline.load_lora_weights(
                str(file.parent), weight_name=file.name, adapter_name=name, use_safetensors=True
            )
        if name not in {n for names in pipeline.get_list_adapters().values() for n in names}:
            raise UserError(
                f"LoRA {file} fits no layer of {options.name}; is it for another model?"
            )
    names = [f"lora{number}" for number in range(len(loras))]
    pipeline.set_adapters(names, [weight for _, weight in loras])
    parts = [n for n in pipeline._lora_loadable_modules if getattr(pipeline, n, None) is not None]
    pipeline.fuse_lora(components=parts, adapter_names=names)
    pipeline.unload_lora_weights()


@contextmanager
def weight_errors(what: str, variant: str | None) -> Iterator[None]:
    """Turn unreadable, missing or unfitting weights within the block into `UserError`s."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise UserError(f"{what} is damaged ({error}); fetch it again") from error
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        line = " ".join(str(error).split())[:200]
        if variant is not None and "variant" in line:
            raise UserError(
                f'{what} has no files of variant "{variant}"; leave the variant out'
            ) from error
        if "safetensors" in line or ".bin" in line:
            raise UserError(
                f"{what} lacks safetensors weights ({line}); pickled weights aren't read: convert"
                " them with save_pretrained(FOLDER, safe_serialization=True)"
            ) from error
        raise UserError(
            f"{what} could not be loaded ({line}); is it complete, and made for this model?"
        ) from error
