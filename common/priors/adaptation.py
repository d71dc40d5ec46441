"""What is added to a model's weights before they are used: LoRAs and learned words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config.priors import PriorConfig, parse_lora
from ..errors import UserError
from .headers import check_inversion, check_lora
from .location import missing_libraries, weights_file
from .pretrained import quiet_libraries


def add_textual_inversions(pipeline: Any, options: PriorConfig) -> dict[str, str]:
    """Teach the CLIP encoders the learned words of `options.textual_inversions`.

    A word is the one its file names; files that name none (SDXL's "clip_l" and "clip_g") are
    called by their own name without the suffix. Returns the words with the tokens that stand for
    each, one a vector. Raises UserError for a file that was made for other text encoders.
    """
    words: dict[str, str] = {}
    for path in options.textual_inversions:
        file = weights_file(path, "textual inversion")
        check_inversion(file)
        if not hasattr(pipeline, "load_textual_inversion"):
            raise UserError(f"{options.name} does not take textual inversions; leave {file} out")
        from safetensors.torch import load_file

        with weight_errors(str(file), None):
            tensors = load_file(file)
        for word, vectors in _learned(file, tensors).items():
            stem = f"<learned{len(words)}>"
            words[word] = " ".join(_teach(pipeline, file, stem, vectors, options.name))
    return words


def _learned(file: Path, tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The words of a file, and of each its vectors `[n, width]` by encoder."""
    halves = {k: v for k, v in tensors.items() if k in ("clip_l", "clip_g")}
    found = {file.stem: halves} if halves else {}
    for key, vectors in tensors.items():
        if key not in halves:
            found[file.stem if key == "emb_params" else key] = {"clip_l": vectors}
    for parts in found.values():
        for key, vectors in parts.items():
            if vectors.ndim not in (1, 2) or not bool(vectors.isfinite().all()):
                raise UserError(f"{file} holds no finite vectors of a word; fetch it again")
            parts[key] = vectors.reshape(-1, vectors.shape[-1])
    return found


def _teach(pipeline: Any, file: Path, stem: str, parts: dict[str, Tensor], model: str) -> list[str]:
    """Add a word's vectors to every CLIP encoder that the prompt goes through; gives its tokens."""
    encoders = {"clip_l": (pipeline.tokenizer, pipeline.text_encoder)}
    second = getattr(pipeline, "text_encoder_2", None)
    if second is not None and type(second).__name__.startswith("CLIPText"):
        encoders["clip_g"] = (pipeline.tokenizer_2, second)
    if parts.keys() != encoders.keys():
        made, has = len(parts), len(encoders)
        raise UserError(
            f"{file} was made for {made} CLIP text encoder{'s' * (made > 1)}, {model} has {has}; "
            "leave it out, or give one that was made for this model"
        )
    counts = {len(vectors) for vectors in parts.values()}
    if len(counts) != 1:
        raise UserError(f"{file} has another number of vectors for each encoder; fetch it again")
    for key, (_, encoder) in encoders.items():
        width = encoder.get_input_embeddings().weight.shape[1]
        if parts[key].shape[1] != width:
            raise UserError(
                f"{file} was made for a text encoder of width {parts[key].shape[1]}, that of "
                f"{model} has {width}; give one that was made for this model"
            )
    tokens = [f"{stem[:-1]}-{number}>" for number in range(counts.pop())]
    for key, (tokenizer, encoder) in encoders.items():
        for token, vector in zip(tokens, parts[key], strict=True):
            with weight_errors(str(file), None), quiet_libraries():
                pipeline.load_textual_inversion(
                    {token: vector[None]}, text_encoder=encoder, tokenizer=tokenizer
                )
    return tokens


def merge_loras(pipeline: Any, options: PriorConfig) -> list[str]:
    """Merge `options.loras` into the weights, so that they cost nothing afterwards.

    Returns a line for each that fits in part. Raises UserError for one that doesn't fit at all, is
    of another kind, or holds values that are not finite.
    """
    loras = [parse_lora(text) for text in options.loras]
    if not loras:
        return []
    with missing_libraries():
        import peft  # noqa: F401  diffusers needs it and names it only deep inside
    notes = []
    for number, (path, _) in enumerate(loras):
        file, name = weights_file(path, "LoRA"), f"lora{number}"
        check_lora(file)
        layers = _lora_layers(file)
        with weight_errors(str(file), None), quiet_libraries():
            pipeline.load_lora_weights(
                str(file.parent), weight_name=file.name, adapter_name=name, use_safetensors=True
            )
        if name not in {n for names in pipeline.get_list_adapters().values() for n in names}:
            raise UserError(
                f"LoRA {file} fits no layer of {options.name}; is it for another model?"
            )
        fits = sum(
            name in getattr(module, "lora_A", {})
            for part in pipeline.components.values()
            if isinstance(part, torch.nn.Module)
            for module in part.modules()
        )
        if fits < len(layers):
            notes.append(
                f"LoRA {file} fits {fits} of its {len(layers)} layers; the others are for another "
                "model and are left out"
            )
    names = [f"lora{number}" for number in range(len(loras))]
    pipeline.set_adapters(names, [weight for _, weight in loras])
    parts = [n for n in pipeline._lora_loadable_modules if getattr(pipeline, n, None) is not None]
    pipeline.fuse_lora(components=parts, adapter_names=names)
    pipeline.unload_lora_weights()
    return notes


def _lora_layers(file: Path) -> set[str]:
    """The layers that a LoRA changes; UserError if it holds values that are not finite."""
    from safetensors.torch import load_file

    with weight_errors(str(file), None):
        tensors = load_file(file)
    wrong = [name for name, value in tensors.items() if not bool(value.isfinite().all())]
    if wrong:
        raise UserError(
            f"LoRA {file} holds NaN or infinite values in {len(wrong)} of {len(tensors)} tensors, "
            f"such as {wrong[0]}; fetch it again"
        )
    return {_LORA_END.sub("", name) for name in tensors}


_LORA_END = re.compile(
    r"(\.(lora_[AB]|lora_down|lora_up|lora\.down|lora\.up|lora_linear_layer\.(down|up)))?"
    r"(\.[\w-]+)?\.(weight|bias)$|\.alpha$"
)


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
        if "meta tensor" in line:
            raise UserError(
                f"{what} lacks tensors that its configuration asks for; fetch the model again"
            ) from error
        if "safetensors" in line or ".bin" in line:
            raise UserError(
                f"{what} lacks safetensors weights ({line}); pickled weights aren't read: convert"
                " them with save_pretrained(FOLDER, safe_serialization=True)"
            ) from error
        raise UserError(
            f"{what} could not be loaded ({line}); is it complete, and made for this model?"
        ) from error
