"""What safetensors files hold, told by their headers alone; no torch is imported here.

A file is eight bytes with the header's length, the header (JSON: name -> dtype, shape, where its
bytes lie), and the bytes. Nothing is believed before it is bounded by the file's size.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import UserError, one_line, shown
from ..files import read_bytes

MOST_HEADER = 100 * 2**20  # as the format's own library has it
_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2"), 1),
}
FileKind = Literal[
    "lora", "loha", "lokr", "dora", "inversion", "vae", "controlnet", "checkpoint", "diffusers"
]


@dataclass(frozen=True)
class Tensor:
    """One tensor of a file: its dtype as the format spells it, and its shape."""

    dtype: str
    shape: tuple[int, ...]


def read_header(path: Path, what: str = "") -> dict[str, Tensor]:
    """The tensors of a safetensors file by name; UserError if it is cut off or none.

    what: what to call the file, before its path.
    """
    called = f"{what} {one_line(str(path), 120)}".strip()
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise UserError(f"{called} is no plain file; give a safetensors file")
        with path.open("rb") as file:
            begin = file.read(8)
            length = struct.unpack("<Q", begin)[0] if len(begin) == 8 else 0
            if begin.startswith(b"version "):
                raise UserError(
                    f"{called} is a Git LFS pointer, not the weights; run `git lfs pull` in its "
                    "folder, or download the file itself"
                )
            text = file.read(length) if 2 <= length <= min(size - 8, MOST_HEADER) else b""
    except OSError as error:
        raise UserError(f"{called} can't be read ({error.strerror}); check the path") from None
    if not text:
        wrong = "is truncated" if size and 2 <= length <= MOST_HEADER else "is damaged"
        raise UserError(f"{called} {wrong} (no whole safetensors header); fetch it again")
    try:
        found, end = _tensors(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{called} is damaged (its header is none); fetch it again") from None
    if 8 + length + end > size:
        raise UserError(
            f"{called} is truncated ({size} of {8 + length + end} bytes); fetch it again"
        )
    return found


def _tensors(header: Mapping[str, Any]) -> tuple[dict[str, Tensor], int]:
    """The tensors of a header, and where the last one ends."""
    found, end = {}, 0
    for name, value in header.items():
        if name == "__metadata__":
            continue
        shape = tuple(value["shape"])
        first, last = value["data_offsets"]
        count = 1
        for side in shape:
            if not (type(side) is int and side >= 0):
                raise ValueError(name)
            count *= side
        width = _BYTES.get(value["dtype"])
        if not 0 <= first <= last or (width is not None and last - first != count * width):
            raise ValueError(name)
        found[name] = Tensor(str(value["dtype"]), shape)
        end = max(end, last)
    return found, end


def kind_of(tensors: Mapping[str, Tensor]) -> FileKind | None:
    """What a lone safetensors file is, by the names in it; None if it is nothing known."""
    names = list(tensors)

    def any_has(*parts: str) -> bool:
        return any(part in name for name in names for part in parts)

    for kind, parts in _ADAPTERS.items():
        if any_has(*parts):
            return kind
    if names and set(names) <= {"clip_l", "clip_g", "emb_params", "t5", "t5xxl"}:
        return "inversion"
    if any_has("control_model.", "controlnet_cond_embedding"):
        return "controlnet"
    if any_has("model.diffusion_model.", "double_blocks.", "joint_blocks."):
        return "checkpoint"
    if any(name.startswith(("down_blocks.", "transformer_blocks.")) for name in names):
        return "diffusers"
    if any(n.startswith(("first_stage_model.", "encoder.", "decoder.")) for n in names):
        return "vae"
    if names and all(len(t.shape) in (1, 2) for t in tensors.values()) and len(names) <= 4:
        return "inversion"
    return None


_ADAPTERS: Mapping[FileKind, tuple[str, ...]] = {
    "loha": ("hada_w1",),
    "lokr": ("lokr_w1",),
    "dora": ("dora_scale", "lora_magnitude_vector"),
    "lora": ("lora_A", "lora_B", "lora_down", "lora_up", "lora.up", "lora.down", ".lora_linear"),
}
TOLD: Mapping[FileKind, str] = {
    "lora": "a LoRA: give it with --lora beside a prior",
    "loha": "a LoHa, which is not taken; convert it to a LoRA",
    "lokr": "a LoKr, which is not taken; convert it to a LoRA",
    "dora": "a DoRA, which is not taken; merge it into its model, or convert it to a LoRA",
    "inversion": "a textual inversion: give it with prior.textual_inversions beside a prior",
    "vae": "an autoencoder (VAE) alone: give the whole model",
    "controlnet": "a ControlNet, which makes no images from text alone: give the whole model",
    "checkpoint": "a whole model: give it with --prior",
    "diffusers": "one component of a model: give the folder of the whole pipeline",
}
"""What to do with a file of each kind that is given in the wrong place."""


def check_lora(path: Path) -> None:
    """Raise UserError unless a file is a LoRA of a kind that can be merged."""
    kind = kind_of(read_header(path, "LoRA"))
    if kind != "lora":
        told = "no LoRA that is known" if kind is None else TOLD[kind]
        raise UserError(f"{one_line(str(path), 120)} is {told}")


def check_inversion(path: Path) -> None:
    """Raise UserError unless a file holds learned words."""
    tensors = read_header(path, "textual inversion")
    if kind_of(tensors) != "inversion":
        told = "no textual inversion that is known"
        if (kind := kind_of(tensors)) is not None:
            told = TOLD[kind]
        raise UserError(f"{one_line(str(path), 120)} is {told}")


# Folders


def weights_of(folder: Path) -> list[str]:
    """The names of the safetensors files of a component, ascending."""
    return sorted(p.name for p in folder.glob("*.safetensors")) if folder.is_dir() else []


def choose_variant(files: Iterable[str], wanted: str | None) -> str | None:
    """Which variant of a component to load: the wanted one, the plain one, or the only one.

    files: names such as "model.safetensors", "model.fp16.safetensors" or
    "model.fp16-00001-of-00002.safetensors".
    """
    variants = variants_of(files)
    if wanted in variants:
        return wanted
    return None if None in variants or len(variants) != 1 else variants.pop()


def variants_of(files: Iterable[str]) -> set[str | None]:
    """The variants of a component's files; None is the plain one."""
    return {_variant(name) for name in files}


