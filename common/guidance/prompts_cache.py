"""Embedded texts, kept in a stage's folder: a text encoder works once a run.

The file's name is a hash of everything the embedding depends on: the model and its commit, what
was changed in its text encoders, and the texts. What doesn't match isn't found, what is damaged is
made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..priors.base import TextEmbedding
from ..runs.checkpoints import DamagedCheckpointError, read_tensors, write_tensors


@dataclass(frozen=True)
class KnownTexts:
    """Stands for a text encoder whose work is done: it only picks rows."""

    embedding: TextEmbedding

    def encode_text(self, prompts: Sequence[str]) -> TextEmbedding:
        """The rows of known prompts. Raises ValueError for one that was not embedded."""
        return self.embedding.select([self.embedding.prompts.index(p) for p in prompts])


def text_path(folder: Path, identity: Mapping[str, Any], texts: Sequence[str]) -> Path:
    """Where the embedding of `texts` lies; identity: what else it depends on, as plain data."""
    key = json.dumps([identity, list(texts)], sort_keys=True)
    digest = hashlib.blake2b(key.encode("utf-8"), digest_size=10).hexdigest()
    return folder / f"text-{digest}.safetensors"


def read_texts(path: Path, texts: Sequence[str]) -> TextEmbedding | None:
    """The embedding that `write_texts` put there, on the CPU; None if none is whole."""
    if not path.is_file():
        return None
    try:
        return TextEmbedding(tuple(texts), read_tensors(path))
    except (DamagedCheckpointError, UserError):
        return None


def write_texts(path: Path, embedding: TextEmbedding) -> None:
    """Keep an embedding, whole or not at all."""
    write_tensors(path, embedding.tensors)


def stamp(place: Path) -> list[list[Any]]:
    """Names, sizes and times of the files that a path stands for: other files, another stamp."""
    files = sorted(p for p in place.rglob("*") if p.is_file()) if place.is_dir() else [place]
    return [[str(f.relative_to(place)), f.stat().st_size, f.stat().st_mtime_ns] for f in files]
