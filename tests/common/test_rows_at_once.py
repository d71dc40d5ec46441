"""A card that can't hold all rows at once takes fewer: slower, and with the same answer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from maquette.common.config.priors import PriorConfig
from maquette.common.errors import UserError
from maquette.common.priors.base import Condition
from maquette.common.priors.loading import load_prior, save_memory
from maquette.common.priors.pretrained import PretrainedPrior
from tests.reference.tiny_models import RESOLUTION, build


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sd15", tmp_path_factory.mktemp("models") / "sd15")


def asked(prior: PretrainedPrior) -> torch.Tensor:
    """The noise in five rows, each under another text."""
    texts = prior.encode_text(["", "a chair", "a red chair", "a house", "a boat"])
    x = torch.randn(5, *prior.latent_shape, generator=torch.Generator().manual_seed(1))
    return prior.predict_noise(x, torch.tensor([10, 200, 400, 600, 900]), Condition(texts))


def small(prior: PretrainedPrior, most: int) -> list[int]:
    """Let a prior's denoiser run out of memory above `most` rows; the sizes that it was asked."""
    denoise, sizes = prior.denoise, []

    def limited(x_t, t, condition):
        sizes.append(len(x_t))
        if len(x_t) > most:
            raise torch.OutOfMemoryError("out of memory")
        return denoise(x_t, t, condition)

    prior.denoise = limited
    return sizes


def loaded(folder: Path, **options) -> PretrainedPrior:
    return load_prior(PriorConfig(name=str(folder), resolution=RESOLUTION, **options))


def test_rows_are_halved_until_they_fit_and_stay_so(folder: Path) -> None:
    prior = loaded(folder)
    told: list[str] = []
    prior.tell = told.append
    whole = asked(prior)
    sizes = small(prior, 2)
    assert torch.allclose(asked(prior), whole, atol=1e-5)
    assert sizes == [5, 2, 2, 1]
    assert prior.rows_at_once == 2
    asked(prior)
    assert sizes[4:] == [2, 2, 1]
    assert len(told) == 1  # once, however often it was halved and whatever comes after
    assert "with 5 rows; it takes 2 at a time" in told[0]


def test_the_user_may_say_how_many(folder: Path) -> None:
    prior = loaded(folder, rows_at_once=3)
    sizes = small(prior, 3)
    whole = asked(loaded(folder))
    assert torch.allclose(asked(prior), whole, atol=1e-5)
    assert sizes == [3, 2]


def test_networks_take_the_layout_and_the_dtype_that_are_chosen(folder: Path) -> None:
    plain, other = loaded(folder), loaded(folder, vae_dtype="bfloat16", channels_last=True)
    assert other.vae.dtype == torch.bfloat16
    assert other.denoiser.dtype == torch.float32
    assert other.denoiser.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    image = torch.rand(1, RESOLUTION, RESOLUTION, 3)
    one, two = plain.encode_image(image), other.encode_image(image)
    assert two.dtype == torch.float32
    assert torch.allclose(one, two, atol=0.05 * float(one.abs().max()))
    assert torch.allclose(asked(other), asked(plain), atol=1e-4)


def test_what_a_cuda_graph_gives_is_kept_from_its_next_replay(folder: Path) -> None:
    assert PriorConfig.model_validate({"compile": True}).compile == "kernels"
    assert PriorConfig.model_validate({"compile": False}).compile == "none"
    prior = loaded(folder)
    output = torch.zeros(1, *prior.latent_shape)
    prior.denoise = lambda x_t, t, condition: output.fill_(float(t[0]))
    prior.options = prior.options.model_copy(update={"compile": "graphs"})
    told = prior.encode_text(["a chair"])
    first, second = (
        prior.predict_noise(output * 0.0, torch.tensor([t]), Condition(told)) for t in (1, 2)
    )
    assert (float(first[0, 0, 0, 0]), float(second[0, 0, 0, 0])) == (1.0, 2.0)
    with pytest.raises(UserError, match="graphs replays the denoiser where it lies"):
        save_memory(prior, prior.options.model_copy(update={"offload": "model"}))


def test_one_row_that_does_not_fit_ends_in_advice(folder: Path) -> None:
    prior = loaded(folder)
    small(prior, 0)
    with pytest.raises(UserError, match="ran out of the device's memory; try"):
        asked(prior)


def test_views_that_belong_together_stay_together(folder: Path) -> None:
    prior = loaded(folder)
    prior.group = 2
    sizes = small(prior, 3)
    asked_rows = prior.encode_text(["", "a", "b", "c", "d", "e"])
    x = torch.zeros(6, *prior.latent_shape)
    prior.predict_noise(x, torch.full((6,), 500), Condition(asked_rows))
    assert sizes == [6, 2, 2, 2]
