"""The interface of a prior, and the two small types it speaks.

A prior turns a text-to-image model into four things: `encode_text`, `encode_image` (the identity
for pixel models, the VAE's encoder for latent ones), the noise schedule, and `predict_noise`.
Whatever a model predicts (noise, v, a flow's velocity) is converted to noise inside its adapter,
so that every distillation loss is one pure function that knows none of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..scene.cameras import Cameras
from .noise import NoiseSchedule


@dataclass(frozen=True)
class TextEmbedding:
    """What a model's text encoder makes of N prompts.

    prompts: the N texts.
    tensors: what the family's `predict_noise` needs, each with leading axis N.
    """

    prompts: tuple[str, ...]
    tensors: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.prompts)

    def select(self, rows: Sequence[int]) -> TextEmbedding:
        """The embedding of the chosen rows, repeats allowed: one row a view of a batch."""
        index = list(rows)
        return TextEmbedding(
            tuple(self.prompts[i] for i in index), {k: v[index] for k, v in self.tensors.items()}
        )

    @staticmethod
    def cat(parts: Sequence[TextEmbedding]) -> TextEmbedding:
        """The rows of several embeddings of one prior, one after the other."""
        return TextEmbedding(
            tuple(p for part in parts for p in part.prompts),
            {k: torch.cat([part.tensors[k] for part in parts]) for k in parts[0].tensors},
        )


class Prior(ABC):
    """A text-to-image model as score distillation sees it.

    Attributes set by every adapter:
        space: "pixel" (x is the image) or "latent" (x is what the VAE makes of it).
        resolution: height and width in pixels of the images `encode_image` takes.
        takes_camera: whether `predict_noise` makes use of `camera`.
        schedule: the noise levels.
    """

    space: Literal["pixel", "latent"]
    resolution: int
    takes_camera: bool
    schedule: NoiseSchedule

    @abstractmethod
    def encode_text(self, prompts: Sequence[str]) -> TextEmbedding:
        """Embed prompts; the empty prompt is the unconditional one."""

    @abstractmethod
    def encode_image(self, image: Tensor) -> Tensor:
        """From images `[B, H, W, 3]` in [0, 1] (sRGB) to the model's x `[B, C, h, w]`.

        Differentiable: the gradient reaches `image` (through the VAE's encoder, if there is one).
        Pixel models see the range [-1, 1].
        """

    @abstractmethod
    def predict_noise(
        self, x_t: Tensor, t: Tensor, text: TextEmbedding, camera: Cameras | None = None
    ) -> Tensor:
        """The noise the model sees in `x_t`.

        x_t: `[B, C, h, w]`; t: int64 `[B]` timesteps in [0, T); text: B rows; camera: B cameras.
        Returns the predicted noise `[B, C, h, w]`, outside the autograd graph.
        """
