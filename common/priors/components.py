"""A pipeline's modules, loaded one by one so that what their files lack is counted and told.

diffusers and transformers start missing tensors at random (or leave them without memory) and only
log it; a prior made so would judge views by noise.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import UserError
from .headers import choose_variant, components, variants_of, weights_of

LIBRARIES = {"diffusers", "transformers"}
"""Whose classes a model may name: code that comes with a model is never run."""
PROBES = ("a red cat", "a blue house")
"""Two prompts in words that every tokenizer knows, the toybox's own one too."""
_LONGEST = 100_000  # tokens beyond which a tokenizer's limit is none
_HARMLESS = ("position_ids",)  # that older versions saved though they are computed


def load_modules(
    folder: Path,
    index: Mapping[str, Any],
    skipped: Collection[str],
    dtypes: Mapping[str, torch.dtype],
    variant: str | None,
) -> tuple[dict[str, nn.Module], list[str]]:
    """The modules of a pipeline's folder by name, and what is to be told of them.

    index: its `model_index.json`. skipped: components to leave out. dtypes: by name, the others'
    as "default". variant: of the weights' files; None takes the plain files, or the one variant
    that there is. Raises UserError for missing or non-finite tensors.
    """
    found: dict[str, nn.Module] = {}
    notes: list[str] = []
    names = {
        name: value[0]
        for name, value in index.items()
        if isinstance(value, list) and len(value) == 2 and value[0] in LIBRARIES
    }
    chosen = [(n, c) for n, c in components(index, skipped) if n in names]
    weighty = [(n, c) for n, c in chosen if weights_of(folder / n)]
    if variant is not None and not any(
        variant in variants_of(weights_of(folder / n)) for n, _ in weighty
    ):
        raise UserError(f'{folder} has no files of variant "{variant}"; leave the variant out')
    for name, kind in weighty:
        cls = getattr(importlib.import_module(names[name]), kind, None)
        if cls is None:
            raise UserError(
                f"{folder}: its {name} is a {kind}, which this {names[name]} doesn't have; update "
                f"it: pip install -U {names[name]}"
            )
        module, told = _load(folder / name, cls, dtypes.get(name, dtypes["default"]), variant)
        found[name] = module
        notes += told
    return found, notes


def _load(
    place: Path, cls: Any, dtype: torch.dtype, variant: str | None
) -> tuple[nn.Module, list[str]]:
    module, info = cls.from_pretrained(
        place,
        torch_dtype=dtype,
        variant=choose_variant(weights_of(place), variant),
        use_safetensors=True,
        output_loading_info=True,
    )
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    if missing:
        raise UserError(_lacking(place, missing, unexpected, len(module.state_dict())))
    check_finite(module, str(place))
    extra = [name for name in unexpected if not name.endswith(_HARMLESS)]
    if not extra:
        return module, []
    return module, [
        f"{place}: {len(extra)} tensors that the model has no place for are left out, such as "
        f"{extra[0]}"
    ]


def _lacking(place: Path, missing: Sequence[str], unexpected: Sequence[str], total: int) -> str:
    count = f"{len(missing)} of {total} tensors"
    for name in unexpected:
        for lost in missing:
            prefix = name.removesuffix(lost)
            if prefix != name and prefix.endswith("."):
                return (
                    f"{place}: {count} are missing, and others are named with '{prefix}' in front, "
                    "as a wrapped model saves them; save the plain model"
                )
    others = f"; {len(unexpected)} others are named as none of it" if unexpected else ""
    return (
        f"{place} lacks {count}, such as {missing[0]}{others}; fetch the model again, or save it "
        "with the library's own save_pretrained"
    )


def check_finite(module: nn.Module, what: str) -> None:
    """Raise UserError for tensors that were never loaded, or that hold NaN or infinity."""
    tensors = dict(module.named_parameters())
    if absent := [name for name, value in tensors.items() if value.is_meta]:
        raise UserError(
            f"{what} lacks {len(absent)} of {len(tensors)} tensors, such as {absent[0]}; fetch the "
            "model again"
        )
    wrong = [
        name
        for name, value in tensors.items()
        if value.is_floating_point() and not bool(value.detach().isfinite().all())
    ]
    if wrong:
        raise UserError(
            f"{what} holds NaN or infinite values in {len(wrong)} of {len(tensors)} tensors, such "
            f"as {wrong[0]}; fetch the model again"
        )


def check_tokenizers(pipeline: Any, source: str) -> None:
    """Raise UserError for a tokenizer that tells no prompts apart, or is another encoder's."""
    for suffix in ("", "_2", "_3"):
        tokenizer = getattr(pipeline, f"tokenizer{suffix}", None)
        encoder = getattr(pipeline, f"text_encoder{suffix}", None)
        if tokenizer is None or encoder is None:
            continue
        what = f"{source}: its tokenizer{suffix}"
        if tokenizer.model_max_length > _LONGEST:
            raise UserError(
                f"{what} doesn't say how many tokens it gives (tokenizer_config.json is missing or "
                "damaged); fetch the model again"
            )
        first, second = (tokenizer(text).input_ids for text in PROBES)
        if first == second or set(first) <= set(tokenizer.all_special_ids):
            raise UserError(
                f"{what} gives the same tokens for every prompt (its vocabulary is missing or "
                "damaged); fetch the model again"
            )
        size = getattr(encoder.config, "vocab_size", None)
        if size is not None and max(*first, *second) >= size:
            raise UserError(
                f"{what} numbers {max(*first, *second)} tokens and more, and its text encoder "
                f"knows {size}; they are of different models: fetch the model again"
            )
