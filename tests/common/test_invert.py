"""Textual inversion on a small random text model: what learns, what doesn't, and its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maquette.common.config.priors import PriorConfig
from maquette.common.errors import UserError
from maquette.common.guidance.invert import Inversion, invert, learn, noise_error, shown
from maquette.common.priors.loading import load_prior
from tests.reference.tiny_models import build


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sd15", tmp_path_factory.mktemp("models") / "sd")


def disc() -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(-1, 1, 96), torch.linspace(-1, 1, 96), indexing="ij")
    rgba = torch.zeros(96, 96, 4)
    inside = x**2 + y**2 < 0.9
    rgba[inside] = torch.tensor([0.8, 0.1, 0.2, 1.0])
    return rgba


def test_the_vector_alone_learns_and_the_error_falls(folder: Path) -> None:
    prior = load_prior(PriorConfig(name=str(folder)))
    before = {k: v.clone() for k, v in prior.pipeline.unet.state_dict().items()}
    table = prior.pipeline.text_encoder.get_input_embeddings().weight.detach().clone()
    how = Inversion(word="<disc>", begin="chair", steps=60, rate=0.05)
    vector = learn(prior, disc(), how)
    known = prior.pipeline.text_encoder.get_input_embeddings().weight
    assert len(known) == len(table) + 1
    assert torch.equal(known[:-1], table)
    assert all(torch.equal(v, before[k]) for k, v in prior.pipeline.unet.state_dict().items())
    start = table[prior.pipeline.tokenizer("chair", add_special_tokens=False).input_ids[0]]
    assert float((vector - start).abs().max()) > 0.05

    def error(value: torch.Tensor) -> float:
        draws = torch.Generator().manual_seed(7)
        with torch.no_grad():
            known[-1] = value
            each = [float(noise_error(prior, disc(), "<disc>", draws)) for _ in range(24)]
        return sum(each)

    assert error(vector) < error(start)


def test_a_word_is_written_and_read_by_a_prior(folder: Path, tmp_path: Path) -> None:
    picture = tmp_path / "disc.png"
    values = (disc().numpy() * 255).astype(np.uint8)
    Image.fromarray(values).save(picture)
    how = Inversion(word="<disc>", begin="chair", steps=2, rate=0.05)
    losses: list[float] = []
    out = invert(
        str(picture), PriorConfig(name=str(folder)), str(tmp_path / "word.safetensors"), how,
        "cpu", lambda step, loss: losses.append(loss),
    )  # fmt: skip
    assert len(losses) == 2
    told = load_prior(PriorConfig(name=str(folder), textual_inversions=[str(out)]))
    plain = load_prior(PriorConfig(name=str(folder)))
    texts = ["a photo of a <disc>", "a photo of a chair"]
    one, other = (p.encode_text(texts).tensors["states"] for p in (told, plain))
    assert float((one[0] - other[0]).abs().max()) > 1e-3
    torch.testing.assert_close(one[1], other[1])


def test_what_can_t_be_is_told_and_nothing_is_written(folder: Path, tmp_path: Path) -> None:
    prior, out = PriorConfig(name=str(folder)), tmp_path / "word.safetensors"
    picture = tmp_path / "disc.png"
    Image.fromarray((disc().numpy() * 255).astype(np.uint8)).save(picture)
    for image, place, how, words in (
        (picture, out, Inversion(word="two words"), "without spaces"),
        (picture, out, Inversion(steps=0), "--steps"),
        (picture, tmp_path / "word.bin", Inversion(), "safetensors"),
        (picture, tmp_path / "no" / "word.safetensors", Inversion(), "folder that exists"),
        (tmp_path / "nowhere.png", out, Inversion(), "no file"),
        (picture, out, Inversion(word="chair", begin="red", steps=1), "knows 'chair' already"),
    ):
        with pytest.raises(UserError, match=words):
            invert(str(image), prior, str(place), how, "cpu")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["disc.png"]


def test_the_object_is_shown_before_greys_at_many_places() -> None:
    draws = torch.Generator().manual_seed(0)
    views = torch.stack([shown(disc(), 32, draws) for _ in range(20)])
    assert views.shape == (20, 32, 32, 3)
    assert 0.0 <= float(views.min()) <= float(views.max()) <= 1.0
    corners = views[:, 0, 0]
    assert float((corners.amax(dim=-1) - corners.amin(dim=-1)).max()) < 1e-5  # greys
    assert float(corners[:, 0].std()) > 0.1
    red = (views[..., 0] - views[..., 1] > 0.4).float()
    assert float(red.sum(dim=(1, 2)).std()) > 20.0