def _variant(name: str) -> str | None:
    stem = name.removesuffix(".safetensors")
    match = re.fullmatch(r"[^.]+\.([A-Za-z0-9_]+?)(?:-\d{5}-of-\d{5})?", stem)
    return match[1] if match else None


def check_folder(folder: Path, index: Mapping[str, Any], skipped: Collection[str] = ()) -> None:
    """Raise UserError for what a model folder lacks or what is cut off, by its names and headers.

    index: its `model_index.json`. skipped: components that are not loaded.
    """
    for name, kind in components(index, skipped):
        place = folder / name
        if not place.is_dir():
            raise UserError(
                f"{folder} lacks its {name} (there is no such folder); fetch the model again"
            )
        if name.startswith("tokenizer"):
            _check_tokenizer(place, kind)
        elif not name.startswith("scheduler"):
            _check_weights(place)


def components(
    index: Mapping[str, Any], skipped: Collection[str] = ()
) -> Iterator[tuple[str, str]]:
    """The names and classes of a pipeline's components."""
    for name, value in index.items():
        listed = isinstance(value, list) and len(value) == 2 and name not in skipped
        if listed and isinstance(value[1], str) and re.fullmatch(r"[A-Za-z0-9_]+", name):
            yield name, value[1]


def _check_tokenizer(place: Path, kind: str) -> None:
    whole = "T5" in kind
    files = {p.name for p in place.iterdir() if p.is_file() and p.stat().st_size > 2}
    sets = ({"tokenizer.json"}, {"spiece.model"} if whole else {"vocab.json", "merges.txt"})
    if not any(needed <= files for needed in sets):
        lacks = " or ".join(" and ".join(sorted(needed)) for needed in sets)
        raise UserError(f"{place} lacks its vocabulary ({lacks}); fetch the model again")
    if "tokenizer_config.json" not in files:
        raise UserError(f"{place} lacks tokenizer_config.json; fetch the model again")


def _check_weights(place: Path) -> None:
    if not (place / "config.json").is_file():
        raise UserError(f"{place} lacks its config.json; fetch the model again")
    names = weights_of(place)
    if not names:
        pickled = [p.name for p in (*place.glob("*.bin"), *place.glob("*.ckpt"))]
        if pickled:
            raise UserError(
                f"{place} holds {pickled[0]}, and pickled weights aren't read: convert them with "
                "save_pretrained(FOLDER, safe_serialization=True)"
            )
        raise UserError(f"{place} lacks its weights (no safetensors file); fetch the model again")
    for name in names:
        read_header(place / name)
    for index in place.glob("*.safetensors.index*.json"):
        try:
            wanted = set(json.loads(read_bytes(index, 2**26))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError, OSError):
            raise UserError(f"{index} is damaged; fetch the model again") from None
        if missing := sorted(map(str, wanted - set(names))):
            raise UserError(
                f"{place} lacks {shown(missing[0])}"
                f"{f' and {len(missing) - 1} more files' if missing[1:] else ''}, which its index "
                "names; fetch the model again"
            )
