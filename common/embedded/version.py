"""Weights, vocabulary and toybox belong together: what a folder of weights says of its world.

Beside the weights lies `toybox.json`: the words they read, a digest of every weights file, and how
the toybox looked when they were trained, one tiny photograph a category. The look is compared with
a tolerance, so that another machine's last digits pass and another shape, paint or lamp does not.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import UserError
from ..files import write_whole
from ..scene.cameras import Cameras
from ..toybox.grammar import CATEGORIES, COLORS, PATTERNS, Caption
from ..toybox.objects import build
from ..toybox.studio import photograph
from .names import VERSION_FILE
from .vocabulary import WORDS, word_ids

FORMAT = 1
THUMB, POOL = 8, 6  # pixels a thumbnail's side, and pixels averaged to one of them
TOLERANCE = 2.0
"""Mean difference of two thumbnails, of 255, above which an object looks another way."""
RETRAIN = "train the prior again with `maquette train-prior`, or use the version that made it"


def write_version(folder: Path, training: Mapping[str, Any]) -> None:
    """Put `toybox.json` into a folder of weights; `training` says how they were made."""
    said = {
        "format": FORMAT,
        "words": list(WORDS),
        "look": {category: _text(thumb) for category, thumb in look().items()},
        "weights": _digests(folder),
        "training": dict(training),
    }
    write_whole(folder / VERSION_FILE, json.dumps(said, indent=1) + "\n")


def check_version(folder: Path) -> None:
    """Raise UserError unless a folder's weights are whole and belong to this toybox.

    One line that says which words, which objects or which file differ, and what to do.
    """
    said = _read(folder)
    _check_words(folder, said["words"])
    changed = [c for c, thumb in look().items() if _differs(said["look"].get(c), thumb)]
    if changed:
        raise UserError(
            f"the weights in {folder} learned another toybox: {', '.join(changed)} looked different"
            f" then; {RETRAIN}"
        )
    found = _digests(folder)
    wrong = sorted(n for n in {*said["weights"], *found} if said["weights"].get(n) != found.get(n))
    if wrong:
        raise UserError(
            f"{folder}: {', '.join(wrong)} is missing, damaged, or of another training than "
            f"{VERSION_FILE}; copy the whole folder again"
        )


@lru_cache(maxsize=1)
def look() -> dict[str, np.ndarray]:
    """One thumbnail of each category, `[THUMB, THUMB, 3]` in [0, 255].

    Colours and patterns take turns, so that together they show every one of them.
    """
    one = torch.ones(1)
    camera = Cameras(
        one * math.radians(35), one * math.radians(25), one * 3, one * math.radians(40)
    )
    colors, patterns = list(COLORS), [None, *PATTERNS]
    thumbs = {}
    for index, category in enumerate(CATEGORIES):
        color = colors[index % len(colors)]
        caption = Caption(category, color, pattern=patterns[index % len(patterns)])
        photo = photograph(build(caption), camera, THUMB * POOL)[0]
        tiles = photo.reshape(THUMB, POOL, THUMB, POOL, 3).mean(dim=(1, 3))
        thumbs[category] = (tiles * 255.0).numpy()
    return thumbs


def _read(folder: Path) -> dict[str, Any]:
    """A folder's `toybox.json`, its outline checked."""
    path = folder / VERSION_FILE
    try:
        said = json.loads(path.read_text("utf-8"))
        known = said["format"] == FORMAT
        whole = all(isinstance(said[k], dict) for k in ("look", "weights"))
        if known and not (whole and isinstance(said["words"], list)):
            raise ValueError("words, look or weights are missing")
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}); {RETRAIN}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); copy the whole folder again") from None
    if not known:
        raise UserError(f"{path} is of format {said['format']!r}, this version reads {FORMAT}")
    return said


def _check_words(folder: Path, words: list[str]) -> None:
    """The words of the weights, of their tokenizer and of the toybox must be the same ones."""
    if tuple(words) != WORDS:
        news, olds = [w for w in WORDS if w not in words], [w for w in words if w not in WORDS]
        parts = [f"never learned {', '.join(map(repr, news))}"] if news else []
        parts += [f"learned {', '.join(map(repr, olds))}, which the toybox lacks"] if olds else []
        told = " and ".join(parts) or "know the words in another order"
        raise UserError(f"the weights in {folder} {told}; {RETRAIN}")
    tokenizer = folder / "tokenizer" / "tokenizer.json"
    if not tokenizer.is_file():
        return  # an autoencoder alone
    try:
        numbers = json.loads(tokenizer.read_text("utf-8"))["model"]["vocab"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{tokenizer} is damaged ({error}); copy the whole folder again") from None
    ends = {word if word.startswith("<|") else f"{word}</w>": n for word, n in word_ids().items()}
    wrong = [word for word, number in ends.items() if numbers.get(word) != number]
    if wrong:
        raise UserError(
            f"{tokenizer} numbers {', '.join(wrong[:5])} another way than the weights; {RETRAIN}"
        )


def _digests(folder: Path) -> dict[str, str]:
    """A digest of every weights file, by its path in the folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.blake2b(
            path.read_bytes(), digest_size=16
        ).hexdigest()
        for path in sorted(folder.rglob("*.safetensors"))
    }


def _text(thumb: np.ndarray) -> str:
    return base64.b64encode(np.rint(thumb).astype(np.uint8).tobytes()).decode()


def _differs(said: str | None, thumb: np.ndarray) -> bool:
    """Whether a thumbnail as text is not the one of this toybox."""
    if said is None:
        return True
    try:
        pixels = np.frombuffer(base64.b64decode(said, validate=True), np.uint8)
    except ValueError:
        return True
    if pixels.size != thumb.size:
        return True
    return float(np.abs(pixels.astype(np.float64) - thumb.reshape(-1)).mean()) > TOLERANCE
