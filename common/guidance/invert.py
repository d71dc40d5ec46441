"""Textual inversion (Gal 2022): a text model learns a word for what one picture shows.

RealFusion and Magic123 describe their picture by such a word. One vector of the text encoder's
table is trained; everything else stays as it is. The object is shown before random greys, moved and
scaled a little, so that the word takes in the object and not the frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..config.image import ImageConfig
from ..config.priors import PriorConfig
from ..device import pick_device
from ..embedded.door import load
from ..errors import UserError
from ..files import expanded, write_whole
from ..priors.base import Condition, TextEmbedding
from ..priors.latent_unet import StableDiffusionPrior
from ..priors.pretrained import PretrainedPrior
from ..runs.picture import framed_picture

TEMPLATES = (
    "an image of a {}", "a photo of a {}", "a rendering of a {}", "a picture of one {}",
    "a close-up photo of a {}", "a bright photo of a {}", "a good photo of the {}",
)  # fmt: skip
LEAST, MOST = 0.7, 1.0
"""Sides of the object's frame as shares of what the model sees, drawn evenly."""


@dataclass(frozen=True)
class Inversion:
    """How a word is learned.

    word: what it is written as, without spaces. begin: a word whose vector it starts from. steps,
    rate: of Adam. seed: of all draws.
    """

    word: str = "<toy>"
    begin: str = "toy"
    steps: int = 3000
    rate: float = 5e-3
    seed: int = 0


def invert(
    image: str,
    prior: PriorConfig,
    out: str,
    how: Inversion,
    device: str = "auto",
    tell: Callable[[int, float], None] | None = None,
) -> Path:
    """Learn a word for a picture's object and write it as a safetensors file; returns its path.

    tell: called with each step's number and loss. Raises UserError for a picture, a model or a word
    that can't be used; nothing is written then.
    """
    place = expanded(out, "--out")
    check(how, place)
    rgba = framed_picture(ImageConfig(path=image, fill=1.0))
    model = load(prior, pick_device(device))
    if not isinstance(model, StableDiffusionPrior):
        raise UserError(
            f"{model.source} is of the family {model.family}; words are learned for Stable "
            "Diffusion 1 and 2: --prior sd15"
        )
    vector = learn(model, rgba, how, tell)
    from safetensors.torch import save

    write_whole(place, save({how.word: vector.cpu()[None].contiguous()}))
    return place


def check(how: Inversion, place: Path) -> None:
    """Raise UserError for a word, a number or a place that can't be."""
    if not how.word or any(letter.isspace() for letter in how.word):
        raise UserError(f"--word: expected one word without spaces, got {how.word!r}")
    if how.steps < 1:
        raise UserError(f"--steps: expected 1 or more, got {how.steps}")
    if place.suffix != ".safetensors" or place.is_dir() or not place.absolute().parent.is_dir():
        raise UserError(
            f"--out: expected a .safetensors file in a folder that exists, got {str(place)!r}"
        )


def learn(
    model: PretrainedPrior,
    rgba: Tensor,
    how: Inversion,
    tell: Callable[[int, float], None] | None = None,
) -> Tensor:
    """The word's vector `[width]` that makes a model's noise errors on a picture small.

    rgba: straight, `[S, S, 4]`. The model's tokenizer knows the word afterwards.
    """
    pipeline: Any = model.pipeline
    tokenizer, encoder = pipeline.tokenizer, pipeline.text_encoder.to(model.device)
    first = tokenizer(how.begin, add_special_tokens=False).input_ids
    if not first:
        raise UserError(f"--begin: the model knows no word {how.begin!r}; give a plain one")
    known = len(tokenizer(how.word, add_special_tokens=False).input_ids) == 1
    if known or tokenizer.add_tokens(how.word) == 0:
        raise UserError(f"--word: the model knows {how.word!r} already; give another")
    encoder.resize_token_embeddings(len(tokenizer))
    table = encoder.get_input_embeddings().weight.requires_grad_(True)
    row = tokenizer.convert_tokens_to_ids(how.word)
    vector = table.detach()[first[0]].float().clone()
    optimizer = torch.optim.Adam([vector], lr=how.rate)
    draws = torch.Generator().manual_seed(how.seed)
    for step in range(how.steps):
        with torch.no_grad():
            table[row] = vector.to(table)
        loss = noise_error(model, rgba, how.word, draws)
        (gradient,) = torch.autograd.grad(loss, table)
        vector.grad = gradient[row].float()
        optimizer.step()
        if tell is not None:
            tell(step + 1, float(loss.detach()))
    table.requires_grad_(False)
    return vector


def noise_error(model: PretrainedPrior, rgba: Tensor, word: str, draws: torch.Generator) -> Tensor:
    """The squared error of the noise in one view of the picture, under a text with the word."""
    number = int(torch.randint(len(TEMPLATES), (1,), generator=draws))
    pipeline: Any = model.pipeline
    tokens = pipeline.tokenizer(
        [TEMPLATES[number].format(word)],
        padding="max_length",
        max_length=pipeline.tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    states = pipeline.text_encoder(tokens.input_ids.to(model.device))[0]
    with torch.no_grad():
        x = model.encode_image(shown(rgba, model.resolution, draws)[None].to(model.device))
    t = torch.randint(len(model.schedule), (1,), generator=draws).to(x.device)
    noise = torch.randn(x.shape, generator=draws).to(x)
    x_t = model.schedule.add_noise(x, noise, t)
    text = TextEmbedding((word,), {"states": states})
    return F.mse_loss(model.denoise(x_t, t, Condition(text)), noise)


def shown(rgba: Tensor, side: int, draws: torch.Generator) -> Tensor:
    """The object before a random grey, `[side, side, 3]`, at a random place and size.

    rgba: straight, `[S, S, 4]`, the object filling the frame.
    """
    share, down, across, grey = torch.rand(4, generator=draws).tolist()
    inner = max(1, round(side * (LEAST + (MOST - LEAST) * share)))
    alpha = rgba[..., 3:]
    planes = torch.cat([rgba[..., :3] * alpha, alpha], dim=-1).permute(2, 0, 1)[None]
    small = F.interpolate(planes, (inner, inner), mode="bilinear", antialias=True)[0]
    top, left = round(down * (side - inner)), round(across * (side - inner))
    canvas = F.pad(small, (left, side - inner - left, top, side - inner - top))
    return (canvas[:3] + (1.0 - canvas[3:]) * grey).permute(1, 2, 0)
