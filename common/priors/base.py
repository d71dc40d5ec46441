"""The interface of a prior, and the small types it speaks.

A prior turns a text-to-image model into four things: `encode_text`, `encode_image` (the identity
for pixel models, the VAE's encoder for latent ones), the noise schedule, and `predict_noise`.
Whatever a model predicts (noise, v, a flow's velocity) is converted to noise inside its adapter,
so that every distillation loss is one pure function that knows none of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..device import send
from ..light.skies import Skies
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
        chosen = torch.tensor(index, dtype=torch.long)
        tensors = {k: v[send(chosen, v.device)] for k, v in self.tensors.items()}
        return TextEmbedding(tuple(self.prompts[i] for i in index), tensors)

    @staticmethod
    def cat(parts: Sequence[TextEmbedding]) -> TextEmbedding:
        """The rows of several embeddings of one prior, one after the other."""
        return TextEmbedding(
            tuple(p for part in parts for p in part.prompts),
            {k: torch.cat([part.tensors[k] for part in parts]) for k in parts[0].tensors},
        )


@dataclass(frozen=True)
class Reference:
    """Pictures of the object whose views are judged, one a row.

    x: what the prior makes of each, clean, `[B, C, h, w]`; latents as the VAE has them, not scaled.
    cameras: where they were taken from. views: the judged views' cameras in the same frame, in
    which the object may be turned any way about Z. token: what the prior's image encoder makes of
    each, `[B, D]`, for priors that have one.
    """

    x: Tensor
    cameras: Cameras
    views: Cameras
    token: Tensor | None = None

    def select(self, index: Tensor) -> Reference:
        """The chosen rows."""
        cameras, views = _rows(self.cameras, index), _rows(self.views, index)
        here = send(index, self.x.device)
        token = None if self.token is None else self.token[here]
        return Reference(self.x[here], cameras, views, token)

    @staticmethod
    def cat(parts: Sequence[Reference]) -> Reference:
        """The rows of several references of one prior, one after the other."""
        tokens = [part.token for part in parts if part.token is not None]
        return Reference(
            torch.cat([part.x for part in parts]),
            Cameras.cat([part.cameras for part in parts]),
            Cameras.cat([part.views for part in parts]),
            torch.cat(tokens) if tokens else None,
        )


@dataclass(frozen=True)
class Condition:
    """What a prior is told about each of B views.

    text: B rows. cameras: the views' own, or None where they aren't told. reference: pictures of
    the object; surface: what the views see of one that is to be painted, `[B, 7, h, w]` at the
    resolution of x (see `camera_features.BUFFER`); skies: what lights the views, if a sky does; all
    for priors that know what to do with them.
    """

    text: TextEmbedding
    cameras: Cameras | None = None
    reference: Reference | None = None
    surface: Tensor | None = None
    skies: Skies | None = None

    def __len__(self) -> int:
        return len(self.text)

    def select(self, rows: Sequence[int]) -> Condition:
        """The condition of the chosen rows, repeats allowed."""
        index = torch.tensor(list(rows))
        cameras = None if self.cameras is None else _rows(self.cameras, index)
        reference = None if self.reference is None else self.reference.select(index)
        surface = None if self.surface is None else self.surface[send(index, self.surface.device)]
        skies = None if self.skies is None else self.skies[send(index, self.skies.kind.device)]
        return Condition(self.text.select(rows), cameras, reference, surface, skies)

    @staticmethod
    def cat(parts: Sequence[Condition]) -> Condition:
        """The rows of several conditions, one after the other.

        Raises ValueError if some of them tell a camera, say, or a surface, and others don't.
        """
        cameras = [part.cameras for part in parts if part.cameras is not None]
        references = [part.reference for part in parts if part.reference is not None]
        surfaces = [part.surface for part in parts if part.surface is not None]
        skies = [part.skies for part in parts if part.skies is not None]
        told = {
            "cameras": cameras,
            "reference": references,
            "surface": surfaces,
            "skies": skies,
        }
        for name, found in told.items():
            if found and len(found) != len(parts):
                raise ValueError(f"{name}: expected in all of {len(parts)} parts or in none")
        return Condition(
            TextEmbedding.cat([part.text for part in parts]),
            Cameras.cat(cameras) if cameras else None,
            Reference.cat(references) if references else None,
            torch.cat(surfaces) if surfaces else None,
            Skies.cat(skies) if skies else None,
        )


def _rows(cameras: Cameras, index: Tensor) -> Cameras:
    return cameras[send(index, cameras.azimuth.device)]


class Prior(ABC):
    """A text-to-image model as score distillation sees it.

    Attributes set by every adapter:
        space: "pixel" (x is the image) or "latent" (x is what the VAE makes of it).
        resolution: height and width in pixels of the images `encode_image` takes.
        takes_camera: whether it makes use of a condition's cameras.
        takes_reference: whether it makes use of a condition's reference.
        takes_surface: whether it makes use of a condition's surface.
        takes_skies: whether it makes use of a condition's skies.
        group: how many views of one object it denoises jointly: rows come in runs of so many,
            views of one elevation, evenly around the object, all at one timestep.
        schedule: the noise levels.
    """

    space: Literal["pixel", "latent"]
    resolution: int
    takes_camera: bool
    takes_reference: bool = False
    takes_surface: bool = False
    takes_skies: bool = False
    group: int = 1
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

    def encode_reference(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the model makes of a picture `[H, W, 3]` in [0, 1] that it is told: x and token.

        See `Reference`; here x is that of any image, `[1, C, h, w]`, and there is no token.
        """
        return self.encode_image(image[None]), None

    @abstractmethod
    def predict_noise(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The noise the model sees in `x_t`.

        x_t: `[B, C, h, w]`; t: int64 `[B]` timesteps in [0, T); condition: B rows.
        Returns the predicted noise `[B, C, h, w]`, outside the autograd graph.
        """

    def decode_image(self, x: Tensor) -> Tensor | None:
        """From x to images `[B, H, W, 3]` in [0, 1], without a gradient; None if nothing decodes.

        What pixel models see is the image itself, so they decode nothing.
        """
        return None

    @contextmanager
    def memory_advice(self) -> Iterator[None]:
        """Turn running out of the device's memory within the block into a `UserError`."""
        yield
